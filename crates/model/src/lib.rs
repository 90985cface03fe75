//! The domain as arithmetic: facts, entries, requests, changes, snapshots, records.
//!
//! Absent on purpose: time and randomness (both are arguments), IO, async, protobuf, SQL, keys.
//! Everything here can be tested by calling a function with values.

pub mod attested;
pub mod authority;
pub mod denial;
pub mod entry;
pub mod fact;
pub mod identify;
pub mod instance;
pub mod limits;
pub mod node;
pub mod object;
pub mod plan;
pub mod record;
pub mod request;
pub mod snapshot;
pub mod template;
pub mod text;

pub use attested::{Attested, Claim, Evidence, IssuerId, Once, OnceKey, Parent};
pub use authority::{AuthorityKey, AuthorityState, KeyAlgorithm, KeyId, KeyKind, Sealed};
pub use denial::{Code, Denial, Reason};
pub use entry::{Entry, EntryId, EntrySpec, FieldError, IdPattern, Selectors, Sharing};
pub use fact::{Fact, Facts, Selector, SelectorSet};
pub use identify::{Match, Near};
pub use instance::{Instance, InstanceKey};
pub use node::{JoinToken, Node, TokenHash};
pub use object::{Change, Kind, Object, ObjectKey};
pub use plan::{OnceHolder, Plan, Revision};
pub use record::{Outcome, Record, RecordIndex};
pub use request::{Action, Actor, CorrelationId, CredentialId, DecisionId, Request};
pub use snapshot::{Rarity, Snapshot, Touched};
pub use template::Template;
