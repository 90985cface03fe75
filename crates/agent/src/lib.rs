//! The agent: attests its node and its workloads, holds what they were issued, serves the SPIFFE Workload API.
//!
//! It cannot sign, by construction: it knows neither the store nor policy nor the authority. What it may hand out is
//! what the server issued to it, to the very instance it was issued for. It never ends because the server is away.

mod agent;
mod authorized;
mod door;
mod holdings;
mod host;
mod identity;
mod instances;
mod issue;
mod jwt;
mod key;
mod leaf;
mod link;
mod moments;
mod peers;
mod rotate;
mod settings;
mod standing;
mod status;
mod sync;
#[cfg(test)]
mod testing;
mod trust;
mod unmatched;

pub use agent::{Agent, AgentError};
pub use door::caller::DECISION_METADATA;
pub use identity::KeptError;
pub use key::KeyError;
pub use link::LinkError;
pub use settings::{AgentLimits, AgentSettings, Bootstrap, Dial};
pub use status::AgentStatus;
