-- Which API key added an SSH key, and ends it when it ends. A login's has none.

ALTER TABLE ssh_key ADD COLUMN api_key_id TEXT REFERENCES api_key (id) ON DELETE CASCADE;
CREATE INDEX ssh_key_by_api_key ON ssh_key (api_key_id);
