-- Public keys with which people come into sandboxes. One key may belong to many, each for a team.

CREATE TABLE ssh_key (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    user_id TEXT NOT NULL REFERENCES user (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    -- As in a .pub file, without the comment.
    public_key TEXT NOT NULL,
    key_type TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    comment TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    UNIQUE (fingerprint, team_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX ssh_key_by_user ON ssh_key (team_id, user_id, created_at_ms);
