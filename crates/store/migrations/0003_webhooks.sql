-- Where a sandbox's events are posted. Outlives the sandbox as long as something of it is left to be posted or read.
CREATE TABLE webhook (
    sandbox_id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL,
    -- Empty once it was taken away.
    url TEXT NOT NULL,
    -- Host and port: what shares them shares its fate.
    receiver TEXT NOT NULL,
    -- Sealed.
    secret TEXT,
    -- What happened before is not told.
    since_ms INTEGER NOT NULL,
    -- The runtime whose events were taken last, and up to which.
    runtime_id TEXT,
    event_seq INTEGER NOT NULL DEFAULT 0,
    -- Events that were given up for want of room, or lost inside.
    dropped INTEGER NOT NULL DEFAULT 0,
    -- When the oldest that waits is tried next; none when nothing waits.
    next_at_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX webhook_by_next ON webhook (next_at_ms) WHERE next_at_ms IS NOT NULL;

CREATE TABLE webhook_delivery (
    -- The order in which a sandbox's events are posted. Never given twice.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    sandbox_id TEXT NOT NULL,
    team_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    -- What is given up first: 0 before 1 before 2.
    class INTEGER NOT NULL,
    -- The very bytes that are posted each time.
    body BLOB NOT NULL,
    body_bytes INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    created_at_ms INTEGER NOT NULL,
    give_up_at_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_attempt_at_ms INTEGER,
    last_status INTEGER,
    last_error TEXT,
    -- The beginning of what the receiver answered.
    last_answer TEXT,
    done_at_ms INTEGER,
    UNIQUE (sandbox_id, event_id)
) STRICT;
CREATE INDEX webhook_delivery_waiting ON webhook_delivery (sandbox_id, seq, class, body_bytes) WHERE state = 'pending';
CREATE INDEX webhook_delivery_done ON webhook_delivery (sandbox_id, seq, body_bytes) WHERE state <> 'pending';
CREATE INDEX webhook_delivery_by_team ON webhook_delivery (team_id, state, seq, body_bytes);
CREATE INDEX webhook_delivery_by_end ON webhook_delivery (done_at_ms) WHERE done_at_ms IS NOT NULL;

-- Sandboxes that had one before. Their secrets are sealed, and come here, at the next start.
INSERT INTO webhook (sandbox_id, team_id, url, receiver, since_ms)
SELECT id, team_id, json_extract(doc, '$.config.webhook.url'), '', updated_at_ms FROM sandbox
WHERE coalesce(json_extract(doc, '$.config.webhook.url'), '') <> '' AND desired <> 'deleted';
