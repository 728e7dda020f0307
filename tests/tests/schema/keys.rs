//! Shard keys of every kind: each row is in the shard that its key belongs to, and ATTACH never scans, since
//! PostgreSQL recognises the CHECK on the bound as proof.

use repart_tests::repart::Session;

use crate::{missing, shared_cluster};

/// A kind of shard key.
struct Key {
    /// What must exist for it.
    setup: &'static str,
    /// The column's type, with collation.
    column: &'static str,
    /// Operator class or collation of the partition key.
    order: &'static str,
    /// What identifies a row, after CREATE.
    unique: &'static str,
    /// The keys, as rows of VALUES.
    keys: &'static str,
    /// Where the table is split: literals, quoted.
    at: &'static str,
    /// Where the first boundary is shifted to.
    shift: &'static str,
}

impl Key {
    const NUMBER: Self = Self {
        setup: "",
        column: "int",
        order: "",
        unique: "UNIQUE INDEX ON t (k, n)",
        keys: "('1'), ('2'), ('3'), ('4')",
        at: "'2', '4'",
        shift: "'3'",
    };
}

fn sorted(name: &str, key: &Key) {
    let cluster = shared_cluster();
    let mut session = Session::open(&cluster, "postgres");
    if let Some(reason) = missing(&mut session, 15, &[key.setup, key.column].concat()) {
        eprintln!("skipped: {name}: {reason}");
        return;
    }
    session.run(&format!(
        "CREATE SCHEMA key_{name}; SET search_path = key_{name}, public; {}",
        key.setup
    ));
    session.run(&format!(
        "CREATE TABLE t_{name} (k {} NOT NULL, n int NOT NULL) PARTITION BY RANGE (k {}); CREATE {};
         CREATE TABLE whole_{name} PARTITION OF t_{name} FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         INSERT INTO t_{name} SELECT v, g FROM (VALUES {}) k (v), generate_series(1, 3) g",
        key.column, key.order, key.unique.replace(" t ", &format!(" t_{name} ")), key.keys.replace("')", &format!("'::{})", key.column.split(" COLLATE").next().unwrap()))
    ));
    session.run(&format!("SELECT repart_manage('t_{name}')"));
    let all =
        "SELECT format('%s %s', k, n) FROM t ORDER BY 1".replace(" t ", &format!(" t_{name} "));
    let rows = session.texts(&all);
    assert!(rows.len() >= 6);
    let targets = key.at.split(", '").count() + 1;
    let mut attached = 0;
    let mut step = |session: &mut Session, call: &str, targets: usize| {
        let id = session.queue(call);
        session.wait_done(id);
        attached += targets;
        assert_eq!(session.texts(&all), rows, "rows after {call}");
        assert_placed(session, name);
        let proven = cluster
            .log()
            .lines()
            .filter(|line| line.contains("is implied by existing constraints"))
            .filter_map(|line| line.split('"').nth(1))
            .filter(|shard| {
                let made = shard.strip_prefix(&format!("t_{name}_"));
                *shard == format!("whole_{name}")
                    || made.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            })
            .count();
        assert_eq!(proven, attached, "ATTACH scanned a shard at {call}");
    };
    step(
        &mut session,
        &format!("repart_split('whole_{name}', VARIADIC ARRAY[{}])", key.at),
        targets,
    );
    let shards = shards(&mut session, name);
    assert_eq!(shards.len(), targets);
    step(
        &mut session,
        &format!(
            "repart_shift('{}', '{}', {})",
            shards[0], shards[1], key.shift
        ),
        2,
    );
    let shards = self::shards(&mut session, name);
    let list: Vec<String> = shards.iter().map(|shard| format!("'{shard}'")).collect();
    step(
        &mut session,
        &format!("repart_merge({})", list.join(", ")),
        1,
    );
    session.run(&format!("DROP SCHEMA key_{name} CASCADE"));
}

/// The shards from the lowest to the highest.
fn shards(session: &mut Session, name: &str) -> Vec<String> {
    let mut found: Vec<(String, String, String)> = session
        .query(
            &format!("SELECT shard::text, key_from, key_to FROM repart.shards WHERE relation = 't_{name}'::regclass"),
            &[],
        )
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let mut ordered = Vec::new();
    let mut from = "MINVALUE".to_owned();
    while let Some(at) = found.iter().position(|shard| shard.1 == from) {
        let (shard, _, to) = found.remove(at);
        ordered.push(shard);
        from = to;
    }
    assert!(found.is_empty() && from == "MAXVALUE", "{found:?} {from}");
    ordered
}

/// PostgreSQL itself says of each row where it belongs.
fn assert_placed(session: &mut Session, name: &str) {
    for row in session.query(
        &format!(
            "SELECT relid::regclass::text, coalesce(pg_get_partition_constraintdef(relid), 'true')
               FROM pg_partition_tree('t_{name}') WHERE isleaf"
        ),
        &[],
    ) {
        let (shard, constraint): (String, String) = (row.get(0), row.get(1));
        let misplaced = session.number(&format!(
            "SELECT count(*) FROM ONLY {shard} WHERE NOT ({constraint})"
        ));
        assert_eq!(misplaced, 0, "rows of {shard} that violate {constraint}");
    }
}

/// One test for each kind of key, named by it.
macro_rules! keys {
    ($($name:ident: { $($field:ident: $value:expr),* $(,)? })*) => {
        $(
            #[test]
            fn $name() {
                sorted(stringify!($name), &Key { $($field: $value,)* ..Key::NUMBER });
            }
        )*
    };
}

const WORDS: &str = "(''), ('a'), ('A'), ('b'), ('B'), ('z'), ('Z'), ('ä'), ('it''s'), ('back\\slash'), (' '), ('~'), ('日本'), ('new\nline'), ('%s $1')";

keys! {
    integer: {}
    smallint: { column: "smallint", keys: "('-32768'), ('-1'), ('0'), ('32767')", at: "'-32767', '32767'", shift: "'5'" }
    bigint_extremes: {
        column: "bigint", keys: "('-9223372036854775808'), ('-1'), ('0'), ('9223372036854775807')",
        at: "'-9223372036854775807', '9223372036854775807'", shift: "'-1'",
    }
    numeric_nan_and_infinity: {
        column: "numeric", keys: "('-Infinity'), ('-1e100'), ('0.000'), ('1.10'), ('Infinity'), ('NaN')",
        at: "'-1e200', '0', 'Infinity', 'NaN'", shift: "'-5.50'",
    }
    numeric_with_scale: { column: "numeric(10,2)", keys: "('1.10'), ('2.00'), ('3')", at: "'1.5', '2.555'", shift: "'1.70'" }
    float8_nan_and_infinities: {
        column: "float8", keys: "('-Infinity'), ('-0'), ('0.1'), ('1e300'), ('Infinity'), ('NaN')",
        at: "'-1e300', '0', 'Infinity', 'NaN'", shift: "'-2'",
    }
    float4: { column: "float4", keys: "('-Infinity'), ('0.1'), ('NaN')", at: "'0.1', 'NaN'", shift: "'0.05'" }
    date_infinity: {
        column: "date", keys: "('-infinity'), ('2024-01-01'), ('0044-03-15 BC'), ('infinity')",
        at: "'0001-01-01', 'infinity'", shift: "'2000-01-01'",
    }
    timestamp_infinity: {
        column: "timestamp", keys: "('-infinity'), ('2024-01-01 12:00:00.123456'), ('infinity')",
        at: "'2024-01-01', 'infinity'", shift: "'2023-01-01 00:00:00.5'",
    }
    timestamptz_infinity: {
        column: "timestamptz(3)", keys: "('-infinity'), ('2024-01-01 12:00:00.123+05'), ('infinity')",
        at: "'2024-01-01 00:00+00', 'infinity'", shift: "'2023-01-01 00:00:00.5-08'",
    }
    time_of_day: { column: "time", keys: "('00:00'), ('12:30'), ('24:00')", at: "'06:00', '24:00'", shift: "'07:00'" }
    interval: { column: "interval", keys: "('-5 days'), ('1 mon'), ('29 days'), ('100 years')", at: "'0', '1 mon'", shift: "'3 days'" }
    boolean: { column: "boolean", keys: "('f'), ('t')", at: "'t'", shift: "'f'" }
    text_default_collation: { column: "text", keys: WORDS, at: "'b', 'it''s', 'new\nline'", shift: "'a'" }
    text_c: { column: "text COLLATE \"C\"", keys: WORDS, at: "'', 'b', 'it''s', 'new\nline', 'ä'", shift: "' '" }
    text_posix: { column: "text COLLATE \"POSIX\"", keys: WORDS, at: "'a', 'back\\slash'", shift: "'Z'" }
    text_libc: { setup: "CREATE COLLATION of_libc (provider = libc, locale = 'C.UTF-8')", column: "text COLLATE of_libc", keys: WORDS, at: "'a', 'b'", shift: "'Z'" }
    text_icu: { column: "text COLLATE \"de-x-icu\"", keys: WORDS, at: "'a', 'B'", shift: "'~'" }
    text_partitioned_by_another_collation: {
        column: "text", order: "COLLATE \"C\"", keys: WORDS, at: "'a', 'b'", shift: "'Z'",
        // A key must have the partition key's collation.
        unique: "UNIQUE INDEX ON t (k COLLATE \"C\", n)",
    }
    text_nondeterministic: {
        setup: "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        column: "text COLLATE blind", keys: "('a'), ('b'), ('C'), ('ä'), ('z')", at: "'B', 'Z'", shift: "'c'",
    }
    text_pattern: { column: "text", order: "text_pattern_ops", keys: WORDS, at: "'a', 'b'", shift: "'Z'" }
    varchar: { column: "varchar(10)", keys: WORDS, at: "'b', 'it''s'", shift: "'a'" }
    varchar_c: { column: "varchar(10) COLLATE \"C\"", keys: WORDS, at: "'b', 'it''s'", shift: "'a'" }
    character: { column: "char(5)", keys: "(''), ('a'), ('b  '), ('abcde')", at: "'aa', 'b'", shift: "'a'" }
    single_character: { column: "\"char\"", keys: "('a'), ('b'), ('~')", at: "'b', '~'", shift: "'c'" }
    name: { column: "name", keys: "('a'), ('b'), ('Z')", at: "'a', 'b'", shift: "'aa'" }
    bytes: { column: "bytea", keys: "(''), ('\\x00'), ('\\xff'), ('\\x0102')", at: "'\\x01', '\\xff'", shift: "'\\x0103'" }
    bits: { column: "bit varying", keys: "(''), ('0'), ('101'), ('11')", at: "'1', '11'", shift: "'100'" }
    uuid: {
        column: "uuid", keys: "('00000000-0000-0000-0000-000000000000'), ('80000000-0000-0000-0000-000000000001'), ('ffffffff-ffff-ffff-ffff-ffffffffffff')",
        at: "'80000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff'", shift: "'90000000-0000-0000-0000-000000000000'",
    }
    inet: { column: "inet", keys: "('10.0.0.1'), ('10.0.0.0/8'), ('::1'), ('255.255.255.255')", at: "'10.0.0.1', '::'", shift: "'11.0.0.0'" }
    cidr: { column: "cidr", keys: "('10.0.0.0/8'), ('10.0.0.0/16'), ('192.168.0.0/16')", at: "'10.0.0.0/12', '192.168.0.0/16'", shift: "'11.0.0.0/8'" }
    mac_address: { column: "macaddr", keys: "('00:00:00:00:00:01'), ('08:00:2b:01:02:03')", at: "'01:00:00:00:00:00'", shift: "'00:01:00:00:00:00'" }
    oid: { column: "oid", keys: "('0'), ('5'), ('4294967295')", at: "'5', '4294967295'", shift: "'6'" }
    log_position: { column: "pg_lsn", keys: "('0/0'), ('0/16B3748'), ('FFFFFFFF/FFFFFFFF')", at: "'0/1', 'FFFFFFFF/FFFFFFFF'", shift: "'1/0'" }
    enumeration: {
        setup: "CREATE TYPE mood AS ENUM ('so so', 'good', 'it''s great')",
        column: "mood", keys: "('so so'), ('good'), ('it''s great')", at: "'good', 'it''s great'", shift: "'so so'",
    }
    array: { column: "int[]", keys: "('{}'), ('{1}'), ('{1,NULL}'), ('{2}')", at: "'{1}', '{2}'", shift: "'{1,5}'" }
    text_array: { column: "text[]", keys: "('{}'), ('{a}'), ('{\"b c\"}'), ('{z}')", at: "'{a}', '{\"b c\"}'", shift: "'{aa}'" }
    range: { column: "int4range", keys: "('empty'), ('[1,5)'), ('[3,)')", at: "'[1,2)', '[3,4)'", shift: "'[2,9)'" }
    domain_over_int: { setup: "CREATE DOMAIN positive AS int CHECK (VALUE > 0)", column: "positive" }
    domain_over_text: {
        setup: "CREATE DOMAIN word AS varchar(12) COLLATE \"C\" CHECK (VALUE <> 'x')",
        column: "word", keys: "('a'), ('b'), ('Z')", at: "'a', 'b'", shift: "'aa'",
    }
    domain_over_domain: { setup: "CREATE DOMAIN a AS numeric(10, 2) CHECK (VALUE > 0); CREATE DOMAIN b AS a CHECK (VALUE < 100)", column: "b" }
    operator_class_of_a_user: {
        setup: "CREATE SCHEMA key_ops;
                CREATE FUNCTION key_ops.backwards(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT btint4cmp($2, $1)';
                CREATE OPERATOR key_ops.< (LEFTARG = int, RIGHTARG = int, FUNCTION = int4gt, COMMUTATOR = OPERATOR(key_ops.>));
                CREATE OPERATOR key_ops.> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4lt, COMMUTATOR = OPERATOR(key_ops.<));
                CREATE OPERATOR key_ops.<= (LEFTARG = int, RIGHTARG = int, FUNCTION = int4ge, COMMUTATOR = OPERATOR(key_ops.>=));
                CREATE OPERATOR key_ops.>= (LEFTARG = int, RIGHTARG = int, FUNCTION = int4le, COMMUTATOR = OPERATOR(key_ops.<=));
                CREATE OPERATOR CLASS key_ops.reverse_ops FOR TYPE int USING btree AS
                    OPERATOR 1 key_ops.<, OPERATOR 2 key_ops.<=, OPERATOR 3 pg_catalog.=, OPERATOR 4 key_ops.>=, OPERATOR 5 key_ops.>,
                    FUNCTION 1 key_ops.backwards(int, int)",
        order: "key_ops.reverse_ops", at: "'4', '2'", shift: "'3'",
    }
}

/// Gaps between shards stay gaps, and open ends stay open.
#[test]
fn gaps_and_open_ends() {
    let cluster = shared_cluster();
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE SCHEMA gaps; SET search_path = gaps, public;
         CREATE TABLE t (k int PRIMARY KEY) PARTITION BY RANGE (k);
         CREATE TABLE low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100);
         CREATE TABLE mid PARTITION OF t FOR VALUES FROM (200) TO (300);
         CREATE TABLE high PARTITION OF t FOR VALUES FROM (300) TO (400);
         CREATE TABLE far PARTITION OF t FOR VALUES FROM (1000) TO (MAXVALUE);
         INSERT INTO t SELECT g FROM generate_series(-100, 2000) g
          WHERE g < 100 OR g BETWEEN 200 AND 399 OR g >= 1000;
         SELECT repart_manage('t')",
    );
    let count = session.number("SELECT count(*) FROM t");
    for call in [
        "repart_split('low', '0')",
        "repart_shift('mid', 'high', '250')",
        "repart_split('far', '1500')",
    ] {
        let id = session.queue(call);
        session.wait_done(id);
    }
    let merged = session.queue(
        "repart_merge(VARIADIC (SELECT array_agg(shard) FROM repart.shards
                                 WHERE relation = 't'::regclass AND key_from IN ('200', '250')))",
    );
    session.wait_done(merged);
    let bounds = session.texts(
        "SELECT key_from || ' ' || key_to FROM repart.shards WHERE relation = 't'::regclass
          ORDER BY (key_from || ' ' || key_to) COLLATE \"C\"",
    );
    assert_eq!(
        bounds,
        [
            "0 100",
            "1000 1500",
            "1500 MAXVALUE",
            "200 400",
            "MINVALUE 0"
        ]
    );
    assert_eq!(session.number("SELECT count(*) FROM t"), count);
    for key in [100, 199, 400, 999] {
        let error = session
            .client()
            .batch_execute(&format!("INSERT INTO t VALUES ({key})"))
            .unwrap_err();
        assert_eq!(error.code().unwrap().code(), "23514", "{error}");
    }
    session.run("DROP SCHEMA gaps CASCADE");
}
