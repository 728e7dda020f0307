//! Names of a migration's private objects. They live in schema `repart`, so that nobody meets them by
//! chance and `DROP EXTENSION … CASCADE` takes them along, and end with the migration's number.

use std::fmt::Display;

use crate::pg::spi;

/// The schema of private objects.
pub const SCHEMA: &str = "repart";

/// The CHECK constraint that spares ATTACH its scan.
pub const BOUND_CONSTRAINT: &str = "repart_bound";

/// PostgreSQL's limit of a name, in bytes.
const MAX_NAME: usize = 63;

fn qualified(name: impl Display) -> String {
    spi::quote_qualified_identifier(SCHEMA, name.to_string().as_str())
}

/// The log of captured changes, without its schema.
pub fn private_log(id: i64) -> String {
    format!("log_{id}")
}

/// The log of captured changes.
pub fn log(id: i64) -> String {
    qualified(private_log(id))
}

/// The trigger function that writes it.
pub fn capture_function(id: i64) -> String {
    qualified(format_args!("capture_{id}"))
}

/// The triggers on each source: for all changes of rows or only for new ones, for changed, deleted and truncated ones.
pub fn capture_triggers(id: i64) -> [String; 4] {
    ["", "_update", "_delete", "_truncate"].map(|event| format!("repart_capture_{id}{event}"))
}

/// The CHECK constraint on a DEFAULT partition that spares ATTACH a scan of it.
pub fn default_constraint(id: i64) -> String {
    format!("repart_default_{id}")
}

/// A target while it is private.
pub fn private_target(id: i64, target: usize) -> String {
    format!("t_{id}_{}", target + 1)
}

/// As [`private_target`], as SQL writes it.
pub fn target(id: i64, target: usize) -> String {
    qualified(private_target(id, target))
}

/// An index of a target while it is private.
pub fn private_index(id: i64, target: usize, index: usize) -> String {
    format!("i_{id}_{}_{}", target + 1, index + 1)
}

/// A source after the switch.
pub fn private_retired(id: i64, source: usize) -> String {
    format!("old_{id}_{}", source + 1)
}

/// An index of a source after the switch.
pub fn private_retired_index(id: i64, source: usize, index: usize) -> String {
    format!("old_{id}_{}_{}", source + 1, index + 1)
}

/// A statistics object of a target while it is private.
pub fn private_statistics(id: i64, target: usize, statistics: usize) -> String {
    format!("s_{id}_{}_{}", target + 1, statistics + 1)
}

/// As [`private_statistics`], as SQL writes it.
pub fn statistics(id: i64, target: usize, statistics: usize) -> String {
    qualified(private_statistics(id, target, statistics))
}

/// A statistics object of a source after the switch.
pub fn private_retired_statistics(id: i64, source: usize, statistics: usize) -> String {
    format!("old_s_{id}_{}_{}", source + 1, statistics + 1)
}

/// As [`private_retired`], as SQL writes it.
pub fn retired(id: i64, source: usize) -> String {
    qualified(private_retired(id, source))
}

/// The name of a target once it is visible: `<table>_<migration>_<n>`, with another number behind it at a
/// further attempt.
pub fn public_target(table: &str, id: i64, target: usize, attempt: usize) -> String {
    let suffix = if attempt == 0 {
        String::new()
    } else {
        format!("_{attempt}")
    };
    joined(table, &format!("_{id}_{}{suffix}", target + 1))
}

/// The name of a target's index or statistics object once it is visible: as the source's, with the table's name
/// replaced; `kind` ends a name that has no such form.
pub fn public_dependent(
    source_table: &str,
    source_name: &str,
    target_table: &str,
    ordinal: usize,
    kind: &str,
) -> String {
    if source_table == target_table {
        return source_name.to_owned();
    }
    match source_name.strip_prefix(source_table) {
        Some(rest) if target_table.len() + rest.len() <= MAX_NAME => {
            format!("{target_table}{rest}")
        }
        _ => joined(target_table, &format!("_{}_{kind}", ordinal + 1)),
    }
}

/// `name` followed by `suffix`, with `name` cut so that both fit.
pub fn joined(name: &str, suffix: &str) -> String {
    let mut end = name.len().min(MAX_NAME.saturating_sub(suffix.len()));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_characters_and_keep_their_suffix() {
        let name = joined(&"ü".repeat(40), "_12_1");
        assert!(name.len() <= MAX_NAME && name.ends_with("_12_1"));
    }

    #[test]
    fn an_index_keeps_its_ending() {
        assert_eq!(
            public_dependent("orders_0", "orders_0_pkey", "orders_7_1", 0, "idx"),
            "orders_7_1_pkey"
        );
        assert_eq!(
            public_dependent("orders_0", "by_customer", "orders_7_1", 2, "idx"),
            "orders_7_1_3_idx"
        );
        assert_eq!(
            public_dependent("orders_0", "by_customer", "orders_0", 2, "idx"),
            "by_customer"
        );
    }
}
