-- The chains of receipts: how much of each is kept, and where it begins by now.

CREATE TABLE app_receipt_chain (
    team_id TEXT PRIMARY KEY REFERENCES team (id) ON DELETE CASCADE,
    -- Bytes of the documents that are kept.
    bytes INTEGER NOT NULL,
    -- The last receipt that is not kept any longer: its number, its hash, and when it went. None: all are there.
    gone_seq INTEGER,
    gone_sha256 TEXT,
    gone_at_ms INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO app_receipt_chain (team_id, bytes) SELECT team_id, sum(octet_length(doc)) FROM app_receipt GROUP BY team_id;
