-- What outlives a runtime. Bases are JSON: an image by content and layers, top first.

CREATE TABLE snapshot (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id),
    user_id TEXT NOT NULL,
    -- Where its files come from; the sandbox may be gone.
    sandbox_id TEXT NOT NULL,
    name TEXT,
    description TEXT,
    base TEXT NOT NULL,
    expires_at_ms INTEGER,
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX snapshot_by_sandbox ON snapshot (sandbox_id, created_at_ms);
CREATE INDEX snapshot_by_team ON snapshot (team_id);
CREATE INDEX snapshot_by_expiry ON snapshot (expires_at_ms) WHERE expires_at_ms IS NOT NULL;

CREATE TABLE volume (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id),
    user_id TEXT NOT NULL,
    name TEXT,
    access_mode TEXT NOT NULL CHECK (access_mode IN ('RWO', 'ROX', 'RWX')),
    tree_id TEXT NOT NULL UNIQUE,
    size_limit_bytes INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    source_volume_id TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX volume_by_team ON volume (team_id, created_at_ms, id);

CREATE TABLE volume_mount (
    sandbox_id TEXT NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
    volume_id TEXT NOT NULL REFERENCES volume (id),
    mount_point TEXT NOT NULL,
    read_only INTEGER NOT NULL,
    -- Whether it keeps others from a volume that one sandbox may have: not while the sandbox is cleaned or deleted.
    holds INTEGER NOT NULL,
    PRIMARY KEY (sandbox_id, mount_point)
) STRICT, WITHOUT ROWID;
CREATE INDEX volume_mount_by_volume ON volume_mount (volume_id);

CREATE TABLE volume_snapshot (
    id TEXT PRIMARY KEY,
    volume_id TEXT NOT NULL REFERENCES volume (id) ON DELETE CASCADE,
    name TEXT,
    description TEXT,
    tree_id TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX volume_snapshot_by_volume ON volume_snapshot (volume_id, created_at_ms);

ALTER TABLE template ADD COLUMN base TEXT;
ALTER TABLE template ADD COLUMN creation TEXT;

CREATE TABLE team_quota (
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    dimension TEXT NOT NULL,
    limit_value INTEGER NOT NULL,
    -- Of rates.
    interval_ms INTEGER,
    burst_value INTEGER,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (team_id, dimension)
) STRICT, WITHOUT ROWID;

-- Sums by the hour. The subject may be gone.
CREATE TABLE usage_window (
    team_id TEXT NOT NULL,
    window_start_ms INTEGER NOT NULL,
    subject_type TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    window_type TEXT NOT NULL,
    value INTEGER NOT NULL,
    recorded_at_ms INTEGER NOT NULL,
    PRIMARY KEY (team_id, window_start_ms, subject_type, subject_id, window_type)
) STRICT, WITHOUT ROWID;

CREATE TABLE metric_sample (
    sandbox_id TEXT NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
    at_ms INTEGER NOT NULL,
    sample TEXT NOT NULL,
    PRIMARY KEY (sandbox_id, at_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX metric_sample_by_time ON metric_sample (at_ms);

-- What its limits allow, for sums by team.
ALTER TABLE sandbox ADD COLUMN memory_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandbox ADD COLUMN cpu_millis INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandbox ADD COLUMN disk_bytes INTEGER NOT NULL DEFAULT 0;
