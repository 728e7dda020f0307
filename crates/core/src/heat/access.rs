//! Where inside a shard the load falls, by sampled accesses instead of by the rows that are there.

use super::{Bucket, HEAVY_COUNT, finite};

/// Sampled keys that say enough for boundaries: with fewer, half of the load is off by more than a tenth of it.
pub const ENOUGH: usize = 32;

/// Fewer pairs of neighbouring samples say nothing about a direction.
const ENOUGH_PAIRS: usize = 16;

/// One key by which a shard was used, with all its samples.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Access {
    /// The key.
    pub key: String,
    /// How many of the inner edges of the rows' buckets are not above it.
    pub position: usize,
    /// Rows per second that were read by it.
    pub reads: f64,
    /// Rows per second that were written by it.
    pub writes: f64,
    /// How often it was sampled.
    pub samples: usize,
}

impl Access {
    fn load(&self) -> f64 {
        finite(self.reads) + finite(self.writes)
    }
}

/// A sub-range of a shard with its load. Buckets of one shard ascend, and cover it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeatBucket {
    /// Lower edge, inclusive; `None` only for the first: it begins where the shard begins.
    pub lower: Option<String>,
    /// Share of rows read, 0..1.
    pub reads: f64,
    /// Share of rows written, 0..1.
    pub writes: f64,
    /// Share of both together, 0..1.
    pub share: f64,
    /// Share of the shard's rows, 0..1.
    pub rows_share: f64,
    /// (Almost) all of it belongs to one key.
    pub single_key: bool,
}

/// The key that is used most, and its share of the load.
pub fn popular(accesses: &[Access]) -> Option<(&str, f64)> {
    let total: f64 = accesses.iter().map(Access::load).sum();
    let most = accesses
        .iter()
        .max_by(|a, b| a.load().total_cmp(&b.load()))?;
    (total > 0.0 && most.samples as f64 >= HEAVY_COUNT)
        .then(|| (most.key.as_str(), most.load() / total))
}

/// Whether keys ascend or descend in the order in which they were written: from 1, each above the one before, over
/// 0, without order, to -1. `ranks` are the keys' places in the key's own order. (CockroachDB's access direction.)
pub fn direction(ranks: &[usize]) -> f64 {
    let (mut up, mut down) = (0usize, 0usize);
    for pair in ranks.windows(2) {
        if let [before, after] = pair {
            up += usize::from(after > before);
            down += usize::from(after < before);
        }
    }
    if up + down < ENOUGH_PAIRS {
        return 0.0;
    }
    (up as f64 - down as f64) / (up + down) as f64
}

/// About `target` buckets of equal weight, where half of the weight is the load and half the rows: so that a cut by
/// either finds an edge.
///
/// `accesses` ascend by key, each key once; `rows` are the buckets of the rows, or none. The rows of one of them are
/// taken to be spread evenly around the keys in it.
pub fn buckets(rows: &[Bucket], accesses: &[Access], target: usize) -> Vec<HeatBucket> {
    let atoms = atoms(rows, accesses);
    let totals = atoms.iter().fold((0.0, 0.0), |(reads, writes), atom| {
        (reads + atom.reads, writes + atom.writes)
    });
    let rows_total: f64 = atoms.iter().map(|atom| atom.rows).sum();
    let whole = Whole {
        reads: totals.0,
        writes: totals.1,
        rows: rows_total,
    };
    if whole.load() <= 0.0 && whole.rows <= 0.0 {
        return Vec::new();
    }
    pack(&atoms, &whole, target)
}

/// As the planner takes them.
pub fn for_plan(rows: &[Bucket], accesses: &[Access], target: usize) -> Vec<Bucket> {
    let found = buckets(rows, accesses, target);
    let uppers = found.iter().skip(1).map(|bucket| bucket.lower.clone());
    let uppers = uppers.chain(std::iter::once(None));
    found
        .iter()
        .zip(uppers)
        .map(|(bucket, upper)| Bucket {
            upper,
            share: bucket.share,
            rows_share: bucket.rows_share,
            single_key: bucket.single_key,
        })
        .collect()
}

/// All that lies between two neighbouring known keys.
struct Atom<'a> {
    /// Its lower edge; `None` where the shard begins.
    start: Option<&'a str>,
    reads: f64,
    writes: f64,
    rows: f64,
    samples: usize,
}

impl Atom<'_> {
    fn load(&self) -> f64 {
        self.reads + self.writes
    }
}

/// What there is in all.
struct Whole {
    reads: f64,
    writes: f64,
    rows: f64,
}

impl Whole {
    fn load(&self) -> f64 {
        self.reads + self.writes
    }

    fn share(part: f64, whole: f64) -> f64 {
        if whole > 0.0 { part / whole } else { 0.0 }
    }

    fn load_share(&self, atom: &Atom) -> f64 {
        Self::share(atom.load(), self.load())
    }

    /// What an atom counts: half by its load and half by its rows, or by what is known.
    fn weight(&self, atom: &Atom) -> f64 {
        let (load, rows) = (self.load_share(atom), Self::share(atom.rows, self.rows));
        match (self.load() > 0.0, self.rows > 0.0) {
            (true, true) => (load + rows) / 2.0,
            (true, false) => load,
            _ => rows,
        }
    }
}

fn atoms<'a>(rows: &'a [Bucket], accesses: &'a [Access]) -> Vec<Atom<'a>> {
    let cells = rows.len().max(1);
    let mut atoms: Vec<Atom> = Vec::with_capacity(cells + accesses.len());
    let mut pending = accesses.iter().peekable();
    for cell in 0..cells {
        let start = cell
            .checked_sub(1)
            .and_then(|below| rows.get(below))
            .and_then(|below| below.upper.as_deref());
        let begin = atoms.len();
        atoms.push(Atom {
            start,
            reads: 0.0,
            writes: 0.0,
            rows: 0.0,
            samples: 0,
        });
        let last = cell + 1 == cells;
        while let Some(access) = pending.next_if(|access| last || access.position <= cell) {
            let (reads, writes) = (finite(access.reads), finite(access.writes));
            match atoms.last_mut() {
                Some(atom) if atom.start == Some(access.key.as_str()) => {
                    atom.reads += reads;
                    atom.writes += writes;
                    atom.samples += access.samples;
                }
                _ => atoms.push(Atom {
                    start: Some(&access.key),
                    reads,
                    writes,
                    rows: 0.0,
                    samples: access.samples,
                }),
            }
        }
        let held = finite(rows.get(cell).map_or(0.0, |bucket| bucket.rows_share));
        let pieces = (atoms.len() - begin) as f64;
        for atom in atoms.iter_mut().skip(begin) {
            atom.rows += held / pieces;
        }
    }
    atoms
}

fn pack(atoms: &[Atom], whole: &Whole, target: usize) -> Vec<HeatBucket> {
    let depth = 1.0 / target.max(1) as f64;
    let mut buckets: Vec<HeatBucket> = Vec::new();
    let (mut filled, mut closed) = (0.0, true);
    for atom in atoms {
        let weight = whole.weight(atom);
        let share = whole.load_share(atom);
        let alone = atom.samples as f64 >= HEAVY_COUNT && share >= depth;
        let fits = !closed && !alone && filled + weight / 2.0 <= depth;
        if !fits {
            buckets.push(HeatBucket {
                lower: atom.start.map(str::to_owned),
                // What is known of it is the load of one key.
                single_key: alone,
                ..HeatBucket::default()
            });
            filled = 0.0;
        }
        filled += weight;
        closed = alone;
        if let Some(bucket) = buckets.last_mut() {
            bucket.reads += Whole::share(atom.reads, whole.reads);
            bucket.writes += Whole::share(atom.writes, whole.writes);
            bucket.share += share;
            bucket.rows_share += Whole::share(atom.rows, whole.rows);
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::super::split_points;
    use super::*;
    use proptest::prelude::*;

    fn access(key: u32, position: usize, reads: f64, writes: f64, samples: usize) -> Access {
        Access {
            key: format!("{key:05}"),
            position,
            reads,
            writes,
            samples,
        }
    }

    /// Ten buckets of the rows with keys 0 .. 1000, cut at 100, 200, …
    fn rows() -> Vec<Bucket> {
        (1..=10)
            .map(|n| Bucket {
                upper: (n < 10).then(|| format!("{:05}", n * 100)),
                share: 0.1,
                rows_share: 0.1,
                single_key: false,
            })
            .collect()
    }

    #[test]
    fn the_split_follows_the_load_and_not_the_rows() {
        let accesses: Vec<Access> = (0..100).map(|n| access(900 + n, 9, 1.0, 0.0, 1)).collect();
        let buckets = for_plan(&rows(), &accesses, 64);
        let points = split_points(None, &buckets, 2).unwrap();
        let point: u32 = points[0].parse().unwrap();
        assert!((945..=955).contains(&point), "{point}");
        let below: f64 = buckets
            .iter()
            .take_while(|bucket| {
                bucket
                    .upper
                    .as_deref()
                    .is_some_and(|edge| edge <= points[0].as_str())
            })
            .map(|bucket| bucket.rows_share)
            .sum();
        assert!(
            (below - 0.95).abs() < 0.01,
            "its rows are known too: {below}"
        );
    }

    #[test]
    fn one_key_with_most_of_the_load_is_alone_and_popular() {
        let mut accesses: Vec<Access> = (0..40)
            .map(|n| access(n * 25, n as usize / 4, 1.0, 0.0, 1))
            .collect();
        accesses[20] = access(500, 5, 60.0, 0.0, 30);
        let buckets = for_plan(&rows(), &accesses, 16);
        let single: Vec<&Bucket> = buckets.iter().filter(|bucket| bucket.single_key).collect();
        assert_eq!(single.len(), 1);
        assert!((single[0].share - 60.0 / 99.0).abs() < 1e-9);
        let (key, share) = popular(&accesses).unwrap();
        assert_eq!((key, share), ("00500", 60.0 / 99.0));
    }

    #[test]
    fn keys_that_ascend_show_a_direction_and_random_ones_do_not() {
        assert_eq!(direction(&(0..50).collect::<Vec<_>>()), 1.0);
        assert_eq!(direction(&(0..50).rev().collect::<Vec<_>>()), -1.0);
        let mixed: Vec<usize> = (0..200).map(|n| n * 7919 % 211).collect();
        assert!(direction(&mixed).abs() < 0.3);
        assert_eq!(direction(&[1, 2, 3]), 0.0, "too few to say");
    }

    #[test]
    fn reads_and_writes_are_told_apart() {
        let accesses: Vec<Access> = (0..100)
            .map(|n| {
                access(
                    n * 10,
                    n as usize / 10,
                    f64::from(u8::from(n < 50)),
                    f64::from(u8::from(n >= 50)),
                    1,
                )
            })
            .collect();
        let buckets = buckets(&[], &accesses, 16);
        let middle = buckets
            .iter()
            .position(|bucket| bucket.lower.as_deref() >= Some("00500"))
            .unwrap();
        let reads: f64 = buckets[..middle].iter().map(|bucket| bucket.reads).sum();
        let writes: f64 = buckets[middle..].iter().map(|bucket| bucket.writes).sum();
        assert!(reads > 0.9 && writes > 0.9, "{reads} {writes}");
    }

    proptest! {
        #[test]
        fn shares_sum_to_one_and_edges_ascend(
            keys in prop::collection::btree_map(0u32..1000, (0.0f64..10.0, 0.0f64..10.0, 1usize..5), 1..200),
            target in 1usize..80, with_rows in any::<bool>(),
        ) {
            let accesses: Vec<Access> = keys.iter()
                .map(|(key, (reads, writes, samples))| access(*key, (*key / 100) as usize, *reads, *writes, *samples))
                .collect();
            prop_assume!(accesses.iter().any(|access| access.load() > 0.0));
            let rows = if with_rows { rows() } else { Vec::new() };
            let buckets = buckets(&rows, &accesses, target);
            let total: f64 = buckets.iter().map(|bucket| bucket.share).sum();
            prop_assert!((total - 1.0).abs() < 1e-9);
            let edges: Vec<&String> = buckets.iter().filter_map(|bucket| bucket.lower.as_ref()).collect();
            prop_assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(buckets.iter().skip(1).all(|bucket| bucket.lower.is_some()));
            if with_rows {
                let total: f64 = buckets.iter().map(|bucket| bucket.rows_share).sum();
                prop_assert!((total - 1.0).abs() < 1e-9);
            }
        }
    }
}
