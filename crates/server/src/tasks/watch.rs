//! The watch over live sandboxes: tells the owner when the kernel killed something for want of memory, stops who
//! writes more than its disk limit, and gives paused sandboxes' memory back when the machine runs short.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sandbar_core::{
    app::volume::full_text,
    quantity::{format_bytes, readable_bytes},
    sandbox::{Observed, SandboxRecord, reason},
};
use sandbar_node::Runtime;
use sandbar_store::NewEvent;
use tokio_util::sync::CancellationToken;

use crate::app::{SharedApp, sandboxes::now_ms};

const EVERY: Duration = Duration::from_secs(1);
/// Below this part of the machine's memory, paused sandboxes are hibernated, the longest paused first.
const PRESSURE_PERMILLE: u64 = 60;
/// Sandboxes hibernated per look while there is pressure.
const HIBERNATED_PER_LOOK: usize = 8;

/// Stands for the bytes of what was over its limit a moment ago. What was written between the look and the end of the
/// writers must not cost whoever comes next, to make room, their life.
const JUST_ENDED: u64 = u64::MAX;

/// What the last look saw of a runtime.
#[derive(Default, Clone)]
struct Seen {
    oom_kills: u64,
    cpu_usec: u64,
    disk_bytes: u64,
    over_disk_limit: bool,
}

pub(crate) async fn run(app: SharedApp, stop: CancellationToken) {
    let mut seen: HashMap<String, Seen> = HashMap::new();
    // Bytes of volumes, by id.
    let mut volumes: HashMap<String, u64> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let live = app.sandboxes.live();
        let previous = seen;
        let looked = tokio::task::spawn_blocking(move || look_at(live, previous)).await;
        let Ok((now_seen, events, busy)) = looked else {
            seen = HashMap::new();
            continue;
        };
        seen = now_seen;
        check_volumes(&app, busy, &mut volumes).await;
        for (id, event) in events {
            app.sandboxes.note(&id, event);
        }
        relieve_pressure(&app).await;
        let dir = app.config.data_dir.clone();
        let kept = tokio::task::spawn_blocking(move || sandbar_node::room::keep_reserve(&dir)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "no room can be kept for a start on a full disk");
        }
    }
}

type Events = Vec<(String, NewEvent)>;
type Live = Vec<(Arc<SandboxRecord>, Arc<Runtime>)>;

/// What is seen now, what happened, and who used the processor since the last look.
fn look_at(live: Live, mut previous: HashMap<String, Seen>) -> (HashMap<String, Seen>, Events, Live) {
    let mut busy = Live::new();
    let mut seen = HashMap::with_capacity(live.len());
    let mut events = Events::new();
    for (record, runtime) in live {
        let first_look = !previous.contains_key(&runtime.id);
        let mut now = previous.remove(&runtime.id).unwrap_or_default();
        let kills = runtime.oom_kills();
        if kills > now.oom_kills {
            let limit = sandbar_core::quantity::format_bytes(runtime.limits().memory_bytes);
            let text = format!("the memory limit of {limit} was reached and {} process(es) were killed", kills - now.oom_kills);
            events.push((record.id.clone(), NewEvent::new(now_ms(), "sandbox.out_of_memory", text)));
        }
        now.oom_kills = kills;
        let before_usec = now.cpu_usec;
        let cpu_usec = runtime.usage().cpu_usec;
        // Who used no CPU since the last look has written nothing; walking its files would be for nothing.
        if first_look || cpu_usec != now.cpu_usec {
            now.cpu_usec = cpu_usec;
            if let Some(text) = check_disk(&runtime, &mut now) {
                events.push((record.id.clone(), NewEvent::new(now_ms(), "sandbox.disk_limit", text)));
            }
        }
        let is_busy = first_look || now.cpu_usec != before_usec;
        seen.insert(runtime.id.clone(), now);
        if is_busy {
            busy.push((record, runtime));
        }
    }
    (seen, events, busy)
}

/// Ends the processes of sandboxes that make a volume grow beyond its limit. One that is over it and does not grow is
/// left alone, so that files can be deleted.
async fn check_volumes(app: &SharedApp, busy: Live, known: &mut HashMap<String, u64>) {
    let mut writers: HashMap<String, Live> = HashMap::new();
    for (record, runtime) in &busy {
        for mount in record.mounts.iter().filter(|mount| !mount.read_only) {
            writers.entry(mount.volume_id.clone()).or_default().push((Arc::clone(record), Arc::clone(runtime)));
        }
    }
    // What nobody writes now is looked at anew when somebody does.
    known.retain(|id, _| writers.contains_key(id));
    for (id, writers) in writers {
        let Some((record, _)) = writers.first() else { continue };
        let Ok(Some(volume)) = app.store.volume_get(&record.team_id, &id).await else { continue };
        let Ok(bytes) = app.node.volume_bytes(&volume.tree_id).await else { continue };
        let before = known.insert(id.clone(), bytes);
        if bytes <= volume.size_limit_bytes || before.is_some_and(|before| bytes <= before) {
            continue;
        }
        known.insert(id.clone(), JUST_ENDED);
        let text = match app.store.app_volume_of(&id).await {
            Ok(Some(of_app)) => full_text(&of_app.name, bytes, volume.size_limit_bytes),
            Ok(None) | Err(_) => {
                let (bytes, limit) = (readable_bytes(bytes), readable_bytes(volume.size_limit_bytes));
                format!("volume {id} holds {bytes}, more than its size limit of {limit}; its processes were ended, delete files to go on")
            }
        };
        for (record, runtime) in writers {
            runtime.kill_all_but_agent(now_ms(), &text);
            app.sandboxes.note(&record.id, NewEvent::new(now_ms(), "sandbox.volume_limit", text.clone()));
        }
    }
}

/// Ends the processes of a sandbox that goes on writing beyond its limit. One that is over the limit and does not
/// grow is left alone, so that its owner can delete files.
fn check_disk(runtime: &Runtime, seen: &mut Seen) -> Option<String> {
    let limit = runtime.limits().disk_bytes;
    if limit == 0 {
        return None;
    }
    // A tree that changes under the walk is looked at again in a second.
    let used = runtime.disk_usage_bytes().ok()?;
    // What cannot be counted may be growing.
    let grew = used > seen.disk_bytes || used == u64::MAX;
    seen.disk_bytes = used;
    let over = used > limit;
    let newly_over = over && !seen.over_disk_limit;
    seen.over_disk_limit = over;
    if over && (grew || newly_over) {
        let text = if used == u64::MAX {
            "its folders are nested too deeply for its files to be counted; its processes were ended, delete the folders to go on".to_owned()
        } else {
            let (used, limit) = (format_bytes(used), format_bytes(limit));
            format!("its files take {used}, more than the limit of {limit}; its processes were ended, delete files to go on")
        };
        runtime.kill_all_but_agent(now_ms(), &text);
        seen.disk_bytes = JUST_ENDED;
        return Some(text);
    }
    None
}

async fn relieve_pressure(app: &SharedApp) {
    let Some((available, total)) = memory_kib() else { return };
    if available * 1000 >= total * PRESSURE_PERMILLE {
        return;
    }
    let mut frozen: Vec<_> = app
        .sandboxes
        .live()
        .into_iter()
        .map(|(record, _)| record)
        // Without the deadline its memory was asked to be kept.
        .filter(|record| record.observed == Observed::Frozen && record.hibernate_at_ms.is_some())
        .collect();
    frozen.sort_by_key(|record| record.updated_at_ms);
    for record in frozen.into_iter().take(HIBERNATED_PER_LOOK) {
        tracing::info!(sandbox = record.id, "the machine is short of memory: hibernating");
        let id = record.id.clone();
        if let Err(error) = app.sandboxes.hibernate(record.as_ref().clone(), reason::MEMORY_PRESSURE).await {
            tracing::warn!(sandbox = id, %error, "a paused sandbox could not be hibernated");
        }
    }
}

/// Available and total memory of the machine.
fn memory_kib() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Some((field("MemAvailable:")?, field("MemTotal:")?))
}
