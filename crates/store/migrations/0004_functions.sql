-- Published services.

CREATE TABLE function (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id),
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    -- First label of its host. A deleted function keeps slug and label, so that nobody else gets its callers.
    domain_label TEXT NOT NULL UNIQUE,
    enabled INTEGER NOT NULL,
    autoscaling TEXT NOT NULL,
    -- The number of the newest revision that there ever was: none is given twice.
    last_revision INTEGER NOT NULL,
    created_by TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    deleted_at_ms INTEGER,
    UNIQUE (team_id, slug)
) STRICT, WITHOUT ROWID;
CREATE INDEX function_by_team ON function (team_id, updated_at_ms DESC) WHERE deleted_at_ms IS NULL;

CREATE TABLE function_revision (
    id TEXT PRIMARY KEY,
    function_id TEXT NOT NULL REFERENCES function (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    source_sandbox_id TEXT,
    -- What it is made from, as JSON; never changed.
    doc TEXT NOT NULL,
    -- When it was ready for the first time.
    proved_at_ms INTEGER,
    UNIQUE (function_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX function_revision_by_source ON function_revision (source_sandbox_id, function_id, number) WHERE source_sandbox_id IS NOT NULL;

CREATE TABLE function_alias (
    function_id TEXT NOT NULL REFERENCES function (id) ON DELETE CASCADE,
    alias TEXT NOT NULL,
    -- Revisions and weights, as JSON.
    split TEXT NOT NULL,
    updated_by TEXT,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (function_id, alias)
) STRICT, WITHOUT ROWID;

-- Sandboxes that serve revisions. The row comes before the sandbox and goes after it, so that none is nobody's.
CREATE TABLE function_instance (
    sandbox_id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL,
    function_id TEXT NOT NULL,
    revision_id TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    ready_at_ms INTEGER,
    startup_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX function_instance_by_function ON function_instance (function_id, revision_id);

CREATE TABLE function_event (
    function_id TEXT NOT NULL REFERENCES function (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (function_id, seq)
) STRICT, WITHOUT ROWID;

-- The sandbox that alone has a volume, which goes with it; none for the volumes of teams.
ALTER TABLE volume ADD COLUMN owner TEXT;
CREATE INDEX volume_by_owner ON volume (owner) WHERE owner IS NOT NULL;
