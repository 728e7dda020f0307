//! Which targets of a migration keep the table of a source.
//!
//! Rows *flow* from sources to targets. A target that keeps a source's table spares the copy of all rows
//! that stay; what leaves the table is deleted, and what arrives in it is inserted, inside the cutover,
//! while everybody waits. So a table is kept where that is short.

use serde::{Deserialize, Serialize};

/// Rows per second that a cutover deletes, before it was measured: half of what `make bench TESTS=in_place` prints
/// for rows of 171 bytes.
pub const DELETE_RATE: f64 = 1_000_000.0;

/// Rows per second that a cutover inserts into a table with its indexes, before it was measured: the rate of
/// a copy with ON CONFLICT or indexes in place, a third of that of one without.
pub const INSERT_RATE: f64 = 150_000.0;

/// What a cutover takes without any row that changes tables, s (10 to 20 ms by experiment; the locks that it
/// asks for are not held yet in all of it).
pub const BASE_PAUSE: f64 = 0.010;

/// A table is kept only if the pause leaves this room, so that some more rows until the cutover do not
/// make the decision wrong.
const MARGIN: f64 = 0.8;

/// Sparing the copy of less than this is not worth any row's delay: such a copy takes one or two batches, and
/// its result has no bloat. Bytes.
pub const LEAST_SPARED: f64 = 4_194_304.0;

/// How fast rows change tables inside a cutover, and how long it may last.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Deleted rows per second.
    pub delete_rate: f64,
    /// Inserted rows per second.
    pub insert_rate: f64,
    /// The longest pause, s.
    pub max_pause: f64,
}

/// Rows that change tables inside a cutover.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Moves {
    /// Deleted from kept tables.
    pub deletes: f64,
    /// Inserted into kept tables.
    pub inserts: f64,
}

impl Budget {
    /// The time that moving rows takes, s.
    pub fn moving(&self, moves: Moves) -> f64 {
        moves.deletes / self.delete_rate.max(1.0) + moves.inserts / self.insert_rate.max(1.0)
    }

    /// The expected pause of a cutover with these moves, s.
    pub fn pause(&self, moves: Moves) -> f64 {
        BASE_PAUSE + self.moving(moves)
    }

    /// What is left of the longest pause, s; negative where the moves do not fit.
    pub fn left(&self, moves: Moves) -> f64 {
        self.max_pause - self.pause(moves)
    }

    /// More rows than this never fit.
    pub fn most_rows(&self) -> f64 {
        ((self.max_pause - BASE_PAUSE) * self.delete_rate.max(self.insert_rate)).max(0.0)
    }

    fn admits(&self, moves: Moves) -> bool {
        BASE_PAUSE + self.moving(moves) / MARGIN <= self.max_pause
    }
}

/// The rows of one source that belong to one target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flow {
    /// Ordinal of the source.
    pub source: usize,
    /// Ordinal of the target.
    pub target: usize,
    /// How many rows, exact where they are few.
    pub rows: f64,
    /// How many bytes they are.
    pub bytes: f64,
    /// Whether the target may keep the source's table.
    pub may_keep: bool,
}

/// The targets that keep a source's table, as pairs of source and target: first the pair that spares most
/// bytes, then what still fits beside it.
pub fn choose(flows: &[Flow], budget: &Budget) -> Vec<(usize, usize)> {
    let mut pairs: Vec<&Flow> = flows
        .iter()
        .filter(|flow| flow.may_keep && flow.bytes >= LEAST_SPARED)
        .collect();
    pairs.sort_by(|a, b| {
        b.bytes
            .total_cmp(&a.bytes)
            .then((a.source, a.target).cmp(&(b.source, b.target)))
    });
    let mut kept: Vec<(usize, usize)> = Vec::new();
    for pair in pairs {
        let taken = kept
            .iter()
            .any(|(source, target)| *source == pair.source || *target == pair.target);
        if taken {
            continue;
        }
        kept.push((pair.source, pair.target));
        if !budget.admits(moves(flows, &kept)) {
            kept.pop();
        }
    }
    kept
}

/// The rows that change tables inside the cutover when these pairs of source and target are kept.
pub fn moves(flows: &[Flow], kept: &[(usize, usize)]) -> Moves {
    let sum = |other: &dyn Fn(&Flow, usize, usize) -> bool| {
        let of_pair = |(source, target): &(usize, usize)| -> f64 {
            let rows = flows.iter().filter(|flow| other(flow, *source, *target));
            rows.fold(0.0, |sum, flow| sum + flow.rows.max(0.0))
        };
        // Not a plain sum: that of nothing is -0.
        kept.iter().map(of_pair).fold(0.0, |sum, rows| sum + rows)
    };
    Moves {
        deletes: sum(&|flow, source, target| flow.source == source && flow.target != target),
        inserts: sum(&|flow, source, target| flow.target == target && flow.source != source),
    }
}

/// The bytes that are copied ahead of the cutover when these pairs are kept.
pub fn copied_bytes(flows: &[Flow], kept: &[(usize, usize)]) -> f64 {
    flows
        .iter()
        .filter(|flow| !kept.iter().any(|(_, target)| *target == flow.target))
        .map(|flow| flow.bytes.max(0.0))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGET: Budget = Budget {
        delete_rate: DELETE_RATE,
        insert_rate: INSERT_RATE,
        max_pause: 0.05,
    };

    /// Rows of 100 bytes.
    fn flow(source: usize, target: usize, rows: f64) -> Flow {
        Flow {
            source,
            target,
            rows,
            bytes: rows * 100.0,
            may_keep: true,
        }
    }

    #[test]
    fn carving_a_little_out_of_a_shard_keeps_its_largest_part() {
        let flows = [flow(0, 0, 1e6), flow(0, 1, 10_000.0), flow(0, 2, 5e3)];
        assert_eq!(choose(&flows, &BUDGET), [(0, 0)]);
        let moves = moves(&flows, &[(0, 0)]);
        assert_eq!((moves.deletes, moves.inserts), (15_000.0, 0.0));
        assert!((copied_bytes(&flows, &[(0, 0)]) - 1.5e6).abs() < 1.0);
    }

    #[test]
    fn halving_a_large_shard_rebuilds_both_halves() {
        assert_eq!(choose(&[flow(0, 0, 1e6), flow(0, 1, 1e6)], &BUDGET), []);
    }

    #[test]
    fn a_small_shift_keeps_both_tables() {
        let flows = [flow(0, 0, 1e6), flow(0, 1, 1_000.0), flow(1, 1, 2e6)];
        assert_eq!(choose(&flows, &BUDGET), [(1, 1), (0, 0)]);
        let moves = moves(&flows, &[(1, 1), (0, 0)]);
        assert_eq!((moves.deletes, moves.inserts), (1_000.0, 1_000.0));
    }

    /// As few inserts as fit are fewer than the deletes that do.
    #[test]
    fn a_larger_shift_keeps_the_table_that_gives() {
        let flows = [flow(0, 0, 1e6), flow(0, 1, 10_000.0), flow(1, 1, 2e6)];
        assert_eq!(choose(&flows, &BUDGET), [(0, 0)]);
    }

    #[test]
    fn a_merge_keeps_the_larger_table_if_the_other_is_tiny() {
        assert_eq!(
            choose(&[flow(0, 0, 2_000.0), flow(1, 0, 1e6)], &BUDGET),
            [(1, 0)]
        );
        assert_eq!(choose(&[flow(0, 0, 1e6), flow(1, 0, 1e6)], &BUDGET), []);
    }

    #[test]
    fn a_small_table_is_rebuilt() {
        assert_eq!(
            choose(&[flow(0, 0, 10_000.0), flow(0, 1, 10.0)], &BUDGET),
            []
        );
    }

    #[test]
    fn a_table_that_must_not_be_kept_is_not() {
        let forbidden = Flow {
            may_keep: false,
            ..flow(0, 0, 1e6)
        };
        assert_eq!(choose(&[forbidden, flow(0, 1, 10.0)], &BUDGET), []);
    }

    #[test]
    fn a_pause_too_short_for_any_cutover_keeps_nothing() {
        let short = Budget {
            max_pause: 0.005,
            ..BUDGET
        };
        assert_eq!(choose(&[flow(0, 0, 1e6), flow(0, 1, 1.0)], &short), []);
        assert!(short.most_rows() < 1.0);
    }

    proptest! {
        #[test]
        fn what_is_kept_fits_and_nothing_is_kept_twice(
            rows in prop::collection::vec(0.0..3e5f64, 1..30),
            targets in 1usize..6,
            max_pause in 0.0..0.2f64,
        ) {
            let flows: Vec<Flow> = rows
                .iter()
                .enumerate()
                .map(|(n, rows)| flow(n / targets, n % targets, *rows))
                .collect();
            let budget = Budget { max_pause, ..BUDGET };
            let kept = choose(&flows, &budget);
            for (n, (source, target)) in kept.iter().enumerate() {
                prop_assert!(!kept.iter().skip(n + 1).any(|(s, t)| s == source || t == target));
            }
            prop_assert!(kept.is_empty() || budget.left(moves(&flows, &kept)) >= 0.0);
            prop_assert!(moves(&flows, &kept).deletes <= budget.most_rows());
        }
    }
}
