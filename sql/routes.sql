-- Routing copies: tables on nodes that have the same map as a sharded table here, for clients that connect there. Not
-- dumped: a restored database is another coordinator, and what the copies route to is the old one.
CREATE TABLE repart.routing_copies (
    relation     regclass    NOT NULL,
    node         name        NOT NULL,
    -- What the table is called there: it keeps its name when the one here is renamed.
    table_schema name        NOT NULL,
    table_name   name        NOT NULL,
    -- What the table here was made of when the copy was last made to lead there.
    map          text        NOT NULL,
    added_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relation, node)
);
COMMENT ON TABLE repart.routing_copies IS 'nodes with a table that routes to the same shards, and is switched together with it';
GRANT SELECT ON repart.routing_copies TO pg_monitor;

-- Partitions that somebody adds, renames or drops by hand are not in the copies: their rows would be hidden there. So a
-- transaction that does so cannot commit unless it has brought the copies up to date. The event trigger is enabled while
-- there are routing copies.
CREATE FUNCTION repart.map_of(relation oid) RETURNS text LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT md5(coalesce(string_agg(concat_ws(' ', n.nspname, c.relname, c.relpartbound::text, s.srvname, f.ftoptions::text),
                                   E'\n' ORDER BY c.oid), ''))
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid
      LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
     WHERE i.inhparent = map_of.relation AND NOT i.inhdetachpending;
END;
COMMENT ON FUNCTION repart.map_of(oid) IS 'what a table is made of, in short';

CREATE TABLE repart.definitions_changed (transaction xid8 NOT NULL);
COMMENT ON TABLE repart.definitions_changed IS 'empty but inside transactions that change definitions: what looks at routing copies when they commit';

CREATE FUNCTION repart.require_same_maps() RETURNS void LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    copy record;
BEGIN
    SELECT r.relation, r.node INTO copy FROM repart.routing_copies r
     WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = r.relation) AND r.map <> repart.map_of(r.relation)
     ORDER BY r.relation::oid, r.node LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_in_use',
            MESSAGE = format('partitions of table "%s" were changed, but not those of its routing copy on node "%s"',
                             copy.relation, copy.node),
            DETAIL = 'Rows of partitions that it does not know would be hidden there.',
            HINT = format('Run SELECT repart_add_routing_copy(%L, %L) in the same transaction, after the change, as a superuser.',
                          copy.relation, copy.node);
    END IF;
END
$function$;
COMMENT ON FUNCTION repart.require_same_maps() IS 'fails where a routing copy is not made of what its table is made of';

CREATE FUNCTION repart.require_same_maps_in_the_end() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    DELETE FROM repart.definitions_changed WHERE transaction = NEW.transaction;
    PERFORM repart.require_same_maps();
    RETURN NULL;
END
$function$;
COMMENT ON FUNCTION repart.require_same_maps_in_the_end() IS 'looks at routing copies when a change of definitions commits';

CREATE FUNCTION repart.note_definition_changed() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF current_setting('repart_routing.seen', true) IS DISTINCT FROM pg_current_xact_id()::text
       AND (tg_tag LIKE 'DROP %' OR tg_tag LIKE 'ALTER S%'
            OR EXISTS (SELECT FROM pg_event_trigger_ddl_commands() d
                         LEFT JOIN pg_inherits i ON i.inhrelid = d.objid
                         JOIN repart.routing_copies r ON r.relation IN (d.objid, i.inhparent)
                        WHERE d.classid = 'pg_class'::regclass))
    THEN
        BEGIN
            INSERT INTO repart.definitions_changed VALUES (pg_current_xact_id());
            PERFORM set_config('repart_routing.seen', pg_current_xact_id()::text, true);
        EXCEPTION WHEN insufficient_privilege THEN
            -- Nothing can be deferred inside what runs with restricted rights, such as repart's own changes as the owner.
            PERFORM repart.require_same_maps();
        END;
    END IF;
END
$function$;
COMMENT ON FUNCTION repart.note_definition_changed() IS 'lets the commit of a change of definitions look at routing copies';
REVOKE EXECUTE ON FUNCTION repart.map_of(oid), repart.note_definition_changed(), repart.require_same_maps(),
    repart.require_same_maps_in_the_end() FROM PUBLIC;

CREATE CONSTRAINT TRIGGER require_same_maps AFTER INSERT ON repart.definitions_changed
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION repart.require_same_maps_in_the_end();

CREATE EVENT TRIGGER repart_routing_copies ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'DROP TABLE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE',
                 'DROP FOREIGN TABLE', 'ALTER SCHEMA', 'DROP SCHEMA', 'ALTER SERVER', 'DROP SERVER', 'DROP OWNED',
                 'DROP EXTENSION')
    EXECUTE FUNCTION repart.note_definition_changed();
ALTER EVENT TRIGGER repart_routing_copies DISABLE;
COMMENT ON EVENT TRIGGER repart_routing_copies IS 'looks at routing copies when the partitions of a table were changed by hand; enabled while there are any';

REVOKE EXECUTE ON FUNCTION
    repart_add_routing_copy(regclass, name), repart_drop_routing_copy(regclass, name, boolean),
    repart_note_switch(oid[]) FROM PUBLIC;
COMMENT ON FUNCTION repart_add_routing_copy(regclass, name) IS 'make a table on a node that routes to the shards of this one, or bring it up to date; returns the number of its partitions';
COMMENT ON FUNCTION repart_drop_routing_copy(regclass, name, boolean) IS 'drop the routing copy of a table on a node; with force, forget it without asking the node';
COMMENT ON FUNCTION repart_note_switch(oid[]) IS 'note that the running transaction changes what these tables route to, for the guard of old snapshots; called by another coordinator';
