//! The seam between the ledger and what keeps its rows. A backend knows rows, not what they mean; it never runs a
//! command and never makes a receipt. All of [`Backend`] runs on the ledger's one writer thread.

pub mod memory;
pub mod sqlite;

mod error;
#[cfg(test)]
mod tests;

pub use error::{BackendError, Fault, OpenError};

use std::{sync::Arc, time::Duration};

use attesta_model::{Kind, OnceHolder, OnceKey, RecordIndex, Revision};
use jiff::Timestamp;

use crate::{LedgerId, Position, RecordPage, RecordQuery, WriterName};

/// The level of what is written today; a ledger of a higher level is refused.
pub const FORMAT: u32 = 1;

/// Where rows are kept.
pub trait Backend: Send {
    /// Everything at one moment: each live object is handed to `each`, the rest is returned.
    ///
    /// # Errors
    /// [`BackendError`].
    fn load(&mut self, each: &mut dyn FnMut(Row<'_>)) -> Result<Loaded, BackendError>;

    /// Who used this evidence, and when.
    ///
    /// # Errors
    /// [`BackendError`].
    fn used(&mut self, key: &OnceKey) -> Result<Option<Use>, BackendError>;

    /// Writes a batch in ONE transaction, durable before it returns [`Appended::Done`]; in every other case nothing of
    /// it is written.
    ///
    /// # Errors
    /// [`BackendError`]: nothing was written as far as this backend can tell.
    fn append(&mut self, batch: &Batch) -> Result<Appended, BackendError>;

    /// What changed after `revision`.
    ///
    /// # Errors
    /// [`BackendError`].
    fn since(&mut self, revision: Revision) -> Result<Since, BackendError>;

    /// Drops what is too old or too much, at most [`PRUNE_MAX`] records a call, in one transaction with the record that
    /// says so: `note` makes it from what goes, and is asked only when records go.
    ///
    /// # Errors
    /// [`BackendError`]: nothing was dropped.
    fn prune(
        &mut self,
        limits: &Retention,
        now: Timestamp,
        note: &mut dyn FnMut(&Pruned) -> Arc<RecordRow>,
    ) -> Result<Pruned, BackendError>;
}

/// Reads records, on a connection of its own.
pub trait Records: Send {
    /// One page.
    ///
    /// # Errors
    /// [`BackendError`].
    fn query(&mut self, query: &RecordQuery) -> Result<RecordPage, BackendError>;
}

/// Opens one more connection for reading records.
pub type OpenRecords = Box<dyn Fn() -> Result<Box<dyn Records>, BackendError> + Send + Sync>;

/// Most records that one call of [`Backend::prune`] drops, so that writing waits milliseconds and not minutes.
pub const PRUNE_MAX: u64 = 5_000;

/// For how long a used key outlives both its evidence and its use: longer than the five minutes for which the same
/// caller is answered again, and than clocks may differ.
pub const ONCE_GRACE: Duration = Duration::from_secs(15 * 60);

/// One live object.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub key: &'a str,
    /// Its bytes.
    pub body: &'a [u8],
}

/// What a load returns beside the rows.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where this is, for messages: a path, or `memory`.
    pub place: Arc<str>,
    /// `None` in a ledger that was never written to.
    pub header: Option<Header>,
    /// The newest revision.
    pub head: Head,
    /// The time of the newest record of all writers.
    pub newest_record: Option<Timestamp>,
    /// The newest record of this writer.
    pub last: Option<Position>,
}

/// What is written once and never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The ledger's name.
    pub id: LedgerId,
    /// The trust domain's name, for ever.
    pub trust_domain: String,
    /// The level of what may be written.
    pub format: u32,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The newest revision, and the last that changed the bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The count of commits.
    pub revision: Revision,
    /// The last of them that changed the bundle.
    pub bundle_revision: Revision,
}

/// Who used evidence, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The digest of the caller's public key.
    pub holder: OnceHolder,
    /// When.
    pub at: Timestamp,
    /// The record that says so.
    pub position: Position,
}

/// What one transaction writes.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Only in the first of all: refused as a conflict when there is one already.
    pub header: Option<Header>,
    /// The revision on which `changes` rest; not looked at when there are none.
    pub base: Revision,
    /// The head after it; not looked at when there are no changes.
    pub head: Head,
    /// In order; a later one replaces an earlier one of the same object.
    pub changes: Vec<ChangedRow>,
    /// Evidence that must not have been used.
    pub once: Vec<OnceRow>,
    /// In order; they get consecutive numbers.
    pub records: Vec<Arc<RecordRow>>,
}

impl Batch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.is_none()
            && self.changes.is_empty()
            && self.once.is_empty()
            && self.records.is_empty()
    }
}

/// One object's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedRow {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub key: String,
    /// The revision of this change.
    pub revision: Revision,
    /// Its bytes; `None` when it was deleted.
    pub body: Option<Vec<u8>>,
}

/// One use of evidence.
#[derive(Clone, Debug)]
pub struct OnceRow {
    /// What must not come twice.
    pub key: OnceKey,
    /// When the evidence is worthless by itself.
    pub expires_at: Timestamp,
    /// Who used it.
    pub holder: OnceHolder,
    /// When it was used.
    pub at: Timestamp,
    /// Which of the batch's records says so.
    pub record: usize,
}

/// One record, sealed: its bytes are never made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRow {
    /// What it can be found by.
    pub index: RecordIndex,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// How an append ended, when it did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is durable. The position of the first record, if there was one.
    Done(Option<Position>),
    /// Someone else moved the head to this; nothing was written.
    Conflict(Head),
    /// This evidence was used before; nothing was written.
    Used(OnceKey),
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Each object that changed, once, in its newest state.
    Changes {
        /// In order of revision.
        rows: Vec<ChangedRow>,
        /// The head that they lead to.
        head: Head,
    },
    /// The revision lies before what is still known of deletions: load everything.
    Reload,
}

/// How much is kept. `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Records older than this go.
    pub age: Option<Duration>,
    /// When the bodies of all records are more bytes than this, the oldest go.
    pub bytes: Option<u64>,
    /// Deletions more than this many revisions back are forgotten; who is further behind loads everything.
    pub revisions: Option<u64>,
}

/// What went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Records, by writer; of each writer the newest stays.
    pub records: Vec<PrunedRange>,
    /// Used keys of evidence that has expired.
    pub once: u64,
    /// Deletions.
    pub tombstones: u64,
    /// Whether the limits ask for more than one call drops.
    pub more: bool,
    /// The place of the record that says so.
    pub note: Option<Position>,
}

/// A writer's records that went, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunedRange {
    /// Whose.
    pub writer: WriterName,
    /// The first number that went.
    pub first: u64,
    /// The last number that went.
    pub last: u64,
}

impl Retention {
    /// The time before which records go.
    pub(crate) fn horizon(&self, now: Timestamp) -> Option<Timestamp> {
        self.age.and_then(|age| now.checked_sub(age).ok())
    }

    /// The time before which a used key's evidence must have expired, and the use have happened, for it to go.
    pub(crate) fn once_horizon(now: Timestamp) -> Timestamp {
        now.checked_sub(ONCE_GRACE).unwrap_or(Timestamp::MIN)
    }
}
