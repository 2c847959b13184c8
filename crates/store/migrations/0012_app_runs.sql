-- Runs that end with their app, and cleaning up that is tried again.

-- Why a run is to end of which nobody said so itself: app_stopped, app_deleted, app_replaced.
ALTER TABLE app_run ADD COLUMN withdrawn TEXT;
-- When cleaning up after it is tried again. None: at once.
ALTER TABLE app_run ADD COLUMN cleanup_at_ms INTEGER;
DROP INDEX app_run_uncleaned;
CREATE INDEX app_run_uncleaned ON app_run (cleanup_at_ms) WHERE cleanup = 'pending';
