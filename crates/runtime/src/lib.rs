//! What every long-running room shares: one clock, values replaced while others read them, named tasks, readiness.
//!
//! This room must not know SPIFFE, the domain, files, sockets or the process that it runs in: it never ends the
//! process, it only says that something failed. The wall clock, the timer and `spawn` are banned everywhere else.

mod clock;
mod live;
mod ready;
pub mod socket;
mod tasks;

pub use clock::{Clock, ClockHand, Elapsed};
pub use live::{Live, Writer, live};
pub use ready::{Readiness, ReadyGuard, ReadyGuards, readiness};
pub use tasks::{Drained, Outcome, Task, TaskEnd, TaskError, TaskFailure, Tasks, Wake};
pub use tokio_util::sync::CancellationToken;
