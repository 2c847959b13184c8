-- What runs of a sandbox were given sealed is asked for by everybody who reads what was printed there.
CREATE INDEX app_run_sealed ON app_run (sandbox_id, created_at_ms DESC, id) WHERE instr(doc, '"sealed_env"') > 0;
