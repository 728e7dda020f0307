-- Keys of every tested type are split and merged at their own order.
CREATE SCHEMA migrate_keys;
SET search_path = migrate_keys, public;
SET client_min_messages = warning;
SET datestyle = 'SQL, DMY';
CREATE TABLE outcome (type text, kind text, state text, bounds text, rows bigint);
CREATE PROCEDURE try(type text, at text, keys text) LANGUAGE plpgsql AS $$
DECLARE
    migration bigint;
    state text;
    shards regclass[];
BEGIN
    EXECUTE format('CREATE TABLE t_%1$s (k %2$s PRIMARY KEY, n int)', replace(type, ' ', '_'), type);
    EXECUTE format('INSERT INTO t_%1$s SELECT %2$s, g FROM generate_series(1, 100) g', replace(type, ' ', '_'), keys);
    PERFORM repart_manage(('t_' || replace(type, ' ', '_'))::regclass);
    COMMIT;
    FOR round IN 1..2 LOOP
        SELECT array_agg(s.shard) INTO shards FROM repart.shards s
         WHERE s.relation = ('t_' || replace(type, ' ', '_'))::regclass;
        IF round = 1 THEN
            migration := repart_split(shards[1], VARIADIC ARRAY[at]);
        ELSE
            migration := repart_merge(VARIADIC shards);
        END IF;
        COMMIT;
        state := repart_wait(migration, '60 s');
        INSERT INTO outcome
            SELECT type, CASE round WHEN 1 THEN 'split' ELSE 'merge' END, state,
                   (SELECT string_agg(key_from || ' .. ' || key_to, ', ' ORDER BY key_from <> 'MINVALUE')
                      FROM repart.shards s WHERE s.relation = ('t_' || replace(type, ' ', '_'))::regclass),
                   (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM t_%s', replace(type, ' ', '_')),
                          false, true, '')))[1]::text::bigint;
        COMMIT;
    END LOOP;
    EXECUTE format('SELECT repart_unmanage(%L)', 't_' || replace(type, ' ', '_'));
END $$;
CALL try('int2', '50', 'g');
CALL try('int4', '-3', 'g - 50');
CALL try('int8', '50', 'g');
CALL try('numeric', '49.5', 'g');
CALL try('date', '02/03/2024', $$date '2024-01-01' + g$$);
CALL try('timestamp', '02/03/2024 12:30:00.5', $$timestamp '2024-01-01' + g * interval '1 day'$$);
CALL try('timestamptz', '02/03/2024 12:30:00+00', $$timestamptz '2024-01-01' + g * interval '1 day'$$);
CALL try('text', $$it's 5\0$$, $$'it''s ' || g$$);
CALL try('uuid', '80000000-0000-0000-0000-000000000000', $$md5(g::text)::uuid$$);
SET datestyle = 'ISO, MDY';
SET timezone = 'UTC';
SELECT type, kind, state, rows FROM outcome;
SELECT type, bounds FROM outcome WHERE kind = 'split';
SELECT DISTINCT bounds FROM outcome WHERE kind = 'merge';
