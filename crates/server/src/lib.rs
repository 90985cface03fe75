//! The server: SPIRE's APIs and ours over one sentence: attest, identify, decide, record, issue.
//!
//! `door/` has one file per service and turns messages into the model's words and back; `flow/` has one file per thing
//! that can be asked, each the whole sentence; the rest is what both stand on. A door decides nothing.

mod caller;
mod core;
mod door;
mod flow;
mod guard;
mod listen;
mod places;
mod refusals;
mod seen;
mod server;
mod settings;
mod timeguard;
mod wakes;

pub use caller::{Caller, Level};
pub use guard::{RPCS, Rpc};
pub use server::{Server, ServerError, Started};
pub use settings::{AdminSocket, ServerSettings};
