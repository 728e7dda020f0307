//! Where inside a shard the load lies: buckets, and the boundaries that divide them evenly.
//!
//! Keys come as text that PostgreSQL has already put in order; nothing here compares two keys for
//! more than equality. A boundary is the inclusive lower edge of the bucket above it, as in
//! `FOR VALUES FROM (edge)`.

pub mod access;
mod divide;

pub use divide::split_points;
pub(crate) use divide::{Segment, balanced_cuts, boundaries, segments};

use serde::{Deserialize, Serialize};

/// A sub-range of a shard: the resolution at which a boundary can be chosen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Bucket {
    /// Upper edge, exclusive; `None` only for the last bucket: it ends where the shard ends.
    pub upper: Option<String>,
    /// Share of the shard's load, 0..1.
    pub share: f64,
    /// Share of the shard's rows, 0..1.
    pub rows_share: f64,
    /// (Almost) all of it belongs to one key, so that no finer boundary would divide it.
    #[serde(default)]
    pub single_key: bool,
}

/// A most common value of a column, as in `pg_stats.most_common_vals`.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonKey {
    /// The key.
    pub key: String,
    /// Its share of all rows, 0..1.
    pub frequency: f64,
    /// How many of the histogram's bounds are below it. (In SQL:
    /// `(SELECT count(*) FROM unnest(bounds) b WHERE b < key)`.)
    pub position: usize,
}

/// The share of a bucket that one key must have for it to count as a single-key bucket.
const SINGLE_KEY: f64 = 0.8;

/// How often a key must occur in a sample before it can count as heavy.
const HEAVY_COUNT: f64 = 3.0;

/// The smallest piece that can be told apart: all that lies between two neighbouring known keys.
struct Atom<'a> {
    /// Its lower edge.
    start: &'a str,
    /// What it weighs.
    weight: f64,
    /// The part of the weight that belongs to one key.
    heavy: f64,
}

/// Makes about `target` equi-depth buckets from a sample of a shard's keys.
///
/// `keys` are sorted by the key's own order, with duplicates kept; they lie inside the shard. A key
/// that fills a bucket alone gets a bucket of its own, marked `single_key`.
pub fn from_sorted_sample(keys: &[String], target: usize) -> Vec<Bucket> {
    let mut atoms: Vec<Atom> = Vec::new();
    for key in keys {
        match atoms.last_mut() {
            Some(last) if last.start == key => last.weight += 1.0,
            _ => atoms.push(Atom {
                start: key,
                weight: 1.0,
                heavy: 0.0,
            }),
        }
    }
    for atom in &mut atoms {
        if atom.weight >= HEAVY_COUNT {
            atom.heavy = atom.weight;
        }
    }
    pack(&atoms, target)
}

/// Makes about `target` equi-depth buckets from column statistics such as those of `pg_stats`.
///
/// `bounds` are the ascending bounds of an equi-depth histogram of the rows that are not in `common`;
/// `common` is ascending by key. Both lie inside the shard. Rows between two bounds are taken to be
/// spread evenly around the common keys that lie there.
pub fn buckets_from_histogram(
    bounds: &[String],
    common: &[CommonKey],
    target: usize,
) -> Vec<Bucket> {
    let frequency = |common: &CommonKey| finite(common.frequency);
    let rest = 1.0 - common.iter().map(frequency).sum::<f64>();
    let cells = bounds.len().saturating_sub(1);
    let per_cell = if cells == 0 {
        0.0
    } else {
        rest.max(0.0) / cells as f64
    };
    let mut atoms: Vec<Atom> = Vec::new();
    for cell in 0..=bounds.len() {
        // The cell from bounds[cell - 1] to bounds[cell]; the first and last are open and hold no
        // rows but common ones.
        let inside = || {
            common
                .iter()
                .filter(|c| c.position.min(bounds.len()) == cell)
        };
        let open = cell == 0 || cell == bounds.len();
        let piece = if open {
            0.0
        } else {
            per_cell / (inside().count() + 1) as f64
        };
        let lower = cell.checked_sub(1).and_then(|i| bounds.get(i));
        if let Some(start) = lower {
            atoms.push(Atom {
                start,
                weight: piece,
                heavy: 0.0,
            });
        }
        for key in inside() {
            let heavy = frequency(key);
            atoms.push(Atom {
                start: &key.key,
                weight: piece + heavy,
                heavy,
            });
        }
    }
    join_repeated(&mut atoms);
    pack(&atoms, target)
}

/// Joins atoms with the same lower edge.
fn join_repeated(atoms: &mut Vec<Atom>) {
    atoms.dedup_by(|next, previous| {
        let same = next.start == previous.start;
        if same {
            previous.weight += next.weight;
            previous.heavy = previous.heavy.max(next.heavy);
        }
        same
    });
}

/// Packs atoms into about `target` buckets of equal weight; heavy atoms stay alone.
fn pack(atoms: &[Atom], target: usize) -> Vec<Bucket> {
    let total: f64 = atoms.iter().map(|atom| atom.weight).sum();
    if total <= 0.0 {
        return Vec::new();
    }
    let depth = total / target.max(1) as f64;
    let mut starts: Vec<&str> = Vec::new();
    let mut buckets: Vec<Bucket> = Vec::new();
    let mut closed = true;
    for atom in atoms {
        let alone = atom.heavy >= depth;
        let fits = |bucket: &Bucket| bucket.share * total + atom.weight / 2.0 <= depth;
        match buckets.last_mut() {
            Some(bucket) if !closed && !alone && fits(bucket) => {
                bucket.share += atom.weight / total
            }
            _ => {
                starts.push(atom.start);
                let single_key = alone && atom.heavy >= SINGLE_KEY * atom.weight;
                let share = atom.weight / total;
                buckets.push(Bucket {
                    upper: None,
                    share,
                    rows_share: 0.0,
                    single_key,
                });
            }
        }
        closed = alone;
    }
    for (index, bucket) in buckets.iter_mut().enumerate() {
        bucket.upper = starts.get(index + 1).map(|start| (*start).to_owned());
        bucket.rows_share = bucket.share;
    }
    buckets
}

/// The number, or 0 where it is not finite or is negative.
pub(crate) fn finite(value: f64) -> f64 {
    if value.is_finite() {
        value.max(0.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(values: &[u32]) -> Vec<String> {
        values.iter().map(|value| format!("{value:05}")).collect()
    }

    fn edges(buckets: &[Bucket]) -> Vec<&str> {
        buckets
            .iter()
            .filter_map(|bucket| bucket.upper.as_deref())
            .collect()
    }

    #[test]
    fn a_sample_of_distinct_keys_gives_buckets_of_equal_depth() {
        let sample = keys(&(0..1000).collect::<Vec<_>>());
        let buckets = from_sorted_sample(&sample, 10);
        assert_eq!(buckets.len(), 10);
        assert!(
            buckets
                .iter()
                .all(|b| (b.share - 0.1).abs() < 0.01 && !b.single_key)
        );
        assert_eq!(buckets.last().unwrap().upper, None);
    }

    #[test]
    fn a_key_that_fills_a_bucket_is_marked_and_alone() {
        let mut values: Vec<u32> = (0..50).collect();
        values.extend([50; 50]);
        values.extend(51..101);
        let buckets = from_sorted_sample(&keys(&values), 10);
        let single: Vec<&Bucket> = buckets.iter().filter(|b| b.single_key).collect();
        assert_eq!(single.len(), 1);
        assert!((single[0].share - 50.0 / 150.0).abs() < 1e-9);
        assert_eq!(single[0].upper.as_deref(), Some("00051"));
    }

    #[test]
    fn a_small_sample_of_distinct_keys_is_no_single_key() {
        let buckets = from_sorted_sample(&keys(&[1, 2, 3]), 16);
        assert_eq!(buckets.len(), 3);
        assert!(buckets.iter().all(|b| !b.single_key));
        assert!(from_sorted_sample(&[], 16).is_empty());
    }

    #[test]
    fn a_common_value_takes_its_place_in_the_histogram() {
        let bounds = keys(&[0, 10, 20, 30, 40]);
        let common = [CommonKey {
            key: "00025".into(),
            frequency: 0.6,
            position: 3,
        }];
        let buckets = buckets_from_histogram(&bounds, &common, 4);
        let heavy = buckets.iter().find(|b| b.single_key).unwrap();
        assert!((heavy.share - 0.65).abs() < 1e-9, "{buckets:?}");
        assert_eq!(heavy.upper.as_deref(), Some("00030"));
        assert!(edges(&buckets).contains(&"00025"));
    }

    #[test]
    fn common_values_alone_are_enough() {
        let common: Vec<CommonKey> = (0..4)
            .map(|i| CommonKey {
                key: format!("{i}"),
                frequency: 0.25,
                position: 0,
            })
            .collect();
        let buckets = buckets_from_histogram(&[], &common, 8);
        assert_eq!(edges(&buckets), ["1", "2", "3"]);
        assert!(buckets.iter().all(|b| b.single_key));
    }

    proptest! {
        #[test]
        fn buckets_of_any_sample_sum_to_one_with_ascending_edges(
            mut values in prop::collection::vec(0u32..200, 1..400), target in 1usize..40, parts in 2usize..6,
        ) {
            values.sort_unstable();
            let buckets = from_sorted_sample(&keys(&values), target);
            prop_assert!((buckets.iter().map(|b| b.share).sum::<f64>() - 1.0).abs() < 1e-9);
            let edges = edges(&buckets);
            prop_assert_eq!(edges.len() + 1, buckets.len());
            prop_assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
            let lower = format!("{:05}", values[0]);
            prop_assert!(edges.iter().all(|edge| **edge > *lower));
            if let Some(points) = split_points(Some(&lower), &buckets, parts) {
                prop_assert_eq!(points.len(), parts - 1);
                prop_assert!(points.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }

        #[test]
        fn a_histogram_gives_ascending_edges(
            values in prop::collection::btree_set(0u32..1000, 0..40),
            common in prop::collection::btree_map(0u32..1000, 0.0f64..0.05, 0..15), target in 1usize..30,
        ) {
            let bounds: Vec<u32> = values.iter().copied().filter(|v| !common.contains_key(v)).collect();
            let common: Vec<CommonKey> = common.iter().map(|(key, frequency)| CommonKey {
                key: format!("{key:05}"),
                frequency: *frequency,
                position: bounds.iter().filter(|bound| *bound < key).count(),
            }).collect();
            let buckets = buckets_from_histogram(&keys(&bounds), &common, target);
            let edges = edges(&buckets);
            prop_assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(buckets.is_empty() || (buckets.iter().map(|b| b.share).sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }
}
