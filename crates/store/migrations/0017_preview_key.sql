-- A preview that was made by an API key ends with it.

ALTER TABLE preview ADD COLUMN key_id TEXT REFERENCES api_key (id) ON DELETE CASCADE;
CREATE INDEX preview_by_key ON preview (key_id) WHERE key_id IS NOT NULL;
