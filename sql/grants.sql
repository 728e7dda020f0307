-- Everything that changes state is revoked from PUBLIC; the functions check ownership besides.

GRANT USAGE ON SCHEMA repart TO PUBLIC;
GRANT SELECT ON repart.shards, repart.migrations, repart.events TO pg_monitor;

REVOKE EXECUTE ON FUNCTION
    repart_split(regclass, text[]), repart_merge(regclass[]), repart_shift(regclass, regclass, text),
    repart_move(regclass, text, text), repart_apply(bigint), repart_run(regclass), repart_cancel(bigint),
    repart_pause(bigint), repart_resume(bigint), repart_revert(bigint),
    repart_wake() FROM PUBLIC;

COMMENT ON FUNCTION repart_split(regclass, text[]) IS 'queue the split of a shard at the given keys; returns the number of the migration';
COMMENT ON FUNCTION repart_merge(regclass[]) IS 'queue the merge of adjacent shards; returns the number of the migration';
COMMENT ON FUNCTION repart_shift(regclass, regclass, text) IS 'queue the move of the boundary between two neighbours; returns the number of the migration';
COMMENT ON FUNCTION repart_move(regclass, text, text) IS 'queue the move of a shard to another tablespace; returns the number of the migration';
COMMENT ON FUNCTION repart_apply(bigint) IS 'queue the steps of a stored plan, by default of the latest; returns the numbers of the migrations';
COMMENT ON FUNCTION repart_run(regclass) IS 'sample, forecast, plan and apply the plan; returns its number; the call for pg_cron';
COMMENT ON FUNCTION repart_wait(bigint, interval) IS 'wait until a migration has ended or the timeout is over; returns its state';
COMMENT ON FUNCTION repart_cancel(bigint) IS 'stop a migration that has not switched yet; nothing of it is left behind';
COMMENT ON FUNCTION repart_pause(bigint) IS 'pause a migration, or all of this database; nothing is copied or switched until repart_resume';
COMMENT ON FUNCTION repart_resume(bigint) IS 'let a paused migration go on, or all of this database';
COMMENT ON FUNCTION repart_revert(bigint) IS 'queue the migration that takes a finished one back; returns its number';
COMMENT ON FUNCTION repart_bound(text, boolean) IS 'one end of a partition bound, as a literal of the key type, MINVALUE or MAXVALUE';
COMMENT ON FUNCTION repart_version() IS 'the version of the loaded library';
COMMENT ON FUNCTION repart_wake() IS 'wake the workers of this database';

SELECT repart_wake();

-- Observing, forecasting and planning. repart_forecast stores nothing: anybody may call it, for a table that
-- is theirs.
REVOKE EXECUTE ON FUNCTION repart_sample(), repart_import_samples(regclass, jsonb), repart_plan(regclass),
    repart_set_model(regclass, text), repart_add_event(text, timestamptz, timestamptz, regclass),
    repart_drop_event(text, timestamptz, regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION repart_plan(regclass) TO pg_monitor;
GRANT EXECUTE ON FUNCTION repart_forecast(regclass, interval, text) TO PUBLIC;

COMMENT ON FUNCTION repart_sample() IS 'sample the load of every shard of every managed table; returns how many shards were read';
COMMENT ON FUNCTION repart_import_samples(regclass, jsonb) IS 'add load of a shard that was recorded elsewhere, as rates per second; returns how many samples were stored';
COMMENT ON FUNCTION repart_forecast(regclass, interval, text) IS 'forecast the load of each shard of a table, per second; each row is about the step that ends at its time';
COMMENT ON FUNCTION repart_set_model(regclass, text) IS 'choose the forecasting model of one table; NULL leaves it to the setting repart.model';
COMMENT ON FUNCTION repart_add_event(text, timestamptz, timestamptz, regclass) IS 'tell forecasts of an occurrence that changes the load of a table, of all by default; past ones teach what it does';
COMMENT ON FUNCTION repart_drop_event(text, timestamptz, regclass) IS 'forget occurrences of an event, all by default; returns how many';
COMMENT ON FUNCTION repart_plan(regclass) IS 'forecast and plan, for all tables by default; changes no table of the user and stores the plan';

-- The access sampler.
REVOKE EXECUTE ON FUNCTION repart_access(), repart_co_access(), repart_sampler(), repart_heat(regclass) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION repart_access(), repart_co_access(), repart_sampler(), repart_heat(regclass) TO pg_monitor;

COMMENT ON FUNCTION repart_access() IS 'what the access sampler has counted of each shard on this server';
COMMENT ON FUNCTION repart_heat(regclass) IS 'where inside each shard the load falls: buckets with their rows read and written per second, of late';
COMMENT ON FUNCTION repart_co_access() IS 'shards that are used by the same transactions on this server: the most frequent pairs';
COMMENT ON FUNCTION repart_sampler() IS 'how the access sampler of this server is: its memory, and what it could not count';

-- Managing.
REVOKE EXECUTE ON FUNCTION repart_manage(regclass, name, regclass, boolean), repart_unmanage(regclass) FROM PUBLIC;

COMMENT ON FUNCTION repart_manage(regclass, name, regclass, boolean) IS 'start managing a table; a plain one becomes a sharded table with one shard, by metadata alone; returns the number of shards';
COMMENT ON FUNCTION repart_unmanage(regclass) IS 'stop managing a table; its partitions stay';
