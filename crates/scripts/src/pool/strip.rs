//! TypeScript is read by a process that is there for one source, and ended when it takes too long. Each team has one at a time, so that the sources
//! of one, however bad, are not before those of all others.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, sync::Arc, time::Duration};

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{AcquireError, Semaphore},
    time::timeout,
};

use super::{
    Inner, Workers,
    process::{Part, Running, StartError},
};
use crate::{
    LinkError,
    frame::SyntaxError,
    link::{READY_MAX, cut_syntax_error},
    typescript::{self, SOURCE_BYTES_MAX},
    worker::strip::{MEMORY_BYTES, READY},
};

/// Sources that are read at once.
pub(super) const STRIPS_MAX: usize = 4;
/// Of them, of one team.
const TEAM_STRIPS_MAX: usize = 1;
/// What was read, in JSON, where a byte may be six.
const ANSWER_BYTES_MAX: u64 = 8 * SOURCE_BYTES_MAX as u64;
/// How a process ends that has no stack or no memory left: by the signal of the fault, or because it may not send itself one.
const EXHAUSTED: [Signal; 4] = [Signal::SYS, Signal::SEGV, Signal::BUS, Signal::ABORT];

/// Why TypeScript did not become JavaScript.
#[derive(Debug, thiserror::Error)]
pub enum StripError {
    #[error(transparent)]
    Syntax(SyntaxError),
    #[error("the TypeScript takes too long to read")]
    TooSlow,
    /// Nothing is known about the source.
    #[error("{0}")]
    Engine(String),
}

/// What came of an exchange.
enum Said {
    Answer(Result<String, SyntaxError>),
    TooSlow,
    /// It ended, or stood still, before it was ready.
    Never(LinkError),
    /// It ended without an answer.
    Nothing,
    Nonsense,
}

impl Workers {
    /// Makes JavaScript of TypeScript, the body of an async function: what is a type becomes spaces.
    ///
    /// # Errors
    /// Where the source is wrong, that it takes too long, or why nothing is known about it.
    pub async fn strip(&self, team_id: &str, source: &str) -> Result<String, StripError> {
        typescript::check_size(source).map_err(StripError::Syntax)?;
        let inner = &*self.inner;
        tokio::select! {
            biased;
            () = inner.closing.cancelled() => Err(StartError::Closed.into()),
            stripped = inner.strip(team_id, source) => stripped,
        }
    }
}

impl Inner {
    async fn strip(&self, team_id: &str, source: &str) -> Result<String, StripError> {
        let turns = self.strip_turns(team_id)?;
        let enter = async { Ok::<_, AcquireError>((turns.acquire().await?, self.strips.acquire().await?, self.reserve(MEMORY_BYTES).await?)) };
        let wait_max = self.config.wait_max;
        let entered = timeout(wait_max, enter).await;
        let entered = entered.map_err(|_| StripError::Engine(format!("there was no room to read TypeScript within {} s", wait_max.as_secs())))?;
        let _room = entered.map_err(|_| StartError::Closed)?;
        let mut running = self.launcher.launch(Part::Strip, &self.tasks).await?;
        let said = exchange(&mut running.stream, source, self.config.strip_max).await;
        understand(said, running).await
    }

    fn strip_turns(&self, team_id: &str) -> Result<Arc<Semaphore>, StripError> {
        let mut state = self.state();
        // Who has or wants a turn holds on to them.
        state.strips.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = state.strips.entry(team_id.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(TEAM_STRIPS_MAX)));
        if Arc::strong_count(turns) > self.config.waiting_max + TEAM_STRIPS_MAX {
            return Err(StripError::Engine(format!("{} sources of this team wait already", self.config.waiting_max)));
        }
        Ok(Arc::clone(turns))
    }
}

async fn exchange(stream: &mut UnixStream, source: &str, strip_max: Duration) -> Said {
    match timeout(READY_MAX, stream.read_u8()).await {
        Ok(Ok(READY)) => {}
        Ok(Ok(_)) => return Said::Never(LinkError::NotReady),
        Ok(Err(_)) => return Said::Never(LinkError::Ended),
        Err(_) => return Said::Never(LinkError::Late),
    }
    let ask = async {
        stream.write_all(source.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match timeout(strip_max, ask).await {
        Err(_) => Said::TooSlow,
        Ok(Err(_)) => Said::Nothing,
        Ok(Ok(answer)) if answer.is_empty() => Said::Nothing,
        Ok(Ok(answer)) if answer.len() as u64 > ANSWER_BYTES_MAX => Said::Nonsense,
        Ok(Ok(answer)) => serde_json::from_slice(&answer).map_or(Said::Nonsense, Said::Answer),
    }
}

/// When this returns, the process is gone.
async fn understand(said: Said, running: Running) -> Result<String, StripError> {
    let (status, complaint) = running.end().await;
    match said {
        Said::Answer(answer) => answer.map_err(|error| StripError::Syntax(cut_syntax_error(error))),
        Said::TooSlow => Err(StripError::TooSlow),
        Said::Never(error) if complaint.is_empty() => Err(StartError::Link(error).into()),
        Said::Never(error) => Err(StartError::Said(error, complaint).into()),
        Said::Nothing if status.is_some_and(is_exhausted) => {
            Err(StripError::Syntax(typescript::nowhere("the TypeScript is nested too deeply, or takes too much memory to read")))
        }
        Said::Nothing => Err(StripError::Engine(format!("the process that reads TypeScript ended without an answer: {complaint}"))),
        Said::Nonsense => Err(StripError::Engine("the process that reads TypeScript did not answer what was asked".to_owned())),
    }
}

fn is_exhausted(status: ExitStatus) -> bool {
    status.signal().is_some_and(|signal| EXHAUSTED.iter().any(|known| known.as_raw() == signal))
}

impl From<StartError> for StripError {
    fn from(error: StartError) -> Self {
        Self::Engine(format!("the process that reads TypeScript could not be started: {error}"))
    }
}
