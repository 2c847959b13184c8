//! How many instances a revision has, which of them a request goes to, and which of them go.

use std::time::Duration;

use super::Autoscaling;
use crate::limits;

/// What is known of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    pub stage: Stage,
    /// Requests that it serves.
    pub in_flight: usize,
    /// Since its last request ended; since it is ready when there was none.
    pub idle: Duration,
    /// A request just found nobody answering in it.
    pub avoided: bool,
}

/// What an instance is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Starting,
    Ready,
    /// Serves until another is there in its place.
    Retiring,
    /// Serves only what it has begun.
    Draining,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Position of an instance; none = the request has to wait.
    pub instance: Option<usize>,
    /// How many instances are to be started besides.
    pub start: usize,
}

/// Chooses for one more request, while `waiting` others wait. A ready instance below the target takes it, the one with
/// the least to do. With all of them at their target and room for more, another is started and the request does not wait
/// for it. Only when no more can be started does it wait for its turn.
pub fn choose(instances: &[Instance], waiting: usize, scaling: &Autoscaling) -> Choice {
    let best = |stage: Stage| {
        let ready = instances.iter().enumerate().filter(|(_, instance)| instance.stage == stage && !instance.avoided);
        ready.min_by_key(|(_, instance)| instance.in_flight).map(|(index, _)| index)
    };
    let found = best(Stage::Ready).or_else(|| best(Stage::Retiring));
    let counted = counted(instances);
    let max = scaling.max_active as usize;
    let in_flight: usize = instances.iter().filter(|instance| is_current(instance)).map(|instance| instance.in_flight).sum();
    let wanted = wanted(in_flight + waiting + 1, scaling);
    let start = startable(instances, wanted.saturating_sub(counted));
    let more_come = counted < max || has(instances, Stage::Starting);
    let instance = found.filter(|index| instances[*index].in_flight < scaling.target_concurrency as usize || more_come);
    // Nobody is there to take it, whatever the figures say: those that are there were just found not to answer.
    let start = if found.is_none() && start == 0 && !has(instances, Stage::Starting) && counted < max { startable(instances, 1) } else { start };
    Choice { instance, start }
}

/// How many more requests are served before every instance has its fill.
pub fn free(instances: &[Instance], scaling: &Autoscaling) -> usize {
    let serving = instances.iter().filter(|instance| matches!(instance.stage, Stage::Ready | Stage::Retiring) && !instance.avoided);
    serving.map(|instance| (scaling.target_concurrency as usize).saturating_sub(instance.in_flight)).sum()
}

/// How many are to be started so that as many are warm as are always wanted, and one for each that is to be replaced.
pub fn missing(instances: &[Instance], serves: bool, scaling: &Autoscaling) -> usize {
    let wanted = match (serves, has(instances, Stage::Retiring)) {
        (false, _) => 0,
        (true, true) => scaling.min_warm.max(1) as usize,
        (true, false) => scaling.min_warm as usize,
    };
    startable(instances, wanted.saturating_sub(counted(instances)))
}

/// Which instances are to take no more requests, by position. `serves` says whether an alias sends requests here.
pub fn surplus(instances: &[Instance], serves: bool, scaling: &Autoscaling) -> Vec<usize> {
    let mut out = Vec::new();
    if has(instances, Stage::Ready) {
        out.extend((0..instances.len()).filter(|index| instances[*index].stage == Stage::Retiring));
    }
    let after = Duration::from_secs(u64::from(scaling.scale_down_after_seconds));
    let (keep, after) = match serves {
        true => (scaling.min_warm as usize, after),
        false => (0, after.min(Duration::from_secs(limits::FUNCTION_INACTIVE_KEEP_S))),
    };
    let mut idle: Vec<usize> = (0..instances.len())
        .filter(|index| {
            let instance = &instances[*index];
            instance.in_flight == 0 && instance.idle >= after && (instance.stage == Stage::Ready || (!serves && instance.stage == Stage::Retiring))
        })
        .filter(|index| !out.contains(index))
        .collect();
    idle.sort_by_key(|index| std::cmp::Reverse(instances[*index].idle));
    let ready = instances.iter().filter(|instance| instance.stage == Stage::Ready).count();
    idle.truncate(ready.saturating_sub(keep).max(if serves { 0 } else { idle.len() }));
    out.extend(idle);
    out
}

/// How long nobody tries again after so many failures in a row.
pub fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    Duration::from_secs((limits::FUNCTION_BACKOFF_MIN_S << doublings).min(limits::FUNCTION_BACKOFF_MAX_S))
}

fn wanted(requests: usize, scaling: &Autoscaling) -> usize {
    let needed = requests.div_ceil((scaling.target_concurrency as usize).max(1));
    needed.max(scaling.min_warm as usize).min(scaling.max_active as usize)
}

fn startable(instances: &[Instance], more: usize) -> usize {
    let starting = instances.iter().filter(|instance| instance.stage == Stage::Starting).count();
    more.min(limits::FUNCTION_STARTS_MAX.saturating_sub(starting))
}

/// Those that count against the limit: what is being replaced or drained goes by itself.
fn counted(instances: &[Instance]) -> usize {
    instances.iter().filter(|instance| is_current(instance)).count()
}

fn is_current(instance: &Instance) -> bool {
    matches!(instance.stage, Stage::Starting | Stage::Ready)
}

fn has(instances: &[Instance], stage: Stage) -> bool {
    instances.iter().any(|instance| instance.stage == stage)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO: Autoscaling = Autoscaling { min_warm: 0, max_active: 2, target_concurrency: 2, scale_down_after_seconds: 300 };

    fn of(stage: Stage, in_flight: usize) -> Instance {
        Instance { stage, in_flight, idle: Duration::ZERO, avoided: false }
    }

    fn idle(stage: Stage, seconds: u64) -> Instance {
        Instance { idle: Duration::from_secs(seconds), ..of(stage, 0) }
    }

    #[test]
    fn what_is_free_is_below_the_target() {
        use Stage::{Draining, Ready, Retiring, Starting};
        let doubted = Instance { avoided: true, ..of(Ready, 0) };
        for (instances, free_places) in
            [(vec![], 0), (vec![of(Ready, 0), of(Retiring, 1)], 3), (vec![of(Ready, 2), of(Ready, 5)], 0), (vec![of(Starting, 0), of(Draining, 0), doubted], 0)]
        {
            assert_eq!(free(&instances, &TWO), free_places, "{instances:?}");
        }
    }

    #[test]
    fn a_request_finds_its_place() {
        use Stage::{Draining, Ready, Retiring, Starting};
        for (what, instances, waiting, instance, start) in [
            ("the first starts one", vec![], 0, None, 1),
            ("the second waits for the same", vec![of(Starting, 0)], 1, None, 0),
            ("more than one can serve start another", vec![of(Starting, 0)], 2, None, 1),
            ("the least busy takes it", vec![of(Ready, 1), of(Ready, 0)], 0, Some(1), 0),
            ("at the target another is started and nobody waits", vec![of(Ready, 2)], 0, Some(0), 1),
            ("while that starts the first goes on", vec![of(Ready, 3), of(Starting, 0)], 0, Some(0), 0),
            ("at the limit it waits", vec![of(Ready, 2), of(Ready, 2)], 0, None, 0),
            ("what is replaced serves until the other is there", vec![of(Retiring, 0), of(Starting, 0)], 0, Some(0), 0),
            ("then no more", vec![of(Retiring, 0), of(Ready, 1)], 0, Some(1), 0),
            ("what drains takes nothing", vec![of(Draining, 0)], 0, None, 1),
        ] {
            assert_eq!(choose(&instances, waiting, &TWO), Choice { instance, start }, "{what}");
        }
        let deaf = Instance { avoided: true, ..of(Ready, 0) };
        assert_eq!(choose(&[deaf], 0, &TWO), Choice { instance: None, start: 1 }, "another is started for one that does not answer");
        assert_eq!(choose(&[deaf, of(Ready, 1)], 0, &TWO).instance, Some(1));
    }

    #[test]
    fn as_many_are_warm_as_are_wanted() {
        let warm = Autoscaling { min_warm: 3, max_active: 5, ..TWO };
        assert_eq!(missing(&[], true, &warm), limits::FUNCTION_STARTS_MAX, "a few at a time");
        assert_eq!(missing(&[of(Stage::Ready, 0), of(Stage::Ready, 0)], true, &warm), 1);
        assert_eq!(missing(&[of(Stage::Starting, 0); 2], true, &warm), 0, "no more than a few at a time");
        assert_eq!(missing(&[], false, &warm), 0, "none where nobody comes");
        assert_eq!(missing(&[of(Stage::Retiring, 0)], true, &TWO), 1, "what is replaced needs another");
        assert_eq!(missing(&[of(Stage::Retiring, 0), of(Stage::Starting, 0)], true, &TWO), 0);
        assert_eq!(missing(&[], true, &TWO), 0);
        assert_eq!(missing(&[of(Stage::Retiring, 0)], false, &TWO), 0, "where nobody comes it goes without");
    }

    #[test]
    fn idle_ones_go() {
        let warm = Autoscaling { min_warm: 1, ..TWO };
        use Stage::{Ready, Retiring};
        assert_eq!(surplus(&[idle(Ready, 300), idle(Ready, 299)], true, &TWO), [0]);
        assert_eq!(surplus(&[idle(Ready, 300), idle(Ready, 301)], true, &warm), [1], "the longest idle goes, one stays warm");
        assert_eq!(surplus(&[idle(Ready, 400)], true, &warm), Vec::<usize>::new());
        assert_eq!(surplus(&[Instance { in_flight: 1, ..idle(Ready, 999) }], true, &TWO), Vec::<usize>::new());
        assert_eq!(surplus(&[idle(Ready, 60), idle(Ready, 59)], false, &warm), [0], "where nobody comes sooner, and the last too");
        assert_eq!(surplus(&[of(Retiring, 3), of(Ready, 0)], true, &TWO), [0], "what was replaced");
        assert_eq!(surplus(&[of(Retiring, 3), of(Stage::Starting, 0)], true, &TWO), Vec::<usize>::new());
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let seconds: Vec<u64> = [0, 1, 2, 3, 6, 7, 8, 1000, u32::MAX].map(|failures| backoff(failures).as_secs()).into();
        assert_eq!(seconds, [1, 1, 2, 4, 32, 60, 60, 60, 60]);
    }

    fn instance() -> impl Strategy<Value = Instance> {
        let stage = prop_oneof![Just(Stage::Starting), Just(Stage::Ready), Just(Stage::Retiring), Just(Stage::Draining)];
        (stage, 0usize..5, 0u64..500, any::<bool>()).prop_map(|(stage, in_flight, idle, avoided)| {
            let in_flight = if stage == Stage::Starting { 0 } else { in_flight };
            Instance { stage, in_flight, idle: Duration::from_secs(idle), avoided }
        })
    }

    proptest! {
        #[test]
        fn limits_hold(instances in prop::collection::vec(instance(), 0..6), waiting in 0usize..9, min in 0u32..3, max in 1u32..5, target in 1u32..4) {
            let scaling = Autoscaling { min_warm: min.min(max), max_active: max, target_concurrency: target, scale_down_after_seconds: 30 };
            let choice = choose(&instances, waiting, &scaling);
            let counted = counted(&instances);
            prop_assert!(choice.start == 0 || counted + choice.start <= max as usize, "never more than the limit");
            match choice.instance {
                Some(index) => prop_assert!(!instances[index].avoided && matches!(instances[index].stage, Stage::Ready | Stage::Retiring)),
                // Who waits waits for something: a start, or an instance that has its fill.
                None => prop_assert!(choice.start > 0 || counted > 0),
            }
            let starting = instances.iter().filter(|i| i.stage == Stage::Starting).count();
            prop_assert!(starting + choice.start <= limits::FUNCTION_STARTS_MAX.max(starting));
            for index in surplus(&instances, true, &scaling) {
                prop_assert!(instances[index].stage == Stage::Retiring || (instances[index].stage == Stage::Ready && instances[index].in_flight == 0));
            }
            let stay = instances.iter().enumerate().filter(|(i, x)| x.stage == Stage::Ready && !surplus(&instances, true, &scaling).contains(i)).count();
            let ready = instances.iter().filter(|x| x.stage == Stage::Ready).count();
            prop_assert!(stay >= ready.min(scaling.min_warm as usize), "scaling down leaves the warm ones");
        }
    }
}
