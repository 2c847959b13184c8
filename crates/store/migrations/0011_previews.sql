-- Private ways to the ports of sandboxes. What opens one is stored as a hash, so these rows let nobody in.

CREATE TABLE preview (
    id TEXT PRIMARY KEY,
    sandbox_id TEXT NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    port INTEGER NOT NULL,
    protocol TEXT NOT NULL CHECK (protocol IN ('http', 'https')),
    path TEXT NOT NULL,
    wakes INTEGER NOT NULL,
    runtime_generation INTEGER NOT NULL,
    -- Lower-case hex. The first until it is opened, the second from then on.
    bootstrap_sha256 TEXT,
    session_sha256 TEXT,
    created_at_ms INTEGER NOT NULL,
    opened_at_ms INTEGER,
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX preview_by_sandbox ON preview (sandbox_id, created_at_ms, id);
CREATE INDEX preview_by_expiry ON preview (expires_at_ms);
CREATE INDEX preview_by_user ON preview (team_id, user_id);
