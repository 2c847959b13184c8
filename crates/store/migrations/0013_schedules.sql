-- Runs of schedules that take turns, besides whatever group their action has.

-- Of its schedule's runs with this only one runs at a time.
ALTER TABLE app_run ADD COLUMN by_turns INTEGER NOT NULL DEFAULT 0 CHECK (by_turns IN (0, 1));
CREATE INDEX app_run_by_turns ON app_run (schedule_id, created_at_ms, id) WHERE schedule_id IS NOT NULL AND status IN ('queued', 'running');
-- Runs that took turns as a group of their schedule.
UPDATE app_run SET by_turns = 1 WHERE schedule_id IS NOT NULL AND concurrency_group = 'schedule:' || schedule_id;
UPDATE app_run SET concurrency_group = NULL, concurrency_max = NULL WHERE by_turns = 1;
