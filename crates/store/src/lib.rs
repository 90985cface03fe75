//! It is written down: the ledger, its one writer, and the backends under it.
//!
//! The store knows rows, revisions and positions. It must not know what a change *means*: a new feature adds a kind of
//! object to the model and changes nothing here. It knows no keys, no policy and no wire format either.
//!
//! - [`Ledger`] is the only way in: pure commands are run on the newest snapshot by one thread, their changes and
//!   records go to the backend in one transaction, and what is durable is answered by a [`Receipt`].
//! - [`Backend`] is the seam below: five methods, one implementation per file, one conformance suite over all.

pub mod backend;
pub mod failpoints;
pub mod ledger;
pub mod position;
pub mod query;
pub mod receipt;

pub use backend::{
    Appended, Backend, BackendError, Batch, ChangedRow, Fault, Head, Header, Loaded, OnceRow,
    OpenError, OpenRecords, Pruned, PrunedRange, RecordRow, Records, Retention, Row, Since, Use,
    memory::Memory, sqlite::Sqlite,
};
pub use failpoints::Failpoints;
pub use ledger::{Committed, Ledger, LedgerOptions, OnCommit, Opened, Trouble, Used, once_key};
pub use position::{LedgerId, Position, WriterName};
pub use query::{Cursor, Order, RecordPage, RecordQuery, StoredRecord};
pub use receipt::{Receipt, RestsOn};
