//! What the gateway asks: which function a host stands for, which revision a request goes to, and who serves it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{
    function::{FunctionRecord, RevisionRecord, Split, names},
    sandbox::Desired,
};
use sandbar_node::Runtime;

use super::{
    Known,
    pool::{Audience, InFlight, Place, Pool, Why, unavailable},
    source::SourceInFlight,
};
use crate::{app::App, error::ApiError};

/// What is told to a request for which nobody came in time.
const LATE: &str = "no instance was ready in time";

/// What a function's public host stands for now.
#[derive(Debug, Clone)]
pub(crate) struct FunctionHost {
    pub function: Arc<FunctionRecord>,
    pub alias: String,
    pub(super) split: Split,
    pub(super) known: Arc<Known>,
    main: Arc<RevisionRecord>,
}

/// What a label stands for.
#[derive(Debug, Clone)]
pub(crate) enum FunctionLookup {
    NotFound,
    Disabled,
    /// The alias points to nothing that is there.
    NoRevision,
    Found(FunctionHost),
}

/// A place that serves a request. It counts as in flight until it is dropped.
pub(crate) struct Lease {
    pub runtime: Arc<Runtime>,
    pub sandbox_id: String,
    pub(super) _held: Held,
}

/// Why an instance does not serve a request.
enum Closed {
    /// It never will.
    Gone(Why),
    /// Not within the request's time.
    Late(Why),
}

/// Where a request counts.
#[expect(dead_code, reason = "held for what happens when it is dropped")]
pub(super) enum Held {
    Instance(InFlight),
    Source(SourceInFlight),
}

impl App {
    /// What the first label of a host stands for, in lower case: `<domain_label>` or `<alias>--<domain_label>`. Answered from
    /// memory, but for the first time after a change.
    pub(crate) async fn function_by_label(&self, label: &str) -> Result<FunctionLookup, ApiError> {
        let (alias, domain_label) = names::parse_label(label);
        let Some(known) = self.known_by_label(domain_label).await? else { return Ok(FunctionLookup::NotFound) };
        let Some(split) = known.aliases.get(alias).cloned() else { return Ok(FunctionLookup::NotFound) };
        if !known.function.enabled {
            return Ok(FunctionLookup::Disabled);
        }
        let Some(main) = split.main().and_then(|target| known.revisions.get(&target.revision_id)).cloned() else { return Ok(FunctionLookup::NoRevision) };
        Ok(FunctionLookup::Found(FunctionHost { function: Arc::clone(&known.function), alias: alias.to_owned(), split, main, known }))
    }

    /// A place that serves this revision now; starts one when needed and waits for it, up to `within`. `avoid` are the sandboxes
    /// in which this request has just found nobody answering: they are looked at again before they are believed.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        host: &FunctionHost,
        revision: &Arc<RevisionRecord>,
        avoid: &[String],
        within: Duration,
    ) -> Result<Lease, ApiError> {
        let until = Instant::now() + within;
        // The rest is for an instance that has to take over.
        if let Some(lease) = self.acquire_source(host, revision, avoid, within / 2).await {
            return Ok(lease);
        }
        // What is behind a credential is told to who has it, whoever else asks.
        let routes = &revision.service.ingress.routes;
        let to = if routes.iter().all(|route| route.credential_header().is_some()) { Audience::Owner } else { Audience::Stranger };
        self.acquire_own((&host.function, revision), avoid, to, until.saturating_duration_since(Instant::now())).await
    }

    /// A place in an instance of the revision.
    pub(super) async fn acquire_own(
        self: &Arc<Self>,
        (function, revision): (&FunctionRecord, &Arc<RevisionRecord>),
        avoid: &[String],
        to: Audience,
        within: Duration,
    ) -> Result<Lease, ApiError> {
        let until = Instant::now() + within;
        let pool = self.functions.pools.of(revision);
        for id in avoid {
            self.look_again(&pool, id);
        }
        let mut waits = None;
        loop {
            let changed = pool.changed();
            tokio::pin!(changed);
            // Before the look, so that what changes after it is not missed.
            changed.as_mut().enable();
            let (place, start) = pool.place(&mut waits, &function.autoscaling);
            for id in start {
                self.start_instance(&pool, id);
            }
            match place {
                Place::Serve(in_flight) => {
                    let sandbox_id = in_flight.sandbox_id.clone();
                    match self.enter(in_flight, revision, until).await {
                        Ok(lease) => return Ok(lease),
                        Err(Closed::Gone(why)) => self.lose_instance(&pool, &sandbox_id, why),
                        Err(Closed::Late(why)) => {
                            // The time of one request is no measure for an instance.
                            self.look_again(&pool, &sandbox_id);
                            return Err(unavailable(revision, why.told(to), Duration::from_secs(1)));
                        }
                    }
                    if Instant::now() >= until {
                        return Err(unavailable(revision, LATE, Duration::from_secs(1)));
                    }
                }
                Place::Refused(why, wait) => return Err(unavailable(revision, why.told(to), wait)),
                Place::Full => return Err(unavailable(revision, "too many requests wait for an instance", Duration::from_secs(1))),
                Place::Wait(again_at) => {
                    let late = tokio::time::timeout_at(again_at.unwrap_or(until).min(until).into(), changed).await.is_err();
                    if late && Instant::now() >= until {
                        let failure = pool.failure();
                        let reason = failure.as_ref().map_or(LATE, |failure| failure.why.told(to));
                        return Err(unavailable(revision, reason, Duration::from_secs(1)));
                    }
                }
            }
        }
    }

    /// Makes sure that somebody answers in an instance.
    async fn enter(self: &Arc<Self>, in_flight: InFlight, revision: &RevisionRecord, until: Instant) -> Result<Lease, Closed> {
        let looked = self.look(&in_flight.sandbox_id).await.map_err(|error| Closed::Late(error.into()))?;
        let (sandbox, runtime) = match looked {
            Some((record, Some(runtime))) => (record, runtime),
            // Somebody paused it; what ended by itself is replaced.
            Some((record, None)) if record.desired == Desired::Paused => self.wake(&record).await.map_err(|error| Closed::Gone(error.into()))?,
            Some((record, None)) => {
                let full = format!("its processes ended: {}", record.reason.as_deref().unwrap_or("the reason is not known"));
                return Err(Closed::Gone(Why { full, ..Why::from("its processes ended") }));
            }
            None => return Err(Closed::Gone(Why::from("it was deleted"))),
        };
        if !self.is_service_up(&sandbox, &runtime, &revision.service) {
            let within = until.saturating_duration_since(Instant::now());
            if let Err(error) = self.ensure_service(&sandbox, &runtime, &revision.service, within).await {
                let why = Why::of_service(&error);
                return Err(if Instant::now() >= until { Closed::Late(why) } else { Closed::Gone(why) });
            }
        }
        Ok(Lease { runtime, sandbox_id: sandbox.id.clone(), _held: Held::Instance(in_flight) })
    }

    /// Looks whether anybody answers in an instance, once however many ask. Meanwhile it gets no requests.
    fn look_again(self: &Arc<Self>, pool: &Arc<Pool>, sandbox_id: &str) {
        if !pool.doubt(sandbox_id) {
            return;
        }
        let (app, pool, id) = (Arc::clone(self), Arc::clone(pool), sandbox_id.to_owned());
        self.sandboxes.tasks.spawn(async move {
            let answers = async {
                let Some((record, Some(runtime))) = app.look(&id).await? else { return Err(Why::from("its processes ended")) };
                let up = app.ensure_service_again(&record, &runtime, &pool.revision.service, super::instances::READY_WITHIN).await;
                up.map_err(|error| Why::of_service(&error))
            };
            match answers.await {
                Ok(()) => pool.trust(&id),
                Err(why) => app.lose_instance(&pool, &id, why),
            }
        });
    }
}

impl FunctionHost {
    /// The revision that a request goes to, and what its client is to send with the next ones so as to stay with it. `sticky` is
    /// what it sent, `random` is from 0 to 1.
    pub(crate) fn choose(&self, sticky: Option<&str>, random: f64) -> (Arc<RevisionRecord>, Option<String>) {
        let before = sticky.and_then(|value| value.parse().ok());
        let target = self.split.choose(before, random).and_then(|index| self.split.targets.get(index));
        let revision = target.and_then(|target| self.known.revisions.get(&target.revision_id)).unwrap_or(&self.main);
        (Arc::clone(revision), self.split.sticky.then(|| revision.number.to_string()))
    }
}
