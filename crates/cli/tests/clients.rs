//! Clients that we did not write, unmodified, against the binary as its users start it.
//!
//! `cargo xtask test` brings what they need and says where it is by `ATTESTA_TEST_PYTHON` and `ATTESTA_TEST_PROBE`.
//! What is missing is skipped aloud, and fails where `CI=true`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that fails says so by panicking, and waits in real time"
)]

#[path = "clients/harness.rs"]
mod harness;
#[path = "clients/openssl.rs"]
mod openssl;
#[path = "clients/probe.rs"]
mod probe;
#[path = "clients/python.rs"]
mod python;
#[path = "clients/rust.rs"]
mod rust;
