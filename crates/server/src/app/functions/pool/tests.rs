use sandbar_core::service::{Ingress, Service};

use super::*;

const ONE: Autoscaling = Autoscaling { min_warm: 0, max_active: 1, target_concurrency: 1, scale_down_after_seconds: 30 };

fn pool() -> Arc<Pool> {
    let service = Service { id: "api".into(), display_name: None, port: 1, runtime: None, ingress: Ingress::default(), health_check: None };
    let revision = RevisionRecord {
        id: "r".into(),
        function_id: "f".into(),
        team_id: "t".into(),
        number: 1,
        source: sandbar_core::function::Source::RevisionSpec,
        template_id: "default".into(),
        template: Default::default(),
        config: Default::default(),
        base: Default::default(),
        mounts: Vec::new(),
        service_snapshot: serde_json::Value::Null,
        service: Arc::new(service),
        spec: None,
        provenance: None,
        created_by: None,
        created_at_ms: 0,
    };
    Pools::default().of(&Arc::new(revision))
}

/// The id of the one instance that is to be started.
fn begun(pool: &Arc<Pool>, waits: &mut Option<Waiting>) -> String {
    let (place, mut start) = pool.place(waits, &ONE);
    assert!(matches!(place, Place::Wait(_)) && start.len() == 1, "{start:?}");
    start.remove(0)
}

fn served(pool: &Arc<Pool>, waits: &mut Option<Waiting>) -> InFlight {
    match pool.place(waits, &ONE) {
        (Place::Serve(in_flight), start) if start.is_empty() => in_flight,
        _ => panic!("it is not served"),
    }
}

fn waits(pool: &Arc<Pool>, waits: &mut Option<Waiting>) -> bool {
    matches!(pool.place(waits, &ONE), (Place::Wait(_), start) if start.is_empty())
}

#[test]
fn one_starts_all_wait_and_one_after_the_other_is_served() {
    let pool = pool();
    let (mut first, mut second) = (None, None);
    let id = begun(&pool, &mut first);
    assert!(waits(&pool, &mut second) && waits(&pool, &mut first), "asking again starts no other");
    pool.ready(&id, 5);
    let in_flight = served(&pool, &mut first);
    assert_eq!(in_flight.sandbox_id, id);
    assert!(waits(&pool, &mut second), "it has its fill");
    drop(in_flight);
    drop(served(&pool, &mut second));
    drop((first, second));
    assert_eq!(pool.lock().waiting, 0);
}

#[test]
fn who_waits_has_its_turn_before_who_comes() {
    let pool = pool();
    let (mut first, mut second) = (None, None);
    let id = begun(&pool, &mut first);
    pool.ready(&id, 5);
    let in_flight = served(&pool, &mut first);
    assert!(first.is_none(), "what is served does not wait");
    assert!(waits(&pool, &mut second));
    drop(in_flight);
    let mut late = None;
    assert!(waits(&pool, &mut late), "the place is the second's");
    drop(served(&pool, &mut second));
    drop(served(&pool, &mut late));
    assert_eq!(pool.lock().waiting, 0);
}

#[tokio::test]
async fn a_turn_that_nobody_takes_goes_on() {
    let pool = pool();
    let (mut first, mut late) = (None, None);
    let id = begun(&pool, &mut None);
    assert!(waits(&pool, &mut first));
    pool.ready(&id, 5);
    let changed = pool.changed();
    tokio::pin!(changed);
    changed.as_mut().enable();
    assert!(waits(&pool, &mut late));
    drop(first);
    tokio::time::timeout(Duration::from_secs(60), changed).await.expect("it is woken");
    drop(served(&pool, &mut late));
}

#[test]
fn as_many_wait_as_may() {
    let pool = pool();
    let mut all: Vec<Option<Waiting>> = (0..limits::FUNCTION_WAITING_MAX).map(|_| None).collect();
    for waiting in &mut all {
        assert!(matches!(pool.place(waiting, &ONE).0, Place::Wait(_)));
    }
    assert!(matches!(pool.place(&mut None, &ONE).0, Place::Full));
    all.pop();
    assert!(matches!(pool.place(&mut None, &ONE).0, Place::Wait(_)));
}

#[test]
fn a_failed_start_is_told_to_all_until_its_time_has_passed() {
    let pool = pool();
    let id = begun(&pool, &mut None);
    pool.lost(&id, "it broke");
    let (Place::Refused(reason, wait), start) = pool.place(&mut None, &ONE) else { panic!("it is not refused") };
    assert!(reason == Why::from("it broke") && wait <= scale::backoff(1) && start.is_empty());
    assert_eq!(pool.plan(true, false, &Autoscaling { min_warm: 1, ..ONE }).start.len(), 0, "nobody else tries either");
    pool.lock().failure.as_mut().expect("a failure").until = Instant::now();
    let id = begun(&pool, &mut None);
    pool.lost(&id, "again");
    assert_eq!(pool.failure().map(|failure| failure.count), Some(2), "the next wait is longer");
    pool.retire();
    let id = begun(&pool, &mut None);
    pool.ready(&id, 1);
    assert!(pool.failure().is_none(), "who is ready ends it");
}

#[test]
fn strangers_are_told_less() {
    let printed = format!("service \"api\" ended with exit code 3{PRINTED}a secret | of its owner");
    for (why, told) in [
        (Why::from("it was deleted"), "it was deleted"),
        (Why::of_service(&ApiError::unavailable(printed.clone())), "service \"api\" ended with exit code 3"),
        (Why::from(ApiError::unavailable("cannot open /var/lib/sandbar/x")), "an instance could not be started"),
    ] {
        assert_eq!((why.told(Audience::Stranger), why.told(Audience::Owner)), (told, why.full.as_str()));
    }
    assert_eq!(Why::of_service(&ApiError::unavailable(printed.clone())).full, printed);
}

#[test]
fn an_accident_is_waited_out() {
    let pool = pool();
    let ends_young = |pool: &Arc<Pool>| {
        let id = begun(pool, &mut None);
        pool.ready(&id, 1);
        pool.lost(&id, "it ended");
    };
    ends_young(&pool);
    // The first time another is started at once; the second time whoever comes waits for the next start.
    ends_young(&pool);
    let again_at = match pool.place(&mut None, &ONE) {
        (Place::Wait(Some(at)), start) if start.is_empty() => at,
        _ => panic!("it does not wait"),
    };
    assert!(again_at > Instant::now() && again_at <= Instant::now() + scale::backoff(2));
}

#[test]
fn who_is_doubted_gets_nothing_until_somebody_looked() {
    let pool = pool();
    let id = begun(&pool, &mut None);
    pool.ready(&id, 1);
    assert!(pool.doubt(&id) && !pool.doubt(&id), "one looks");
    assert!(waits(&pool, &mut None));
    pool.trust(&id);
    drop(served(&pool, &mut None));
}

#[test]
fn what_is_replaced_serves_until_the_other_is_ready() {
    let pool = pool();
    let old = begun(&pool, &mut None);
    pool.ready(&old, 1);
    assert_eq!(pool.retire(), [old.as_str()]);
    let [new] = pool.plan(true, false, &ONE).start.try_into().expect("one in its place");
    let in_flight = served(&pool, &mut None);
    assert_eq!(in_flight.sandbox_id, old);
    pool.ready(&new, 1);
    assert_eq!(served(&pool, &mut None).sandbox_id, new);
    let plan = pool.plan(true, false, &ONE);
    assert_eq!((plan.drain.as_slice(), plan.remove.len()), (&[old.clone()][..], 0), "what it has begun it ends");
    drop(in_flight);
    assert_eq!(pool.plan(true, false, &ONE).remove, [old]);
    let gone = pool.plan(false, true, &ONE);
    assert_eq!((&gone.drain, &gone.remove), (&vec![new.clone()], &vec![new]));
}
