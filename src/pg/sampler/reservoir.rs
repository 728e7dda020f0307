//! The keys that a shard's rows were read or written by: a weighted sample in which old keys count less.
//!
//! Priority sampling (Duffield, Lund and Thorup 2007) with forward decay: each key gets a score from its weight,
//! its time and chance, and those with the highest scores stay. The highest score that did not stay says what a
//! key of little weight stands for, so that sums over any part of the keys are estimated without bias.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Bytes of a key that are kept. Shorter keys are kept whole: all types of fixed length but `name`, and numbers of
/// 30 digits; of longer texts the beginning.
pub const KEY_BYTES: usize = 24;

/// Marks a text of which only the beginning is kept.
const CUT: u8 = 0x80;

/// A key as PostgreSQL stores it: the datum of a type passed by value, else the bytes without their header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Number of bytes; with [`CUT`] where there were more.
    length: u8,
    bytes: [u8; KEY_BYTES],
}

impl Key {
    /// No bytes.
    pub const EMPTY: Self = Self {
        length: 0,
        bytes: [0; KEY_BYTES],
    };

    /// A whole key; `None` if it is too long.
    pub fn whole(bytes: &[u8]) -> Option<Self> {
        let mut key = Self::EMPTY;
        key.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        key.length = bytes.len() as u8;
        Some(key)
    }

    /// A text, or its beginning.
    pub fn text(bytes: &[u8]) -> Self {
        Self::whole(bytes).unwrap_or_else(|| {
            let mut key = Self::EMPTY;
            key.bytes
                .copy_from_slice(bytes.get(..KEY_BYTES).unwrap_or(&[0; KEY_BYTES]));
            key.length = KEY_BYTES as u8 | CUT;
            key
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        let length = usize::from(self.length & !CUT).min(KEY_BYTES);
        self.bytes.get(..length).unwrap_or_default()
    }

    fn words(&self) -> [u64; 3] {
        std::array::from_fn(|word| {
            let mut bytes = [0; 8];
            if let Some(part) = self.bytes.get(word * 8..word * 8 + 8) {
                bytes.copy_from_slice(part);
            }
            u64::from_le_bytes(bytes)
        })
    }

    fn from_words(words: [u64; 3], length: u8) -> Self {
        let mut bytes = [0; KEY_BYTES];
        for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        Self { length, bytes }
    }
}

/// One kept key.
#[repr(C)]
struct Entry {
    /// Odd while somebody writes it. If that one ends there, the entry is lost, and only it.
    version: AtomicU32,
    /// The how manieth key of the shard it is.
    sequence: AtomicU32,
    /// Its score, a positive f64, whose bits have the same order; 0 for none.
    score: AtomicU64,
    /// How much of the score is chance, an f32.
    chance: AtomicU32,
    length: AtomicU32,
    key: [AtomicU64; 3],
}

/// The keys of one shard and kind of access.
#[repr(C)]
pub struct Reservoir<const N: usize> {
    /// The highest score that did not stay.
    threshold: AtomicU64,
    sequence: AtomicU32,
    unused: AtomicU32,
    entries: [Entry; N],
}

/// A kept key, as a reader sees it.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The key.
    pub key: Key,
    /// What it stands for now: rows, decayed.
    pub weight: f64,
    /// Its place in the order in which keys were sampled.
    pub sequence: u32,
}

impl<const N: usize> Reservoir<N> {
    /// Offers a key that stands for `weight` rows; `reached` is Λ now and `chance` is exponentially distributed
    /// with mean 1.
    pub fn offer(&self, key: &Key, weight: f64, reached: f64, chance: f32) {
        let score = weight.max(1.0).ln() + reached + f64::from(chance);
        let offered = Content {
            key: *key,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            score: score.max(f64::MIN_POSITIVE).to_bits(),
            chance,
        };
        if offered.score <= self.threshold.load(Ordering::Relaxed) {
            return;
        }
        let Some((entry, lowest)) = self.lowest() else {
            return;
        };
        // What does not stay: the key itself, the one that it replaces, or, where another session writes that
        // entry at this very moment, one sample less.
        let dropped = if offered.score <= lowest {
            offered.score
        } else {
            entry.write(&offered).unwrap_or(lowest)
        };
        self.threshold.fetch_max(dropped, Ordering::Relaxed);
    }

    /// Takes over what a smaller one has kept, into an empty one: what that did not keep stays below the threshold
    /// here too, so that old and new keys are kept by the same measure.
    pub fn adopt<const M: usize>(&self, smaller: &Reservoir<M>) {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        for (own, other) in self.entries.iter().zip(&smaller.entries) {
            if let Some(content) = other.read() {
                own.write(&content);
            }
        }
        self.threshold
            .store(get(&smaller.threshold), Ordering::Relaxed);
        self.sequence
            .store(smaller.sequence.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The entry that would be replaced, and the bits of its score. Entries that cannot be written are left out.
    fn lowest(&self) -> Option<(&Entry, u64)> {
        self.entries
            .iter()
            .filter(|entry| entry.version.load(Ordering::Relaxed).is_multiple_of(2))
            .map(|entry| (entry, entry.score.load(Ordering::Relaxed)))
            .min_by_key(|(_, score)| *score)
    }

    /// The kept keys; `reached` is Λ now.
    pub fn kept(&self, reached: f64) -> Vec<Kept> {
        let threshold = match self.threshold.load(Ordering::Relaxed) {
            0 => f64::NEG_INFINITY,
            bits => f64::from_bits(bits),
        };
        self.entries
            .iter()
            .filter_map(Entry::read)
            .map(|content| Kept {
                key: content.key,
                weight: (content.heat().max(threshold) - reached).exp(),
                sequence: content.sequence,
            })
            .collect()
    }
}

/// What an entry holds.
struct Content {
    key: Key,
    sequence: u32,
    /// The bits of the score.
    score: u64,
    chance: f32,
}

impl Content {
    /// ln of the weight plus Λ at its time.
    fn heat(&self) -> f64 {
        f64::from_bits(self.score) - f64::from(self.chance)
    }
}

impl Entry {
    /// What it holds, if anything.
    fn read(&self) -> Option<Content> {
        for _ in 0..4 {
            let before = self.version.load(Ordering::Acquire);
            let get = |number: &AtomicU32| number.load(Ordering::Relaxed);
            let words = std::array::from_fn(|word| {
                self.key
                    .get(word)
                    .map_or(0, |part| part.load(Ordering::Relaxed))
            });
            let length = u8::try_from(get(&self.length)).unwrap_or(0);
            let content = Content {
                key: Key::from_words(words, length),
                sequence: get(&self.sequence),
                score: self.score.load(Ordering::Relaxed),
                chance: f32::from_bits(get(&self.chance)),
            };
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && get(&self.version) == before {
                return (content.score != 0).then_some(content);
            }
        }
        None
    }

    /// Replaces what it holds; the score that goes, or `None` if another session writes it.
    fn write(&self, content: &Content) -> Option<u64> {
        let version = self.version.load(Ordering::Relaxed);
        let taken = version.is_multiple_of(2)
            && self
                .version
                .compare_exchange(version, version + 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if !taken {
            return None;
        }
        fence(Ordering::Release);
        let set = |to: &AtomicU32, number: u32| to.store(number, Ordering::Relaxed);
        let replaced = self.score.swap(content.score, Ordering::Relaxed);
        set(&self.sequence, content.sequence);
        set(&self.chance, content.chance.to_bits());
        set(&self.length, u32::from(content.key.length));
        for (part, word) in self.key.iter().zip(content.key.words()) {
            part.store(word, Ordering::Relaxed);
        }
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
        Some(replaced)
    }
}
