//! What a pure command wants: changes, records, and a value for whoever asked.

use crate::{Change, Once, Record};

/// The count of commits. Gap-free; visible in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The one after.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A command's wish, made on one snapshot. Changes are applied in order; records are appended in order and answered
/// by one receipt each; all of it happens, or none.
#[derive(Debug)]
pub struct Plan<T> {
    /// What changes. Empty for issuance: then no head lock is taken.
    pub changes: Vec<Change>,
    /// What is written down.
    pub records: Vec<Record>,
    /// Evidence that must not have been used.
    pub once: Vec<(Once, OnceHolder)>,
    /// For whoever asked.
    pub value: T,
}

/// Who used evidence: the digest of the caller's public key, so that the same caller may be answered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnceHolder(pub [u8; 32]);

impl<T> Plan<T> {
    /// A plan that only answers.
    #[must_use]
    pub fn answer(value: T) -> Self {
        Self {
            changes: Vec::new(),
            records: Vec::new(),
            once: Vec::new(),
            value,
        }
    }

    /// Adds a change.
    #[must_use]
    pub fn change(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }

    /// Adds a record.
    #[must_use]
    pub fn record(mut self, record: Record) -> Self {
        self.records.push(record);
        self
    }

    /// Adds evidence that must be unused.
    #[must_use]
    pub fn once(mut self, once: Once, holder: OnceHolder) -> Self {
        self.once.push((once, holder));
        self
    }
}
