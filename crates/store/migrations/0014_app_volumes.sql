-- Volumes that apps declare: made when first needed, and kept when sandboxes go.

CREATE TABLE app_volume (
    volume_id TEXT PRIMARY KEY REFERENCES volume (id) ON DELETE CASCADE,
    team_id TEXT NOT NULL,
    -- By name and not by id: an app that is deployed again under the same name has its volumes again.
    app_name TEXT NOT NULL,
    -- In the manifest.
    name TEXT NOT NULL,
    -- Whether it goes when the app's sandbox is deleted, and with the app.
    with_sandbox INTEGER NOT NULL,
    -- kept, or removing: then it is deleted by whoever looks as soon as no sandbox has it.
    state TEXT NOT NULL CHECK (state IN ('kept', 'removing')),
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX app_volume_by_name ON app_volume (team_id, app_name, name) WHERE state = 'kept';
CREATE INDEX app_volume_removing ON app_volume (volume_id) WHERE state = 'removing';
