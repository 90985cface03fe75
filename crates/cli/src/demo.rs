//! `attesta run --demo`: two services and an impostor, each a process of its own that gets what the Workload API gives.
//!
//! `stage` starts them and tells what they do; `service` is what they do; `holder` is how a service holds its identity;
//! `event` is what they say to the stage. Nothing here has a way around the sockets that every workload has.

mod event;
mod holder;
mod service;
mod stage;

pub(crate) use service::{DemoService, service};
pub(crate) use stage::{Stage, play};
