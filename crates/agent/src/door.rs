//! What the agent's sockets serve.

pub(crate) mod admin;
pub(crate) mod caller;
pub(crate) mod streams;
pub(crate) mod workload;
