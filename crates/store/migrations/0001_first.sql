-- Times are milliseconds since 1970 UTC. JSON is text. Ids are text.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE user (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE COLLATE NOCASE,
    name TEXT NOT NULL,
    avatar_url TEXT,
    -- PHC string; none = this user cannot log in with a password.
    password_hash TEXT,
    is_admin INTEGER NOT NULL,
    email_verified INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE team (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    slug TEXT NOT NULL UNIQUE,
    owner_id TEXT REFERENCES user (id),
    home_region_id TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE team_member (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    joined_at_ms INTEGER NOT NULL,
    UNIQUE (team_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX team_member_by_user ON team_member (user_id, joined_at_ms);

CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    created_by TEXT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    scope TEXT NOT NULL,
    -- JSON list of role names.
    roles TEXT NOT NULL,
    -- Lower-case hex; the key itself is stored nowhere.
    token_sha256 TEXT NOT NULL UNIQUE,
    is_active INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    last_used_at_ms INTEGER,
    usage_count INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX api_key_by_team ON api_key (team_id, created_at_ms);

-- Access and refresh tokens. A family is one login and what was refreshed from it.
CREATE TABLE login_token (
    token_sha256 TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('access', 'refresh')),
    family TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    -- A refresh token that was used stays until it expires, so that its second use is seen.
    used_at_ms INTEGER,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX login_token_by_family ON login_token (family);
CREATE INDEX login_token_by_user ON login_token (user_id);
CREATE INDEX login_token_by_expiry ON login_token (expires_at_ms);

CREATE TABLE template (
    -- '' = built in, for all teams.
    team_id TEXT NOT NULL,
    id TEXT NOT NULL,
    user_id TEXT,
    spec TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (team_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE sandbox (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id),
    template_id TEXT NOT NULL,
    -- The state in one word and whether it counts as paused: derived, for filters.
    status TEXT NOT NULL,
    paused INTEGER NOT NULL,
    desired TEXT NOT NULL,
    desired_generation INTEGER NOT NULL,
    observed TEXT NOT NULL,
    observed_generation INTEGER NOT NULL,
    runtime_generation INTEGER NOT NULL,
    runtime_id TEXT,
    root_id TEXT,
    uid_slot INTEGER,
    expires_at_ms INTEGER,
    hard_expires_at_ms INTEGER,
    hibernate_at_ms INTEGER,
    -- The least of the deadlines that count in this state: derived.
    due_at_ms INTEGER,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    version INTEGER NOT NULL,
    -- All else of the record.
    doc TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sandbox_by_team ON sandbox (team_id, created_at_ms DESC, id);
CREATE INDEX sandbox_by_due ON sandbox (due_at_ms) WHERE due_at_ms IS NOT NULL;
CREATE UNIQUE INDEX sandbox_by_uid_slot ON sandbox (uid_slot) WHERE uid_slot IS NOT NULL;
CREATE UNIQUE INDEX sandbox_by_runtime ON sandbox (runtime_id) WHERE runtime_id IS NOT NULL;
CREATE UNIQUE INDEX sandbox_by_root ON sandbox (root_id) WHERE root_id IS NOT NULL;

CREATE TABLE sandbox_event (
    sandbox_id TEXT NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (sandbox_id, seq)
) STRICT, WITHOUT ROWID;
