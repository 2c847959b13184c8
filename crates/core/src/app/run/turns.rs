//! Whose run begins next.

use std::collections::HashMap;

/// A run that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub id: String,
    pub team_id: String,
    pub app_id: String,
    pub created_at_ms: i64,
}

/// How many may run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtOnce {
    pub all: usize,
    pub app: usize,
}

impl AtOnce {
    /// Of so many places one app has at most a quarter.
    pub fn of(all: usize) -> Self {
        Self { all, app: all.div_ceil(4) }
    }
}

/// Which of those that wait begin now, beside those that run (one entry for each: its team and its app). Whose turn it is goes around
/// the teams: the first of each, then the second of each, counting those that run; within a team the oldest first.
///
/// A team has at most as many places as are free besides. So one that is alone has half of them, two have a third each, and whoever
/// comes without a run meets a free place, however long those of the others take: all are only taken by as many teams as there are places.
pub fn begin_next(mut waiting: Vec<Waiting>, running: &[(String, String)], max: AtOnce) -> Vec<String> {
    let (mut teams, mut apps) = (HashMap::<&str, usize>::new(), HashMap::<&str, usize>::new());
    for (team, app) in running {
        *teams.entry(team).or_default() += 1;
        *apps.entry(app).or_default() += 1;
    }
    waiting.sort_by(|a, b| (a.created_at_ms, &a.id).cmp(&(b.created_at_ms, &b.id)));
    let mut ranked = Vec::with_capacity(waiting.len());
    for run in &waiting {
        let of_app = apps.entry(&run.app_id).or_default();
        if *of_app < max.app {
            let turn = teams.entry(&run.team_id).or_default();
            ranked.push((*turn, run.created_at_ms, &run.id));
            *of_app += 1;
            *turn += 1;
        }
    }
    ranked.sort_unstable();
    // Who comes later in this order has as many or more, and meets as many free ones or fewer.
    let mut free = max.all.saturating_sub(running.len());
    let begin = ranked.into_iter().take_while(|(has, _, _)| {
        let begins = *has < free;
        free -= usize::from(begins);
        begins
    });
    begin.map(|(_, _, id)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn waiting(rows: &[(&str, &str, &str)]) -> Vec<Waiting> {
        let row = |(at, (id, team, app)): (usize, &(&str, &str, &str))| Waiting {
            id: (*id).to_owned(),
            team_id: (*team).to_owned(),
            app_id: (*app).to_owned(),
            created_at_ms: at as i64,
        };
        rows.iter().enumerate().map(row).collect()
    }

    fn running(rows: &[(&str, &str, usize)]) -> Vec<(String, String)> {
        rows.iter().flat_map(|(team, app, count)| vec![((*team).to_owned(), (*app).to_owned()); *count]).collect()
    }

    #[test]
    fn turns_go_around_the_teams_and_nobody_has_more_than_may_be() {
        let rows = [("a1", "a", "x"), ("a2", "a", "x"), ("a3", "a", "x"), ("a4", "a", "y"), ("b1", "b", "z"), ("c1", "c", "w")];
        for (all, app, run, begin) in [
            (9, 2, &[][..], &["a1", "b1", "c1", "a2", "a4"][..]),
            (6, 2, &[], &["a1", "b1", "c1", "a2"]),
            // The last place is for who has none.
            (4, 2, &[], &["a1", "b1", "c1"]),
            (2, 2, &[], &["a1", "b1"]),
            (1, 1, &[], &["a1"]),
            // All of the app's places are taken, and other teams are first.
            (9, 2, &[("a", "x", 2)], &["b1", "c1", "a4"]),
            (4, 2, &[("a", "x", 2)], &["b1", "c1"]),
            (9, 2, &[("d", "v", 8)], &["a1"]),
            (9, 2, &[("d", "v", 9)], &[]),
            // Where it was made smaller.
            (3, 2, &[("d", "v", 9)], &[]),
        ] {
            assert_eq!(begin_next(waiting(&rows), &running(run), AtOnce { all, app }), begin, "{all} {run:?}");
        }
    }

    #[test]
    fn long_runs_of_some_teams_leave_places_for_others() {
        let many = |team: &str| -> Vec<Waiting> {
            let run = |at: usize| Waiting { id: format!("{team}{at:03}"), team_id: team.into(), app_id: format!("{team}{}", at % 8), created_at_ms: at as i64 };
            (0..100).map(run).collect()
        };
        let mut taken: Vec<(String, String)> = Vec::new();
        for (team, begin) in [("a", 32), ("b", 16), ("c", 8), ("d", 4), ("e", 2), ("f", 1), ("g", 1)] {
            let all = many(team);
            let begun: HashSet<_> = begin_next(all.clone(), &taken, AtOnce::of(64)).into_iter().collect();
            assert_eq!(begun.len(), begin, "{team}");
            taken.extend(all.into_iter().filter(|run| begun.contains(&run.id)).map(|run| (run.team_id, run.app_id)));
        }
        let together = [many("a"), many("b"), many("c")].concat();
        assert_eq!(begin_next(together, &[], AtOnce::of(64)).len(), 48, "three at once have a quarter each");
    }

    fn rows(max: usize) -> impl Strategy<Value = Vec<(u8, u8)>> {
        proptest::collection::vec((0u8..6, 0u8..3), 0..max)
    }

    proptest! {
        #[test]
        fn whoever_waits_has_as_many_as_are_free_or_waits_for_its_app(waits in rows(60), runs in rows(20), all in 1usize..24, app in 1usize..8) {
            let name = |(team, app): (u8, u8)| (format!("t{team}"), format!("t{team}a{app}"));
            let runs: Vec<_> = runs.into_iter().map(name).collect();
            let waits: Vec<_> = waits.into_iter().map(name).enumerate().map(|(at, (team_id, app_id))| {
                Waiting { id: format!("{at:03}"), team_id, app_id, created_at_ms: at as i64 / 3 }
            }).collect();
            let begun = begin_next(waits.clone(), &runs, AtOnce { all, app });
            let begins = |run: &Waiting| begun.contains(&run.id);
            prop_assert_eq!(begun.iter().collect::<HashSet<_>>().len(), begun.len());
            prop_assert!(begun.is_empty() || runs.len() + begun.len() <= all);
            let free = all.saturating_sub(runs.len() + begun.len());
            let now = |has: &dyn Fn(&str, &str) -> bool| {
                runs.iter().filter(|(team, app)| has(team, app)).count() + waits.iter().filter(|run| begins(run) && has(&run.team_id, &run.app_id)).count()
            };
            for run in waits.iter().filter(|run| !begins(run)) {
                let (of_team, of_app) = (now(&|team, _| team == run.team_id), now(&|_, app| app == run.app_id));
                prop_assert!(of_team >= free || of_app >= app, "{:?} waits for nothing", run);
                let later = waits.iter().find(|other| other.app_id == run.app_id && begins(other) && other.id > run.id);
                prop_assert!(later.is_none(), "{:?} is passed by {:?}", run, later);
            }
            for run in waits.iter().filter(|run| begins(run)) {
                let (of_team, of_app) = (now(&|team, _| team == run.team_id), now(&|_, app| app == run.app_id));
                prop_assert!(of_team <= free + 1 && of_app <= app, "{:?} is one too many", run);
            }
        }
    }
}
