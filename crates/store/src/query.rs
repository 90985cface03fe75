//! Asking for records: by time, subject, instance, credential or decision id, correlation id; or one writer's in order.

use std::fmt;

use jiff::Timestamp;

use crate::{Position, WriterName};

/// Most records of one page.
pub const PAGE_MAX: usize = 1000;
/// Records of a page whose size was not asked for.
pub const PAGE_DEFAULT: usize = 100;

/// What is asked. Empty fields do not narrow; the others must all hold.
#[derive(Clone, Debug, Default)]
pub struct RecordQuery {
    /// Not before this (inclusive, to the millisecond).
    pub from: Option<Timestamp>,
    /// Before this (exclusive, to the millisecond).
    pub until: Option<Timestamp>,
    /// The action's word: `issue_x509`.
    pub kind: Option<String>,
    /// The SPIFFE ID it is about.
    pub subject: Option<String>,
    /// The instance's key.
    pub instance: Option<String>,
    /// A credential's id, or a decision's.
    pub name: Option<String>,
    /// The correlation id.
    pub correlation: Option<String>,
    /// In which order.
    pub order: Order,
    /// Only what follows this in that order.
    pub after: Option<Cursor>,
    /// Most records of the page; 0 is [`PAGE_DEFAULT`], more than [`PAGE_MAX`] is that.
    pub limit: usize,
}

/// The order of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By time, newest first.
    #[default]
    Newest,
    /// By time, oldest first.
    Oldest,
    /// As this writer wrote them: what a reader that must miss nothing uses, with one cursor per writer. Time is no
    /// such order, since clocks differ between servers and can be set.
    Written(WriterName),
}

/// A record as it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Where.
    pub position: Position,
    /// When, to the millisecond.
    pub at: Timestamp,
    /// The action's word.
    pub kind: String,
    /// Its bytes, as they were written.
    pub body: Vec<u8>,
}

/// Some records, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordPage {
    /// In the order asked for.
    pub records: Vec<StoredRecord>,
    /// To be passed as `after` for the next page; `None` when this was the last.
    pub next: Option<Cursor>,
}

/// A place in an order of records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub(crate) at_ms: i64,
    pub(crate) position: Position,
}

impl Cursor {
    /// Just behind this record. For [`Order::Written`] only the position counts.
    #[must_use]
    pub fn behind(record: &StoredRecord) -> Self {
        Self {
            at_ms: record.at.as_millisecond(),
            position: record.position.clone(),
        }
    }

    /// Just behind this position, for [`Order::Written`].
    #[must_use]
    pub fn behind_position(position: Position) -> Self {
        Self { at_ms: 0, position }
    }

    /// Parses what [`fmt::Display`] writes: `milliseconds@writer:number`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (at, position) = text.split_once('@')?;
        Some(Self {
            at_ms: at.parse().ok()?,
            position: Position::parse(position)?,
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.at_ms, self.position)
    }
}

impl RecordQuery {
    /// The size of the page, within its bounds.
    #[must_use]
    pub fn page(&self) -> usize {
        match self.limit {
            0 => PAGE_DEFAULT,
            n => n.min(PAGE_MAX),
        }
    }
}

impl RecordPage {
    /// A page from up to one record more than it holds: the surplus says that there is a next.
    pub(crate) fn cut(mut records: Vec<StoredRecord>, page: usize) -> Self {
        let more = records.len() > page;
        records.truncate(page);
        let next = if more {
            records.last().map(Cursor::behind)
        } else {
            None
        };
        Self { records, next }
    }
}
