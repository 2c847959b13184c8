-- Apps: what was deployed, the sandboxes that are made of it, runs, receipts and schedules.

CREATE TABLE app (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- The newest version that there ever was: none is given twice.
    last_version INTEGER NOT NULL,
    -- What is started and run. None: nothing was deployed that could be built.
    live_version INTEGER,
    -- What is wanted of it: online or offline.
    desired TEXT NOT NULL CHECK (desired IN ('online', 'offline')),
    -- JSON: services that are wanted besides the entrypoint, and what was asked for at the start.
    launch TEXT NOT NULL,
    -- How the entrypoint ended last, and why it is not ready: JSON; for the time when nobody watches it.
    seen TEXT NOT NULL,
    created_by TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    -- Grows with each write; a stale writer is refused.
    generation INTEGER NOT NULL,
    UNIQUE (team_id, name)
) STRICT, WITHOUT ROWID;

-- Never changed once it is ready.
CREATE TABLE app_version (
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('building', 'ready', 'failed')),
    -- Why it failed.
    reason TEXT,
    -- SHA-256 of the normalised manifest and of the source, lower-case hex.
    manifest_sha256 TEXT NOT NULL,
    source_sha256 TEXT NOT NULL,
    source_bytes INTEGER NOT NULL,
    message TEXT,
    created_by TEXT,
    created_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER,
    -- JSON: what lies below the files of its sandboxes. None while it is built and when it failed.
    base TEXT,
    -- The template that its sandboxes are made by, as it was: JSON.
    template TEXT NOT NULL,
    -- The manifest as it was written, and normalised as JSON.
    manifest_text TEXT NOT NULL,
    manifest TEXT NOT NULL,
    PRIMARY KEY (app_id, number)
) STRICT;

-- What setup commands left, by what they were run on.
CREATE TABLE app_setup (
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    -- SHA-256 of base, commands and the files that they read, lower-case hex.
    key TEXT NOT NULL,
    base TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    used_at_ms INTEGER NOT NULL,
    PRIMARY KEY (team_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX app_setup_by_use ON app_setup (used_at_ms);

-- Sandboxes that belong to apps. The row comes before the sandbox and goes after it, so that none is nobody's.
CREATE TABLE app_sandbox (
    sandbox_id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- app (the one that is online), run, build
    kind TEXT NOT NULL CHECK (kind IN ('app', 'run', 'build')),
    -- The run that it was made for.
    run_id TEXT,
    -- wanted, or removing: then it is ended by whoever looks.
    state TEXT NOT NULL CHECK (state IN ('wanted', 'removing')),
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX app_sandbox_by_app ON app_sandbox (app_id, kind);
CREATE UNIQUE INDEX app_sandbox_online ON app_sandbox (app_id) WHERE kind = 'app' AND state = 'wanted';
CREATE INDEX app_sandbox_by_run ON app_sandbox (run_id) WHERE run_id IS NOT NULL;

-- Every execution of an action, or of what a schedule names.
CREATE TABLE app_run (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    -- Runs outlive their app, so no reference.
    app_id TEXT NOT NULL,
    app_name TEXT NOT NULL,
    version INTEGER NOT NULL,
    action TEXT NOT NULL,
    -- api, schedule
    cause TEXT NOT NULL,
    schedule_id TEXT,
    tick_ms INTEGER,
    -- queued, running, succeeded, failed, timed_out, cancelled
    status TEXT NOT NULL,
    -- Of a running one how far it is: preparing, starting, commanding, collecting. Whoever goes on with it begins there.
    phase TEXT NOT NULL,
    -- Of one that failed: start_not_ready, exit_code, ...
    failure_reason TEXT,
    -- pending, succeeded, failed, skipped; none where there is nothing to clean up.
    cleanup TEXT,
    sandbox_id TEXT,
    -- Of runs that are never at once: group of the app.
    concurrency_group TEXT,
    idempotency_key TEXT,
    -- Of what came with that key.
    request_sha256 TEXT,
    cancel_requested_at_ms INTEGER,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    finished_at_ms INTEGER,
    log_bytes INTEGER NOT NULL,
    artifact_bytes INTEGER NOT NULL,
    receipt_id TEXT,
    -- All else that is small: command, exit code, artifacts, policies, usage: JSON.
    doc TEXT NOT NULL,
    -- JSON
    input TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX app_run_by_key ON app_run (app_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX app_run_by_app ON app_run (app_id, created_at_ms DESC, id);
CREATE INDEX app_run_by_team ON app_run (team_id, created_at_ms DESC, id);
CREATE INDEX app_run_unfinished ON app_run (status, created_at_ms) WHERE status IN ('queued', 'running');
CREATE INDEX app_run_uncleaned ON app_run (id) WHERE cleanup = 'pending';
CREATE INDEX app_run_by_schedule ON app_run (schedule_id, created_at_ms DESC) WHERE schedule_id IS NOT NULL;

-- One for each run that ended; a chain for each team. Never changed.
CREATE TABLE app_receipt (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    -- From 1, without gaps.
    seq INTEGER NOT NULL,
    run_id TEXT NOT NULL UNIQUE,
    app_id TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    -- Of the signed document; the next one names it.
    sha256 TEXT NOT NULL,
    -- The signed document: JSON.
    doc TEXT NOT NULL,
    UNIQUE (team_id, seq)
) STRICT;
CREATE INDEX app_receipt_by_app ON app_receipt (app_id, seq DESC);

CREATE TABLE app_schedule (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- api, manifest: who keeps it.
    source TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    -- active, completed, expired, max_runs_reached, stopped, failed, deleted
    lifecycle TEXT NOT NULL,
    lifecycle_reason TEXT,
    -- Expression, policies, target, input: JSON.
    spec TEXT NOT NULL,
    execution_count INTEGER NOT NULL,
    last_run_id TEXT,
    -- The next tick, and when it is due (jitter included). None: there is none any more.
    next_tick_ms INTEGER,
    due_at_ms INTEGER,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX app_schedule_by_name ON app_schedule (app_id, name) WHERE lifecycle <> 'deleted';
CREATE INDEX app_schedule_due ON app_schedule (due_at_ms) WHERE due_at_ms IS NOT NULL;

-- What became of each tick.
CREATE TABLE app_tick (
    schedule_id TEXT NOT NULL REFERENCES app_schedule (id) ON DELETE CASCADE,
    tick_ms INTEGER NOT NULL,
    -- fired, skipped
    outcome TEXT NOT NULL,
    -- Why it was skipped, or why it is late.
    reason TEXT,
    -- Skipped ticks in a row that this row stands for: the first of them, and how many.
    first_tick_ms INTEGER NOT NULL,
    count INTEGER NOT NULL,
    decided_at_ms INTEGER NOT NULL,
    run_id TEXT,
    PRIMARY KEY (schedule_id, tick_ms)
) STRICT, WITHOUT ROWID;
