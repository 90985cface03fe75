//! The whole system in one process with a hand-turned clock, for tests: the real server and agent, the real policy, the
//! in-memory backend, TLS over memory. Each flow and each failure of it takes milliseconds.
//!
//! No room has this one as a dependency of its library.

mod agent;
mod client;
mod world;

pub use agent::{AgentWorld, workload};
pub use client::{NodeClient, csr};
pub use world::{Options, World};
