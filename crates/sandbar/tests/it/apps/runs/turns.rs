//! Long runs of one team keep no other one waiting.

use super::*;
use crate::it::api::member;

const LONG: &str = "actions:\n  - {name: long, command: sleep 4730}\n  - {name: quick, command: echo done}\n";

#[test]
fn long_runs_of_one_team_keep_no_other_waiting() {
    let server = Server::start_with(&[("SANDBAR_POOL_MIN_IDLE", "0"), ("SANDBAR_REGISTRATION", "true"), ("SANDBAR_APP_RUNS_AT_ONCE", "4")]);
    // Of each app one may run, of four at once.
    let first: Vec<_> = (0..3).map(|at| Demo::deploy(&server.api(), &format!("turns-{at}"), LONG, &[])).collect();
    let runs: Vec<_> = first.iter().flat_map(|demo| [ask(demo, json!({ "action": "long" })), ask(demo, json!({ "action": "long" }))]).collect();
    let running = || runs.iter().filter(|run| now(&server.api(), run)["status"] == "running").count();
    until("half of the places", || running() == 2);
    let others: Vec<_> =
        ["second", "third"].iter().map(|name| Demo::deploy(&member(&server, &format!("{name}@example.com")), &format!("turns-{name}"), LONG, &[])).collect();
    for demo in &others {
        let quick = run(demo, json!({ "action": "quick" }));
        assert_eq!((&quick["status"], log_of(&demo.api, &quick).as_str()), (&json!("succeeded"), "done\n"), "{quick}");
        // It goes on in a place of its own, and there is one left for whoever has none.
        let long = ask(demo, json!({ "action": "long" }));
        until_phase(&demo.api, &long, "commanding");
        assert_eq!(running(), 2);
    }
    // What waits has its turn when another one has ended.
    let ends = runs.iter().find(|run| now(&server.api(), run)["status"] == "running").unwrap();
    others.iter().for_each(|demo| drop(demo.api.delete(&demo.path("")).ok(200)));
    server.api().post(&of(ends, "/cancel"), json!({})).ok(202);
    until("the next one", || now(&server.api(), ends)["status"] == "cancelled" && running() == 2);
}
