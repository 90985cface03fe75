//! Who: node and workload attestors. An attestor says only who; it cannot grant.
//!
//! Absent on purpose: the snapshot, the ledger, the authority, policy, the wire. Nothing here can
//! say *whether*; a join token's attestor, for one, proves possession and does not know if the
//! token exists.

mod error;
pub mod node;
pub mod parse;
pub mod peer;
pub mod workload;

pub use error::{AttestError, Failure};
pub use peer::{Peer, PeerError};
