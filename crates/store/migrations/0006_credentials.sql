-- Credential sources: secrets that sandboxes use and never see.

CREATE TABLE credential_source (
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- The secret, sealed for this team and this name.
    sealed TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (team_id, name)
) STRICT, WITHOUT ROWID;

-- What a row's network policy binds of them, as JSON: a list of {ref, source, projection}. Null = nothing.
ALTER TABLE sandbox ADD COLUMN credentials TEXT;
ALTER TABLE template ADD COLUMN credentials TEXT;
ALTER TABLE function_revision ADD COLUMN credentials TEXT;
CREATE INDEX sandbox_with_credentials ON sandbox (team_id, id) WHERE credentials IS NOT NULL;
CREATE INDEX function_revision_with_credentials ON function_revision (function_id, number) WHERE credentials IS NOT NULL;
