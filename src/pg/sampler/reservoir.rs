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
        let score = (weight.max(1.0).ln() + reached + f64::from(chance)).max(f64::MIN_POSITIVE);
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let Some((entry, lowest)) = self.lowest() else {
            return;
        };
        if score.to_bits() <= lowest {
            self.threshold.fetch_max(score.to_bits(), Ordering::Relaxed);
            return;
        }
        let version = entry.version.load(Ordering::Relaxed);
        let taken = version % 2 == 0
            && entry
                .version
                .compare_exchange(version, version + 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if !taken {
            // Another session writes it at this very moment: one sample less.
            self.threshold.fetch_max(lowest, Ordering::Relaxed);
            return;
        }
        fence(Ordering::Release);
        let replaced = entry.score.swap(score.to_bits(), Ordering::Relaxed);
        entry.sequence.store(sequence, Ordering::Relaxed);
        entry.chance.store(chance.to_bits(), Ordering::Relaxed);
        entry.length.store(u32::from(key.length), Ordering::Relaxed);
        for (part, word) in entry.key.iter().zip(key.words()) {
            part.store(word, Ordering::Relaxed);
        }
        entry
            .version
            .store(version.wrapping_add(2), Ordering::Release);
        self.threshold.fetch_max(replaced, Ordering::Relaxed);
    }

    /// The entry that would be replaced, and the bits of its score. Entries that cannot be written are left out.
    fn lowest(&self) -> Option<(&Entry, u64)> {
        self.entries
            .iter()
            .filter(|entry| entry.version.load(Ordering::Relaxed) % 2 == 0)
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
            .filter_map(|entry| entry.read())
            .map(|(key, sequence, heat)| Kept {
                key,
                weight: (heat.max(threshold) - reached).exp(),
                sequence,
            })
            .collect()
    }
}

impl Entry {
    /// The key, its place in the order, and ln of its weight plus Λ at its time.
    fn read(&self) -> Option<(Key, u32, f64)> {
        for _ in 0..4 {
            let before = self.version.load(Ordering::Acquire);
            let score = self.score.load(Ordering::Relaxed);
            let sequence = self.sequence.load(Ordering::Relaxed);
            let chance = f32::from_bits(self.chance.load(Ordering::Relaxed));
            let length = self.length.load(Ordering::Relaxed);
            let words = std::array::from_fn(|word| {
                self.key
                    .get(word)
                    .map_or(0, |part| part.load(Ordering::Relaxed))
            });
            fence(Ordering::Acquire);
            if before % 2 == 0 && self.version.load(Ordering::Relaxed) == before {
                let key = Key::from_words(words, u8::try_from(length).unwrap_or(0));
                return (score != 0)
                    .then(|| (key, sequence, f64::from_bits(score) - f64::from(chance)));
            }
        }
        None
    }
}
