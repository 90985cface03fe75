//! How common a selector is, roughly: the writer's own, beside the snapshot, since only filing needs it.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// Counters by hash in a fixed 1 MiB. Two selectors that share a counter look more common than they are, which costs
/// a longer scan and never a wrong answer.
pub struct Rarity(Box<[u32]>);

const COUNTERS: usize = 1 << 18;

impl Default for Rarity {
    fn default() -> Self {
        Self(vec![0; COUNTERS].into_boxed_slice())
    }
}

impl Rarity {
    /// One more entry has this selector.
    pub fn add(&mut self, selector: &str) {
        if let Some(counter) = self.counter(selector) {
            *counter = counter.saturating_add(1);
        }
    }

    /// One entry less has it.
    pub fn sub(&mut self, selector: &str) {
        if let Some(counter) = self.counter(selector) {
            *counter = counter.saturating_sub(1);
        }
    }

    /// At least how many entries have it.
    #[must_use]
    pub fn estimate(&self, selector: &str) -> u32 {
        self.0.get(slot(selector)).copied().unwrap_or(0)
    }

    fn counter(&mut self, selector: &str) -> Option<&mut u32> {
        self.0.get_mut(slot(selector))
    }
}

fn slot(selector: &str) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(selector);
    usize::try_from(hash % (COUNTERS as u64)).unwrap_or(0)
}
