//! Processes that read TypeScript.

use std::{collections::HashSet, fs, path::PathBuf, time::Duration};

use sandbar_scripts::{StripError, Workers, WorkersConfig, typescript::SOURCE_BYTES_MAX, worker};

use super::{LONG, assert_confined, config, until, workers};

/// More than are read at once.
const TEAMS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// What the parser does not come back from while anybody waits: each bracket may begin a cast or a function, and both are tried.
fn endless() -> String {
    "<a>".repeat(40_000)
}

pub(super) async fn typescript_loses_its_types(cache: PathBuf) {
    let pool = Workers::new(config(cache));
    assert_eq!(pool.strip("a", "const a: number = 1;\nreturn a as any").await.unwrap(), "const a         = 1;\nreturn a       ");
    assert_eq!(pool.strip("a", "").await.unwrap(), "");
    assert_eq!(pool.strip("a", "return 'Äé€😀' as string").await.unwrap(), "return 'Äé€😀'          ");
    let Err(StripError::Syntax(error)) = pool.strip("a", "const a = 1;\nenum E { A }").await else { panic!() };
    assert_eq!(error.line, 2, "{error}");
    // As much as there may be, and more of them than are read at once.
    let most = format!("return '{}' as string", "\u{1}".repeat(SOURCE_BYTES_MAX - 19));
    let most = most.get(..SOURCE_BYTES_MAX).unwrap_or(&most);
    for stripped in futures_util::future::join_all((0..12).map(|n| pool.strip(TEAMS[n % 6], most))).await {
        assert_eq!(stripped.unwrap().len(), most.len());
    }
    let Err(StripError::Syntax(error)) = pool.strip("a", &"x".repeat(SOURCE_BYTES_MAX + 1)).await else { panic!() };
    assert!(error.message.contains("131072 are allowed"), "{error}");
    assert_eq!((pool.count(), workers()), (0, HashSet::new()));
    pool.shutdown().await;
    assert!(matches!(pool.strip("a", "").await, Err(StripError::Engine(_))));
}

pub(super) async fn a_reader_of_typescript_is_confined(cache: PathBuf) {
    let pool = Workers::new(WorkersConfig { strip_max: LONG, ..config(cache) });
    let endless = endless();
    let read = pool.strip("a", &endless);
    let look = async {
        // Busy with what it was sent: all walls are up.
        until(|| workers().iter().any(|pid| is_computing(*pid))).await;
        let pid = *workers().iter().next().unwrap();
        assert_eq!(assert_confined(pid), 2);
        let open: HashSet<String> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(open, ["0", "1", "2"].map(str::to_owned).into());
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let data = limits.lines().find(|line| line.starts_with("Max data size")).unwrap();
        assert!(data.contains(&format!(" {} ", worker::strip::MEMORY_BYTES)), "{data}");
    };
    tokio::select! { read = read => panic!("{read:?}"), () = look => {} }
    // Who is not waited for is ended, too.
    until(|| workers().is_empty()).await;
    pool.shutdown().await;
}

/// The thread that parses has had more of the processor than starting takes.
fn is_computing(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| task.path()).any(|task| {
        let is_it = fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "typescript");
        // In nanoseconds.
        is_it
            && fs::read_to_string(task.join("schedstat"))
                .is_ok_and(|text| text.split(' ').next().and_then(|ns| ns.parse().ok()).is_some_and(|ns: u64| ns > 100_000_000))
    })
}

pub(super) async fn typescript_that_takes_too_long_is_given_up_and_nothing_goes_on(cache: PathBuf) {
    let pool = Workers::new(WorkersConfig { strip_max: Duration::from_millis(300), ..config(cache.clone()) });
    let (endless, seconds) = (endless(), "a<".repeat(3000));
    for read in futures_util::future::join_all(TEAMS.iter().zip([&endless, &seconds].repeat(3)).map(|(team, code)| pool.strip(team, code))).await {
        assert!(matches!(read, Err(StripError::TooSlow)), "{read:?}");
    }
    assert_eq!(workers(), HashSet::new());
    pool.shutdown().await;

    // Others wait so long for their turn, and no longer.
    let pool =
        Workers::new(WorkersConfig { strip_max: LONG, wait_max: Duration::from_millis(300), memory_bytes_max: worker::strip::MEMORY_BYTES, ..config(cache) });
    let wait = async {
        until(|| workers().len() == 1).await;
        pool.strip("b", "return 1").await
    };
    let end = async {
        let waited = wait.await;
        pool.shutdown().await;
        waited
    };
    let (read, waited) = tokio::join!(pool.strip("a", &endless), end);
    assert!(waited.as_ref().is_err_and(|error| error.to_string().starts_with("there was no room to read TypeScript")), "{waited:?}");
    assert!(read.as_ref().is_err_and(|error| error.to_string().ends_with("the server stops")), "{read:?}");
    until(|| workers().is_empty()).await;
}

pub(super) async fn bad_typescript_of_one_team_is_not_before_that_of_others(cache: PathBuf) {
    let pool = Workers::new(WorkersConfig { strip_max: LONG, wait_max: LONG, waiting_max: 8, ..config(cache) });
    let endless = endless();
    let flood = futures_util::future::join_all((0..9).map(|_| pool.strip("a", &endless)));
    let others = async {
        until(|| workers().iter().any(|pid| is_computing(*pid))).await;
        for code in ["return 1", "return 2"] {
            assert_eq!(pool.strip("b", code).await.unwrap(), code);
        }
        let refused = pool.strip("a", "return 3").await;
        assert!(refused.as_ref().is_err_and(|error| error.to_string() == "8 sources of this team wait already"), "{refused:?}");
        assert_eq!(workers().len(), 1);
    };
    tokio::select! { read = flood => panic!("{read:?}"), () = others => {} }
    until(|| workers().is_empty()).await;
    assert_eq!(pool.strip("a", "return 3").await.unwrap(), "return 3");
    pool.shutdown().await;
}

pub(super) async fn typescript_that_nests_too_deep_is_an_error_of_the_source(cache: PathBuf) {
    let pool = Workers::new(WorkersConfig { strip_max: LONG, ..config(cache) });
    for (open, close) in [("(", ")"), ("[", "]"), ("`${", "}`"), ("a=>", "")] {
        let code = |times: usize| format!("return {}1{}", open.repeat(times), close.repeat(times));
        let few = pool.strip("a", &code(1000)).await;
        assert!(few.is_ok(), "{open}: {few:?}");
        let many = pool.strip("a", &code((SOURCE_BYTES_MAX - 8) / (open.len() + close.len()))).await;
        let Err(StripError::Syntax(error)) = many else { panic!("{open}: {many:?}") };
        assert!(error.message.contains("nested too deeply"), "{open}: {error}");
    }
    assert_eq!(workers(), HashSet::new());
    pool.shutdown().await;
}

/// Each nests as deep as it is repeated, or makes the parser try again and again.
const PIECES: &[&str] = &[
    "(", "[", "{", "!", "a=>", "a?b:", "if(a)", "-", "typeof ", "a<", "<a>", "`${", "new ", "a**", "(a?(", "class{a=", "f<a,", "x as ", "/*", "a:", "async(",
    "@a ", "\u{0}", "'", "/(", "else ", "keyof ", "await ", "a+", "A<(a", "=>{", "type A=", "a.b?.", "\u{2028}",
];

pub(super) async fn strange_typescript_is_never_a_fault_of_ours(cache: PathBuf) {
    let pool = Workers::new(WorkersConfig { strip_max: Duration::from_millis(500), wait_max: LONG, ..config(cache) });
    let all = |piece: &str| [1, 30, 200, SOURCE_BYTES_MAX / 8].map(|times| piece.repeat(times)).map(|code| [format!("type A = {code}"), code]).concat();
    for piece in PIECES {
        let codes = all(piece);
        for read in futures_util::future::join_all(TEAMS.iter().cycle().zip(&codes).map(|(team, code)| pool.strip(team, code))).await {
            assert!(!matches!(read, Err(StripError::Engine(_))), "{piece}: {read:?}");
        }
    }
    assert_eq!(workers(), HashSet::new());
    pool.shutdown().await;
}

pub(super) async fn a_reader_of_typescript_that_cannot_start_says_so(cache: PathBuf) {
    for (program, why) in [("/nowhere", "cannot execute it: No such file or directory (os error 2)"), ("/bin/false", "the engine ended before it was ready")] {
        let read = Workers::new(WorkersConfig { program: program.into(), ..config(cache.clone()) }).strip("a", "return 1").await;
        let Err(StripError::Engine(said)) = read else { panic!("{read:?}") };
        assert_eq!(said, format!("the process that reads TypeScript could not be started: {why}"));
    }
}
