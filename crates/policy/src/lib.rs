//! Whether: Cedar policies over facts and entries; the only maker of a [`Permit`].
//!
//! Absent on purpose: IO, a clock, randomness, state, protobuf, SQL. A decision is a function of the policy set and a
//! [`Question`], so it can be replayed from its record. `docs/policy.md` is for those who write policies.
//!
//! Cedar recurses: call [`Policies::decide`] and [`Policies::parse`] on stacks of at least 2 MiB.

mod attr;
mod error;
mod input;
mod permit;
mod policies;
mod question;
mod reads;
mod render;
mod replay;
mod slices;
mod source;

pub use error::{Place, PolicyError};
pub use permit::{Permit, Spent};
pub use policies::Policies;
pub use question::{About, Question, Want};

#[cfg(test)]
mod tests;
