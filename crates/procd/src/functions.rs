//! Functions: handlers in Python that are run once for each call.
//!
//! A [`zygote::Zygote`] is a process that imported a module; for each call it forks, so that the call has what was
//! imported and nothing that another call did. A call ([`call`]) is a session of its own with a socket for its request and
//! its reply, so that nothing that it prints can be taken for the reply. When it ends, what is left of its process group
//! ends too; what took a session of its own goes on.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};

use sandbar_linux::process::Ended;
use sandbar_procd_api::ErrorCode;
use sandbar_procd_api::function::{FailureKind, FunctionCall, FunctionCheck, FunctionChecked, FunctionFailure, FunctionLimit};
use serde_json::json;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::error::Failure;
use crate::http::Answer;
use crate::limits::*;

pub mod call;
pub mod hand;
mod output;
mod python;
pub mod socket;
mod zygote;

use output::Output;
use python::failure;
use zygote::{Key, Phase, Zygote};

/// Processes and calls.
#[derive(Default)]
pub struct Functions {
    /// Those that may serve again, the one used last at the end.
    kept: RefCell<Vec<Rc<Zygote>>>,
    /// By pid, to be told of their end.
    processes: RefCell<HashMap<i32, Weak<Zygote>>>,
    running: Cell<usize>,
    /// Bytes of requests that no handler has taken yet.
    waiting: Cell<usize>,
    counted: RefCell<HashMap<String, u32>>,
    /// Streams of processes that outlived their call.
    pub loose: Cell<usize>,
}

/// A place among the calls that run at once.
pub struct Place {
    agent: Rc<Agent>,
    key: Option<String>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let functions = &self.agent.functions;
        functions.running.set(functions.running.get().saturating_sub(1));
        if let Some(key) = &self.key {
            let mut counted = functions.counted.borrow_mut();
            if let Some(count) = counted.get_mut(key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    counted.remove(key);
                }
            }
        }
    }
}

/// The bytes of a request that waits for its handler.
pub struct Weight {
    agent: Rc<Agent>,
    bytes: usize,
}

impl Drop for Weight {
    fn drop(&mut self) {
        let waiting = &self.agent.functions.waiting;
        waiting.set(waiting.get().saturating_sub(self.bytes));
    }
}

impl Functions {
    /// Counts the bytes of a request.
    ///
    /// # Errors
    /// `busy`.
    pub fn weigh(agent: &Rc<Agent>, bytes: usize) -> Result<Weight, FunctionFailure> {
        let waiting = &agent.functions.waiting;
        if waiting.get() + bytes > FUNCTION_REQUESTS_BYTES_MAX {
            let max = FUNCTION_REQUESTS_BYTES_MAX >> 20;
            return Err(failure(FailureKind::Busy, format!("the requests that wait for their handlers have {max} MiB, the limit of one sandbox")));
        }
        waiting.set(waiting.get() + bytes);
        Ok(Weight { agent: agent.clone(), bytes })
    }

    /// Takes a place for one more call.
    ///
    /// # Errors
    /// `busy`.
    pub fn enter(agent: &Rc<Agent>, limit: Option<&FunctionLimit>) -> Result<Place, FunctionFailure> {
        let functions = &agent.functions;
        if functions.running.get() >= FUNCTION_CALLS_MAX {
            return Err(failure(FailureKind::Busy, format!("{FUNCTION_CALLS_MAX} calls of functions are running, the limit of one sandbox")));
        }
        if let Some(limit) = limit {
            let mut counted = functions.counted.borrow_mut();
            let count = counted.entry(limit.key.clone()).or_default();
            if *count >= limit.max.max(1) {
                return Err(failure(FailureKind::Busy, format!("{count} calls of this function are running, which is its max_concurrency")));
            }
            *count += 1;
        }
        functions.running.set(functions.running.get() + 1);
        Ok(Place { agent: agent.clone(), key: limit.map(|limit| limit.key.clone()) })
    }

    /// A process that has imported the module, and whether it is for this call alone. The one that is waited for is noted
    /// in `waited`.
    async fn obtain(
        agent: &Rc<Agent>,
        key: &Key,
        label: &str,
        cold: bool,
        waited: &RefCell<Option<Rc<Zygote>>>,
    ) -> Result<(Rc<Zygote>, bool), FunctionFailure> {
        let kept = agent.functions.kept.borrow().iter().find(|zygote| !cold && zygote.key == *key).cloned();
        let zygote = match kept {
            Some(zygote) => zygote,
            None => {
                let zygote = Zygote::start(agent, key.clone(), label)?;
                if !cold {
                    agent.functions.keep(zygote.clone());
                }
                zygote
            }
        };
        waited.replace(Some(zygote.clone()));
        match zygote.imported().await {
            Phase::Ready { once: false } if !cold => Ok((zygote, false)),
            Phase::Ready { .. } => {
                agent.functions.forget(&zygote);
                if !zygote.taken.replace(true) {
                    return Ok((zygote, true));
                }
                let own = Zygote::start(agent, key.clone(), label)?;
                own.taken.set(true);
                waited.replace(Some(own.clone()));
                match own.imported().await {
                    Phase::Ready { .. } => Ok((own, true)),
                    phase => Err(not_imported(agent, &own, phase).await),
                }
            }
            phase => Err(not_imported(agent, &zygote, phase).await),
        }
    }

    fn keep(&self, zygote: Rc<Zygote>) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= ZYGOTES_MAX {
            let least = kept.iter().enumerate().min_by_key(|(_, zygote)| (zygote.is_busy(), zygote.used.get())).map(|(at, _)| at);
            if let Some(at) = least {
                kept.remove(at);
            }
        }
        kept.push(zygote);
    }

    /// It serves no further calls, and ends after those that it serves.
    fn forget(&self, zygote: &Rc<Zygote>) {
        let gone: Vec<_> = self.kept.borrow_mut().extract_if(.., |kept| Rc::ptr_eq(kept, zygote)).collect();
        drop(gone);
    }

    /// As [`Functions::forget`], for all.
    pub fn forget_all(&self) {
        let gone = self.kept.take();
        drop(gone);
    }

    fn add_process(&self, zygote: &Rc<Zygote>) {
        self.processes.borrow_mut().insert(zygote.pid, Rc::downgrade(zygote));
    }

    /// A process was reaped that may be one of ours.
    pub fn reaped(&self, pid: i32, ended: Ended) {
        let process = self.processes.borrow_mut().remove(&pid);
        if let Some(zygote) = process.and_then(|process| process.upgrade()) {
            zygote.reaped(ended);
            if !zygote.taken.get() {
                self.forget(&zygote);
            }
        }
    }
}

async fn not_imported(agent: &Agent, zygote: &Rc<Zygote>, phase: Phase) -> FunctionFailure {
    agent.functions.forget(zygote);
    match phase {
        Phase::Failed(failure) => failure,
        Phase::Importing | Phase::Ready { .. } | Phase::Gone => {
            let ended = tokio::time::timeout(FUNCTION_END_GRACE, zygote.until(|| zygote.ended())).await.ok();
            let oom = agent.look_for_oom(None);
            failure(FailureKind::Failed, format!("Python ended while it imported the module{}", call::how(ended, oom)))
        }
    }
}

/// Answers with the frames of a call as they come.
///
/// # Errors
/// Never: what goes wrong is told in the last frame.
pub fn call(agent: &Rc<Agent>, asked: FunctionCall) -> Answer {
    let (send, receive) = mpsc::channel(2);
    tokio::task::spawn_local(call::run(agent.clone(), asked, send, None));
    let mut response = hyper::Response::new(crate::body::Body::Stream(receive));
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// Whether Python would compile a text.
///
/// # Errors
/// `operation_failed` when Python cannot be asked.
pub async fn check(agent: &Rc<Agent>, asked: FunctionCheck) -> Result<FunctionChecked, Failure> {
    let cannot = |failure: FunctionFailure| Failure::new(ErrorCode::OperationFailed, failure.message);
    let _place = Functions::enter(agent, None).map_err(cannot)?;
    let (output, [out, err]) = Output::open(agent, "").map_err(cannot)?;
    let task = json!({ "path": asked.path, "code": asked.code });
    let started = python::start(agent, "check", &task, &Default::default(), &[out.as_fd(), err.as_fd()]);
    drop((out, err));
    let pid = match started {
        Ok(pid) => pid,
        // Without Python nothing can be said against it.
        Err(failure) if failure.kind == FailureKind::NoRuntime => return Ok(FunctionChecked::default()),
        Err(failure) => return Err(cannot(failure)),
    };
    let checking = Checking { agent, pid, output: &output };
    let ended = tokio::time::timeout(FUNCTION_CHECK_MAX, output.ended()).await;
    let answer = output.text(0);
    drop(checking);
    if ended.is_err() {
        return Err(Failure::new(ErrorCode::OperationFailed, "Python did not look at the source in time"));
    }
    serde_json::from_str(&answer).map_err(|_| Failure::new(ErrorCode::OperationFailed, "Python gave no answer about the source"))
}

/// A look at a source, which ends when nobody waits for it any more.
struct Checking<'a> {
    agent: &'a Agent,
    pid: i32,
    output: &'a Output,
}

impl Drop for Checking<'_> {
    fn drop(&mut self) {
        let _ = sandbar_linux::process::signal_group_only(self.pid, 9);
        self.output.close(self.agent);
    }
}
