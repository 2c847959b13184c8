-- Calls of functions that nobody waits for, and what came of them.

CREATE TABLE invocation (
    id TEXT PRIMARY KEY,
    sandbox_id TEXT NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
    function TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('running', 'succeeded', 'failed')),
    created_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER,
    -- JSON: the response of one that succeeded, the error of one that failed.
    result TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX invocation_by_sandbox ON invocation (sandbox_id, created_at_ms DESC, id);
CREATE INDEX invocation_by_time ON invocation (created_at_ms);
CREATE INDEX invocation_running ON invocation (sandbox_id) WHERE status = 'running';
