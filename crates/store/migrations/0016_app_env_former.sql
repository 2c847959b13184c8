-- Values that variables of apps had before, sealed as they were. They are handed to nobody: what was started with them may print them
-- still, and they are taken out of that.
CREATE TABLE app_env_former (
    id INTEGER PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    sealed TEXT NOT NULL
) STRICT;
CREATE INDEX app_env_former_of ON app_env_former (app_id, name, id);
