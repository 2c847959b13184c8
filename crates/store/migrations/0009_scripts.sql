-- Script functions, the data that they read, and what makes them run.

CREATE TABLE script (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    trigger TEXT NOT NULL CHECK (trigger IN ('http', 'event', 'cron')),
    -- None for http.
    pattern TEXT,
    active INTEGER NOT NULL,
    -- The newest version that there ever was: none is given twice.
    last_version INTEGER NOT NULL,
    -- Limits, access, principal, capabilities, policies: JSON.
    doc TEXT NOT NULL,
    created_by TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    -- Grows with each write; a stale writer is refused.
    generation INTEGER NOT NULL,
    UNIQUE (team_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX script_by_trigger ON script (team_id, trigger) WHERE active;
CREATE INDEX script_by_name ON script (name);

-- Never changed. Tables with large texts have row ids, since looking for a row of one WITHOUT ROWID reads the large ones on
-- the way; and what is large stands last.
CREATE TABLE script_version (
    script_id TEXT NOT NULL REFERENCES script (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    -- SHA-256 of language and source, lower-case hex.
    hash TEXT NOT NULL,
    language TEXT NOT NULL CHECK (language IN ('javascript', 'typescript')),
    -- operator or tenant; none = not said.
    author_kind TEXT,
    created_by TEXT,
    created_at_ms INTEGER NOT NULL,
    source TEXT NOT NULL,
    -- JavaScript with lines and columns of the source; none = the source itself.
    code TEXT,
    PRIMARY KEY (script_id, number)
) STRICT;

CREATE TABLE script_alias (
    script_id TEXT NOT NULL REFERENCES script (id) ON DELETE CASCADE,
    alias TEXT NOT NULL,
    -- Versions and weights: JSON.
    split TEXT NOT NULL,
    updated_by TEXT,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (script_id, alias)
) STRICT, WITHOUT ROWID;

CREATE TABLE script_secret (
    script_id TEXT NOT NULL REFERENCES script (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    sealed TEXT NOT NULL,
    version INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (script_id, name)
) STRICT, WITHOUT ROWID;

-- Keys that open one script (access 'key').
CREATE TABLE script_key (
    id TEXT PRIMARY KEY,
    script_id TEXT NOT NULL REFERENCES script (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- Lower-case hex; the key itself is stored nowhere.
    token_sha256 TEXT NOT NULL UNIQUE,
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX script_key_by_script ON script_key (script_id);

-- Every execution.
CREATE TABLE script_run (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    -- Runs outlive their script, so no reference.
    script_id TEXT NOT NULL,
    script_name TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- http, async, event, cron, replay, test
    trigger TEXT NOT NULL,
    -- queued, running, succeeded, failed
    status TEXT NOT NULL,
    -- Of a failed one: timeout, memory, ...
    error_code TEXT,
    provider TEXT,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    finished_at_ms INTEGER,
    duration_us INTEGER,
    cpu_us INTEGER,
    peak_memory_bytes INTEGER,
    -- Bytes of the row's texts, for retention.
    bytes INTEGER NOT NULL,
    -- What is shown in lists, and all else that is small: JSON.
    doc TEXT NOT NULL,
    -- JSON each; large ones.
    input TEXT NOT NULL,
    output TEXT,
    logs TEXT,
    recording TEXT
) STRICT;
-- With all that retention goes by.
CREATE INDEX script_run_by_script ON script_run (script_id, created_at_ms DESC, id, status);
CREATE INDEX script_run_by_team ON script_run (team_id, created_at_ms DESC, id, status, bytes);
CREATE INDEX script_run_unfinished ON script_run (status, created_at_ms) WHERE status IN ('queued', 'running');

CREATE TABLE script_idempotency (
    script_id TEXT NOT NULL REFERENCES script (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    body_sha256 TEXT NOT NULL,
    run_id TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (script_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX script_idempotency_by_time ON script_idempotency (created_at_ms);

CREATE TABLE collection (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    slug TEXT NOT NULL,
    -- Name, fields, permissions, whether items have owners: JSON.
    doc TEXT NOT NULL,
    -- How many there are, and the bytes of their documents.
    items INTEGER NOT NULL,
    item_bytes INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    UNIQUE (team_id, slug)
) STRICT, WITHOUT ROWID;

CREATE TABLE item (
    collection_id TEXT NOT NULL REFERENCES collection (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    owner_id TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    -- Fields and values: a JSON object.
    doc TEXT NOT NULL,
    PRIMARY KEY (collection_id, id)
) STRICT;
CREATE INDEX item_by_time ON item (collection_id, created_at_ms DESC, id);

-- The values of unique fields.
CREATE TABLE item_unique (
    collection_id TEXT NOT NULL,
    field TEXT NOT NULL,
    -- JSON
    value TEXT NOT NULL,
    item_id TEXT NOT NULL,
    PRIMARY KEY (collection_id, field, value),
    FOREIGN KEY (collection_id, item_id) REFERENCES item (collection_id, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX item_unique_by_item ON item_unique (collection_id, item_id);

-- What happened, for scripts to be told.
CREATE TABLE script_event (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    -- channel:event, as patterns see it.
    target TEXT NOT NULL,
    -- How many scripts it came through.
    depth INTEGER NOT NULL,
    -- The run that caused it.
    cause_run_id TEXT,
    -- JSON: in whose name scripts are told.
    subject TEXT NOT NULL,
    -- Scripts that were told, and why there are not more.
    jobs INTEGER NOT NULL,
    note TEXT,
    created_at_ms INTEGER NOT NULL,
    -- Of the data, for retention.
    bytes INTEGER NOT NULL,
    -- JSON
    data TEXT NOT NULL
) STRICT;
CREATE INDEX script_event_by_team ON script_event (team_id, created_at_ms DESC, id, bytes);
CREATE INDEX script_event_by_time ON script_event (created_at_ms);

-- Runs that are owed: one for each event and script, each tick of a schedule, and each call that nobody waits for.
CREATE TABLE script_job (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    script_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- event, cron, async
    kind TEXT NOT NULL,
    -- The event's id, the tick's moment, or the run's id.
    source TEXT NOT NULL,
    -- pending, running, succeeded, dead, dropped
    state TEXT NOT NULL,
    -- Moment of the next try while pending.
    run_at_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    -- Tries that the end of the server cut short; they are no attempts.
    interruptions INTEGER NOT NULL,
    -- After this it is not tried again.
    give_up_at_ms INTEGER NOT NULL,
    depth INTEGER NOT NULL,
    last_run_id TEXT,
    created_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER,
    -- Of the input, for retention.
    bytes INTEGER NOT NULL,
    last_error TEXT,
    -- JSON: in whose name.
    subject TEXT NOT NULL,
    -- JSON: what ctx.data will be. null when it ended well, or is not wanted any more.
    input TEXT NOT NULL,
    UNIQUE (script_id, kind, source, version)
) STRICT;
CREATE INDEX script_job_due ON script_job (run_at_ms) WHERE state = 'pending';
CREATE INDEX script_job_waiting ON script_job (script_id, run_at_ms, id) WHERE state = 'pending';
CREATE INDEX script_job_running ON script_job (script_id) WHERE state = 'running';
CREATE INDEX script_job_by_script ON script_job (script_id, state, created_at_ms DESC, id);
CREATE INDEX script_job_by_team ON script_job (team_id, created_at_ms DESC, id);
CREATE INDEX script_job_of_team ON script_job (team_id, state, created_at_ms DESC, id, bytes);
CREATE INDEX script_job_finished ON script_job (state, finished_at_ms) WHERE finished_at_ms IS NOT NULL;

-- What waits of each team. The triggers keep it.
CREATE TABLE script_backlog (
    team_id TEXT PRIMARY KEY REFERENCES team (id) ON DELETE CASCADE,
    jobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER script_job_made AFTER INSERT ON script_job WHEN new.state = 'pending' BEGIN
    INSERT INTO script_backlog (team_id, jobs, bytes) VALUES (new.team_id, 1, new.bytes)
        ON CONFLICT (team_id) DO UPDATE SET jobs = jobs + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER script_job_begun AFTER UPDATE OF state ON script_job WHEN old.state = 'pending' AND new.state <> 'pending' BEGIN
    UPDATE script_backlog SET jobs = jobs - 1, bytes = bytes - old.bytes WHERE team_id = old.team_id;
END;
CREATE TRIGGER script_job_back AFTER UPDATE OF state ON script_job WHEN old.state <> 'pending' AND new.state = 'pending' BEGIN
    INSERT INTO script_backlog (team_id, jobs, bytes) VALUES (new.team_id, 1, new.bytes)
        ON CONFLICT (team_id) DO UPDATE SET jobs = jobs + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER script_job_gone AFTER DELETE ON script_job WHEN old.state = 'pending' BEGIN
    UPDATE script_backlog SET jobs = jobs - 1, bytes = bytes - old.bytes WHERE team_id = old.team_id;
END;
-- A call that nobody waits for is one run, which ends with its job whatever ends that, and waits again with it.
CREATE TRIGGER script_job_given_up AFTER UPDATE OF state ON script_job WHEN new.kind = 'async' AND new.state IN ('dead', 'dropped') BEGIN
    UPDATE script_run SET status = 'failed', error_code = CASE new.state WHEN 'dropped' THEN 'cancelled' ELSE 'internal' END,
            finished_at_ms = new.finished_at_ms,
            doc = json_set(doc, '$.error', json_object('code', CASE new.state WHEN 'dropped' THEN 'cancelled' ELSE 'internal' END,
                'name', 'Error', 'message', coalesce(new.last_error, 'it was given up')))
        WHERE id = new.source AND status IN ('queued', 'running');
END;
CREATE TRIGGER script_job_redriven AFTER UPDATE OF state ON script_job WHEN new.kind = 'async' AND old.state = 'dead' AND new.state = 'pending' BEGIN
    UPDATE script_run SET status = 'queued', error_code = NULL, finished_at_ms = NULL, doc = json_remove(doc, '$.error')
        WHERE id = new.source AND status = 'failed';
END;

CREATE TABLE script_schedule (
    script_id TEXT PRIMARY KEY REFERENCES script (id) ON DELETE CASCADE,
    team_id TEXT NOT NULL,
    -- What the next tick was found by.
    pattern TEXT NOT NULL,
    timezone TEXT NOT NULL,
    -- The next tick by the pattern, and when it is due (jitter included). None: there is none any more.
    next_tick_ms INTEGER,
    due_at_ms INTEGER,
    updated_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX script_schedule_due ON script_schedule (due_at_ms) WHERE due_at_ms IS NOT NULL;

-- What became of each tick.
CREATE TABLE script_tick (
    script_id TEXT NOT NULL REFERENCES script (id) ON DELETE CASCADE,
    tick_ms INTEGER NOT NULL,
    -- fired, skipped
    outcome TEXT NOT NULL,
    -- Why it was skipped, or why it is late.
    reason TEXT,
    -- Skipped ticks in a row that this row stands for: the first of them, and how many.
    first_tick_ms INTEGER NOT NULL,
    count INTEGER NOT NULL,
    decided_at_ms INTEGER NOT NULL,
    job_id TEXT,
    PRIMARY KEY (script_id, tick_ms)
) STRICT, WITHOUT ROWID;
