use super::*;
use crate::app::manifest::parse;

fn launch(text: &str) -> Launch {
    let parsed = parse(&format!("schemaVersion: 1\nname: demo\n{text}")).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    Launch::of(Arc::new(parsed.manifest), "demo", 7, &BTreeMap::from([("GIVEN".to_owned(), "1".to_owned()), ("A".to_owned(), "given".to_owned())]))
}

const SERVICES: &str = "start: {command: serve}
services:
  - {name: api, command: a, dependsOn: [db, queue]}
  - {name: queue, command: q, dependsOn: [db]}
  - {name: db, command: d}
  - {name: mail, command: m, autoStart: true}
  - {name: idle, command: i}
";

fn named(names: &[&str]) -> LaunchServices {
    LaunchServices::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn services_start_only_when_somebody_asks() {
    let launch = launch(SERVICES);
    let wanted = |services: LaunchServices, stopped: &[&str]| {
        launch.wanted(&Asked { services, stopped: stopped.iter().map(|name| (*name).to_owned()).collect(), ..Asked::default() }).join(" ")
    };
    assert_eq!(wanted(named(&[]), &[]), "mail start");
    assert_eq!(wanted(named(&[]), &["mail"]), "start");
    assert_eq!(wanted(named(&["queue"]), &[]), "mail db queue start");
    assert_eq!(wanted(named(&["api"]), &["mail"]), "db queue api start");
    assert_eq!(wanted(LaunchServices::All, &[]).split(' ').count(), 6);
    assert_eq!(launch.with_dependencies("api"), ["db", "queue", "api"]);
    assert!(launch.check(&named(&["db"])).is_ok() && launch.check(&LaunchServices::All).is_ok());
    let unknown = launch.check(&named(&["nope"])).unwrap_err().to_string();
    assert_eq!(unknown, "the app has no service \"nope\"; it has api, queue, db, mail, idle");
}

#[test]
fn who_depends_on_something_is_ended_before_it_and_the_start_command_last() {
    let rounds = launch(SERVICES).stop_order();
    assert_eq!(rounds, [vec!["api"], vec!["queue"], vec!["db", "idle", "mail"], vec!["start"]]);
    assert!(launch("actions: [{name: a, command: b}]\n").stop_order().is_empty());
}

#[test]
fn what_is_nearer_to_a_command_goes_before() {
    let launch = launch(
        "env: {A: template, B: template, C: template}
launch: {env: {B: launch, C: launch}}
start: {command: serve, cwd: web, env: {C: start}}
services: [{name: w, command: work}]
",
    );
    let of = |name: &str| launch.entry(name).unwrap().env.clone();
    let start = of(START);
    let show = |name: &str| start.get(name).map(String::as_str);
    assert_eq!((show("GIVEN"), show("A"), show("B"), show("C")), (Some("1"), Some("template"), Some("launch"), Some("start")));
    assert_eq!((show(APP_VAR), show(VERSION_VAR), show(ENTRY_VAR)), (Some("demo"), Some("7"), Some("start")));
    assert_eq!(of("w").get("C").map(String::as_str), Some("launch"));
    assert_eq!(of("w").get(ENTRY_VAR).map(String::as_str), Some("w"));
    assert_eq!(launch.entry(START).unwrap().cwd, "/workspace/web");
    assert_eq!(launch.entry("w").unwrap().cwd, "/workspace");
    assert_eq!(launch.entry(START).unwrap().command, ["sh", "-c", "serve"]);
}

#[test]
fn readiness_is_what_was_said_or_the_first_port() {
    let check = |start: &str| launch(&format!("start: {{command: serve, {start}}}\n")).entry(START).unwrap().check.clone();
    let ports = "ports: [{port: 3000, path: /app}, {port: 4000}]";
    let http = |port, path: &str| Check::Http { port, path: path.to_owned() };
    assert_eq!(check("cwd: a"), Check::Runs);
    assert_eq!(check(ports), http(3000, "/app"));
    assert_eq!(check(&format!("{ports}, readiness: {{timeoutSeconds: 5}}")), http(3000, "/app"));
    assert_eq!(check(&format!("{ports}, readiness: {{path: /health}}")), http(3000, "/health"));
    assert_eq!(check(&format!("{ports}, readiness: {{path: /health, port: 4000}}")), http(4000, "/health"));
    assert_eq!(check(&format!("{ports}, readiness: {{port: 4000}}")), Check::Tcp(4000));
    assert_eq!(check(&format!("{ports}, readiness: {{command: test -f ok}}")), Check::Command(vec!["sh".into(), "-c".into(), "test -f ok".into()]));
    let start = launch(&format!("start: {{command: serve, {ports}, readiness: {{timeoutSeconds: 5, intervalMs: 100}}}}\n")).entry(START).unwrap().clone();
    assert_eq!((start.ready_within_ms, start.check_every_ms), (5_000, 100));
}

#[test]
fn a_preview_is_ready_only_with_a_process_that_is() {
    use AppState as A;
    use PreviewState as P;
    for (state, has_process, listens, preview) in [
        (A::None, true, true, P::Closed),
        (A::Starting, true, true, P::Opening),
        (A::Starting, true, false, P::Opening),
        (A::Ready, true, true, P::Ready),
        (A::Ready, true, false, P::Opening),
        (A::Unhealthy, true, true, P::Ready),
        (A::Unhealthy, true, false, P::Opening),
        (A::Exited, true, true, P::Closed),
        (A::Failed, true, false, P::Closed),
        // Nothing is started for it: whoever listens is whom one meets.
        (A::None, false, false, P::Closed),
        (A::None, false, true, P::Ready),
    ] {
        assert_eq!(preview_state(state, has_process, listens), preview, "{state:?} {has_process} {listens}");
    }
}

#[test]
fn rows_of_before_are_read() {
    assert_eq!(serde_json::from_str::<Asked>("{}").unwrap(), Asked::default());
    assert_eq!(serde_json::from_str::<SeenApp>("{}").unwrap(), SeenApp::default());
    let asked = Asked { services: LaunchServices::All, stopped: BTreeSet::from(["a".to_owned()]), stopping: Some(Stopping::Delete), woken: true };
    assert_eq!(serde_json::from_value::<Asked>(serde_json::to_value(&asked).unwrap()).unwrap(), asked);
}
