//! The threads that hold connections: one writer with group commit, a few readers, one that checkpoints.
//!
//! Every write is a closure in a savepoint of its own. The writer takes all closures that wait, runs them in one
//! transaction, commits once (that is the one wait for the disk), and only then answers them all. What a closure refuses
//! is rolled back to its savepoint and bothers nobody else.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, mpsc as std_mpsc},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use tokio::sync::{mpsc, oneshot};

use crate::{StoreError, schema};

/// Writes that may wait; the next one waits for room.
const WRITE_QUEUE_MAX: usize = 1024;
/// Writes in one transaction.
const BATCH_MAX: usize = 256;
/// Threads that read.
const READERS: usize = 2;
/// Reads that may wait for one reader.
const READ_QUEUE_MAX: usize = 512;
/// Changed rows after which the write-ahead log is copied into the database. A few MiB of log.
const CHECKPOINT_CHANGES: u64 = 200;
/// The write-ahead log is filled with zeros up to this many bytes at the start, and cut back to it. Commits then
/// overwrite blocks that exist, and the disk is waited for once and not a second time for the file's new size.
const LOG_PREPARED_BYTES: u64 = 8 << 20;
/// Bytes of the write-ahead log from which others are waited for, so that it can be cut. Readers that never pause could
/// let it grow without end otherwise.
const CHECKPOINT_HARD_BYTES: u64 = 64 << 20;
/// Room for new rows that the database keeps within its own file, so that a disk that others filled keeps nobody from
/// deleting and pausing. Topped up when less than half of it is left.
pub const SLACK_BYTES: u64 = 8 << 20;
/// Commits between two looks whether the disk has room for a longer log: far fewer than fill it.
const TIGHT_BATCHES: u32 = 32;
/// Pause between commits and a checkpoint, so that a burst is checkpointed once.
const CHECKPOINT_DELAY: Duration = Duration::from_millis(500);
/// How long a connection waits for another one's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Prepared statements that a connection keeps.
const STATEMENTS_MAX: usize = 128;

/// What a write leaves behind: whether it wants to be committed, and how it is answered once that is decided.
struct Ran {
    keep: bool,
    answer: Box<dyn FnOnce(Option<StoreError>)>,
}

/// A write. Given an error instead of a connection it does nothing but carry that to its caller.
type Write = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Ran + Send>;
type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The threads. Dropping it lets what is queued finish, then ends and joins them.
pub struct Engine {
    path: PathBuf,
    /// None once closed.
    queues: RwLock<Option<Queues>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Clone)]
struct Queues {
    writes: mpsc::Sender<Write>,
    reads: Arc<[mpsc::Sender<Read>]>,
}

impl Engine {
    /// Opens or makes the database, migrates it, and starts the threads.
    pub fn open(path: &Path, slack_bytes: u64) -> Result<Self, StoreError> {
        let file = |e| StoreError::File(Arc::new(e));
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(file)?;
        let mut writer = connect(path).map_err(|e| e.during("open"))?;
        schema::migrate(&mut writer).map_err(|e| e.during("migrate"))?;
        let mut threads = Vec::new();
        let mut spawn = |name: String, run: Box<dyn FnOnce() + Send>| -> Result<(), StoreError> {
            threads.push(std::thread::Builder::new().name(name).spawn(run).map_err(file)?);
            Ok(())
        };

        let (wake, woken) = std_mpsc::sync_channel(1);
        let (writes, write_queue) = mpsc::channel(WRITE_QUEUE_MAX);
        let mut reads = Vec::with_capacity(READERS);
        for number in 0..READERS {
            let connection = connect(path).map_err(|e| e.during("open"))?;
            connection.pragma_update(None, "query_only", true)?;
            let (sender, mut queue) = mpsc::channel::<Read>(READ_QUEUE_MAX);
            reads.push(sender);
            spawn(
                format!("store-read-{number}"),
                Box::new(move || {
                    while let Some(read) = queue.blocking_recv() {
                        // A panic is answered by the dropped channel of its caller; the thread is needed.
                        let _ = catch_unwind(AssertUnwindSafe(|| read(&connection)));
                    }
                }),
            )?;
        }
        let wal = PathBuf::from(format!("{}-wal", path.display()));
        // A log that could not be prepared is only slower.
        if let Err(error) = prepare_log(&wal) {
            tracing::warn!(%error, "the write-ahead log could not be prepared; commits wait longer for the disk");
        }
        let checkpointer = connect(path).map_err(|e| e.during("open"))?;
        if let Err(error) = keep_slack(&checkpointer, slack_bytes) {
            tracing::warn!(%error, "no room can be kept for when the disk is full; it will be tried again");
        }
        spawn("store-checkpoint".into(), Box::new(move || checkpoint(&checkpointer, &wal, &woken, slack_bytes)))?;
        let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
        spawn("store-write".into(), Box::new(move || write_loop(&writer, write_queue, &wake, &dir)))?;
        let queues = Queues { writes, reads: reads.into() };
        Ok(Self { path: path.to_owned(), queues: RwLock::new(Some(queues)), threads: Mutex::new(threads) })
    }

    /// Runs a write and waits until it is durable. Waits for room when the queue is full.
    pub async fn write<T, F>(&self, operation: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let write: Write = Box::new(move |connection| {
            let result = connection.and_then(run).map_err(|e| e.during(operation));
            Ran {
                keep: result.is_ok(),
                answer: Box::new(move |failed| {
                    let result = match failed {
                        Some(error) if result.is_ok() => Err(error.during(operation)),
                        Some(_) | None => result,
                    };
                    // Who asked may be gone; the write stands all the same.
                    let _ = sender.send(result);
                }),
            }
        });
        self.queues()?.writes.send(write).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs a read on a thread that has little to do.
    pub async fn read<T, F>(&self, operation: &'static str, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let _ = sender.send(run(connection).map_err(|e| e.during(operation)));
        });
        let queues = self.queues()?;
        let reader = queues.reads.iter().max_by_key(|queue| queue.capacity()).ok_or(StoreError::Closed)?;
        reader.send(read).await.map_err(|_| StoreError::Closed)?;
        drop(queues);
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Lets what is queued finish, ends the threads and copies the log into the database, which is then whole by itself.
    /// The log keeps its place on disk: the next start may find the disk full. Blocks. Idempotent.
    pub fn close(&self) -> Result<(), StoreError> {
        if !self.end_threads() {
            return Ok(());
        }
        let connection = connect(&self.path).map_err(|e| e.during("close"))?;
        let all = connection
            .query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?))
            .map_err(|e| StoreError::from(e).during("close"))?;
        drop(connection);
        if all {
            void_log(&self.path).map_err(|e| StoreError::File(Arc::new(e)))?;
        }
        Ok(())
    }

    fn queues(&self) -> Result<Queues, StoreError> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)
    }

    /// Whether there were any.
    fn end_threads(&self) -> bool {
        // The senders must be gone before the threads are waited for.
        drop(self.queues.write().unwrap_or_else(PoisonError::into_inner).take());
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let any = !threads.is_empty();
        for thread in threads {
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
        any
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end_threads();
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Else the last one to close gives the log back.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Checkpoints have a thread of their own.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", LOG_PREPARED_BYTES)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

/// Fills the log up with zeros, which SQLite takes for the end of the log wherever it meets them.
fn prepare_log(wal: &Path) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().append(true).open(wal)?;
    let zeros = [0u8; 64 << 10];
    let mut bytes = file.metadata()?.len();
    while bytes < LOG_PREPARED_BYTES {
        let step = zeros.len().min((LOG_PREPARED_BYTES - bytes) as usize);
        file.write_all(&zeros[..step])?;
        bytes += step as u64;
    }
    file.sync_all()
}

/// Lets a log whose content is all in the database count as empty, where it is: whoever puts another database in the
/// place of this one must not find changes of the former one beside it.
fn void_log(path: &Path) -> std::io::Result<()> {
    const HEADER_BYTES: usize = 32;
    let mut wal = match fs::OpenOptions::new().write(true).open(format!("{}-wal", path.display())) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    if wal.metadata()?.len() >= HEADER_BYTES as u64 {
        wal.write_all(&[0; HEADER_BYTES])?;
        wal.sync_all()?;
    }
    Ok(())
}

fn write_loop(connection: &Connection, mut queue: mpsc::Receiver<Write>, wake: &std_mpsc::SyncSender<()>, dir: &Path) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let (mut checkpointed, mut batches) = (0, 0);
    while queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        batches += 1;
        // The checkpoints beside us may be late for a log that cannot grow.
        if batches >= TIGHT_BATCHES && has_no_room(dir) {
            begin_log_anew(connection);
            batches = 0;
        }
        if !commit_batch(connection, batch.drain(..)) {
            begin_log_anew(connection);
            batches = 0;
        }
        let changes = connection.total_changes();
        if changes - checkpointed >= CHECKPOINT_CHANGES {
            checkpointed = changes;
            // One waiting wake-up is enough.
            let _ = wake.try_send(());
        }
    }
}

/// Copies the log into the database, so that the next write begins it anew.
fn begin_log_anew(connection: &Connection) {
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::warn!(%error, "the log could not be copied into the database; it will be tried again");
    }
}

/// Whether the log cannot grow beyond its place on disk. How full it is, is not looked at: whoever opens and closes the
/// log's index beside SQLite takes the locks of this process on it away.
fn has_no_room(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) < 2 * LOG_PREPARED_BYTES)
}

/// Runs a batch in one transaction; `false` when it could not be committed. When the database gives the whole transaction up in the middle (a full disk does
/// that), what ran so far is answered with the error and the rest goes on in a new one.
fn commit_batch(connection: &Connection, batch: impl Iterator<Item = Write>) -> bool {
    let (mut kept, mut whole) = (Vec::new(), true);
    for write in batch {
        if connection.is_autocommit()
            && let Err(error) = connection.execute_batch("BEGIN IMMEDIATE")
        {
            refuse(write, error.into());
            continue;
        }
        let ran = in_savepoint(connection, write);
        let Some(ran) = ran else {
            if connection.is_autocommit() {
                fail(&mut kept, &StoreError::Closed);
            }
            continue;
        };
        if connection.is_autocommit() {
            // The transaction is gone, and with it whatever this batch had kept.
            let lost = StoreError::Database {
                operation: "",
                source: Arc::new(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT_ROLLBACK), None)),
            };
            kept.push(ran.answer);
            fail(&mut kept, &lost);
            whole = false;
        } else if ran.keep {
            kept.push(ran.answer);
        } else {
            (ran.answer)(None);
        }
    }
    if connection.is_autocommit() {
        fail(&mut kept, &StoreError::Closed);
        return whole;
    }
    match connection.execute_batch("COMMIT") {
        Ok(()) => {
            kept.into_iter().for_each(|answer| answer(None));
            whole
        }
        Err(error) => {
            tracing::error!(%error, "commit failed");
            let _ = connection.execute_batch("ROLLBACK");
            fail(&mut kept, &error.into());
            false
        }
    }
}

/// None when the closure panicked; its caller sees a dropped channel.
fn in_savepoint(connection: &Connection, write: Write) -> Option<Ran> {
    let statement = |sql: &str| connection.prepare_cached(sql).and_then(|mut s| s.execute([]));
    if let Err(error) = statement("SAVEPOINT one") {
        refuse(write, error.into());
        return Some(Ran { keep: false, answer: Box::new(|_| {}) });
    }
    let ran = catch_unwind(AssertUnwindSafe(|| write(Ok(connection)))).ok();
    let keep = ran.as_ref().is_some_and(|ran| ran.keep);
    if !connection.is_autocommit() {
        let undone = if keep { Ok(0) } else { statement("ROLLBACK TO one") };
        if let Err(error) = undone.and_then(|_| statement("RELEASE one")) {
            // Better to lose the batch than to commit half of a write.
            tracing::error!(%error, "savepoint failed");
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
    ran
}

/// Answers a write that was never run.
fn refuse(write: Write, error: StoreError) {
    tracing::error!(%error, "no transaction could be begun");
    (write(Err(error)).answer)(None);
}

fn fail(kept: &mut Vec<Box<dyn FnOnce(Option<StoreError>)>>, error: &StoreError) {
    for answer in kept.drain(..) {
        answer(Some(error.clone()));
    }
}

fn checkpoint(connection: &Connection, wal: &Path, woken: &std_mpsc::Receiver<()>, slack_bytes: u64) {
    let top_up = || {
        if let Err(error) = keep_slack(connection, slack_bytes) {
            tracing::warn!(%error, "no room can be kept for when the disk is full; it will be tried again");
        }
    };
    while woken.recv().is_ok() {
        std::thread::sleep(CHECKPOINT_DELAY);
        let bytes = fs::metadata(wal).map_or(0, |meta| meta.len());
        let sql = if bytes < CHECKPOINT_HARD_BYTES { "PRAGMA wal_checkpoint(PASSIVE)" } else { "PRAGMA wal_checkpoint(TRUNCATE)" };
        if let Err(error) = connection.query_row(sql, [], |_| Ok(())) {
            tracing::warn!(%error, "checkpoint failed; it will be tried again");
        }
        top_up();
    }
}

/// Makes pages that no row needs. They reach the file before they are given up, since only there they are room.
fn keep_slack(connection: &Connection, bytes: u64) -> Result<(), StoreError> {
    const PIECE_BYTES: u64 = 1 << 20;
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u64>(0));
    let free = number("PRAGMA freelist_count")? * number("PRAGMA page_size")?;
    if free >= bytes / 2 {
        return Ok(());
    }
    let give_back = "DELETE FROM meta WHERE key GLOB 'slack/*'";
    connection.execute(give_back, [])?;
    let fill = || {
        let transaction = connection.unchecked_transaction()?;
        for piece in 0..(bytes - free).div_ceil(PIECE_BYTES) {
            let sql = "INSERT INTO meta (key, value) VALUES (?1, hex(zeroblob(?2)))";
            transaction.execute(sql, (format!("slack/{piece}"), PIECE_BYTES / 2))?;
        }
        transaction.commit()?;
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
    };
    let filled = fill();
    connection.execute(give_back, [])?;
    filled.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("sandbar-engine-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder for the test");
        dir
    }

    fn fill(c: &Connection, key: &str, bytes: usize) -> Result<(), StoreError> {
        c.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", (key, "x".repeat(bytes)))?;
        Ok(())
    }

    /// A file that may not grow answers as a full disk does.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_disk_refuses_the_write_and_nothing_else() {
        let dir = folder("full");
        let engine = Arc::new(Engine::open(&dir.join("test.db"), 0).expect("opens"));
        engine.write("fill", |c| fill(c, "before", 10)).await.expect("writes");
        engine
            .write("bound", |c| {
                let pages: i64 = c.query_row("PRAGMA page_count", [], |row| row.get(0))?;
                Ok(c.query_row(&format!("PRAGMA max_page_count = {}", pages + 8), [], |_| Ok(()))?)
            })
            .await
            .expect("bounds");
        let writes: Vec<_> = (0..20)
            .map(|n| {
                let engine = Arc::clone(&engine);
                let bytes = if n % 4 == 3 { 1 << 20 } else { 10 };
                tokio::spawn(async move { (n, engine.write("fill", move |c| fill(c, &format!("k{n}"), bytes)).await) })
            })
            .collect();
        let mut acknowledged = vec!["before".to_owned()];
        for write in writes {
            match write.await.expect("no panic") {
                (n, Ok(())) => acknowledged.push(format!("k{n}")),
                (n, Err(StoreError::Full)) => assert_eq!(n % 4, 3, "only what does not fit is refused"),
                // A transaction that was given up takes its small neighbours with it, and says so.
                (_, Err(StoreError::Database { operation, .. })) => assert_eq!(operation, "fill"),
                (n, Err(other)) => panic!("{n}: {other}"),
            }
        }
        let mut stored: Vec<String> =
            engine.read("list", |c| Ok(c.prepare("SELECT key FROM meta")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)).await.expect("reads");
        stored.sort();
        acknowledged.sort();
        assert_eq!(stored, acknowledged, "what was acknowledged is there and nothing else");
        engine.write("fill", |c| fill(c, "after", 10)).await.expect("goes on");
        drop(engine);
        let _ = fs::remove_dir_all(dir);
    }

    /// The room is in the file and not only promised, and is found again after a start.
    #[tokio::test(flavor = "multi_thread")]
    async fn room_is_kept_for_when_the_disk_is_full() {
        let dir = folder("slack");
        let free = |engine: Arc<Engine>| async move {
            let pages = engine.read("count", |c| Ok(c.query_row("PRAGMA freelist_count", [], |row| row.get::<_, u64>(0))?)).await;
            pages.expect("reads") * 4096
        };
        for _ in 0..2 {
            let engine = Arc::new(Engine::open(&dir.join("test.db"), 2 << 20).expect("opens"));
            let end = std::time::Instant::now() + Duration::from_secs(20);
            while free(Arc::clone(&engine)).await < 2 << 20 {
                assert!(std::time::Instant::now() < end, "{}", free(Arc::clone(&engine)).await);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            engine.write("fill", |c| fill(c, "half", 1_500_000)).await.expect("writes");
            engine.write("empty", |c| Ok(c.execute("DELETE FROM meta WHERE key = 'half'", [])?)).await.expect("writes");
            engine.close().expect("closes");
            use std::os::unix::fs::MetadataExt;
            let meta = fs::metadata(dir.join("test.db")).expect("is there");
            assert!(meta.len() >= 2 << 20 && meta.blocks() * 512 >= 2 << 20, "{} bytes in {} blocks", meta.len(), meta.blocks());
        }
        let _ = fs::remove_dir_all(dir);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_undone() {
        let dir = folder("panic");
        let engine = Engine::open(&dir.join("test.db"), 0).expect("opens");
        let failed = engine
            .write("panic", |c| -> Result<(), StoreError> {
                fill(c, "half", 10)?;
                panic!("on purpose");
            })
            .await;
        assert!(matches!(failed, Err(StoreError::Closed)));
        engine.write("fill", |c| fill(c, "whole", 10)).await.expect("goes on");
        let count: i64 = engine.read("count", |c| Ok(c.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))?)).await.expect("reads");
        assert_eq!(count, 1);
        drop(engine);
        let _ = fs::remove_dir_all(dir);
    }

    /// Enough to be checkpointed while it is written to, and to be whole afterwards.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_log_is_copied_while_writes_go_on() {
        let dir = folder("checkpoint");
        let engine = Engine::open(&dir.join("test.db"), 0).expect("opens");
        for n in 0..700 {
            engine.write("fill", move |c| fill(c, &format!("k{n}"), 200)).await.expect("writes");
        }
        engine.close().expect("closes");
        let log = fs::metadata(dir.join("test.db-wal")).map_or(0, |meta| meta.len());
        assert!(log >= LOG_PREPARED_BYTES, "the log keeps its place: {log}");
        // The database is whole without it.
        fs::create_dir_all(dir.join("copy")).expect("a folder for the copy");
        fs::copy(dir.join("test.db"), dir.join("copy/test.db")).expect("copies");
        let again = Engine::open(&dir.join("copy/test.db"), 0).expect("opens");
        let count: i64 = again.read("count", |c| Ok(c.query_row("SELECT count(*) FROM meta", [], |row| row.get(0))?)).await.expect("reads");
        assert_eq!(count, 700);
        drop(again);
        let _ = fs::remove_dir_all(dir);
    }
}
