//! What an operator sees of a running agent, kept current.
//!
//! Must not know what any of it is used for.

use std::sync::{Arc, PoisonError};

use attesta_runtime::{Live, Writer, live};
use attesta_spiffe::SpiffeId;
use jiff::Timestamp;

/// How an agent is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// The node's own id, once it is attested.
    pub id: Option<SpiffeId>,
    /// When the agent's own SVID expires.
    pub expires_at: Option<Timestamp>,
    /// Whether the last attempt to reach the server succeeded.
    pub server_reachable: bool,
    /// What went wrong last, until the same thing succeeds; a sentence for the operator.
    pub last_error: Option<String>,
    /// Entries this node may vouch for.
    pub entries: usize,
    /// X.509-SVIDs held for instances.
    pub holdings: usize,
}

#[expect(
    clippy::disallowed_types,
    reason = "serialises writers of a Live that several tasks write; readers never take it"
)]
type Lock<T> = std::sync::Mutex<T>;

/// Where the agent's parts write their share of the status.
#[derive(Clone)]
pub(crate) struct Board {
    writer: Arc<Lock<Writer<AgentStatus>>>,
    live: Live<AgentStatus>,
}

impl Board {
    pub(crate) fn new() -> Self {
        let (writer, live) = live(AgentStatus::default());
        Self {
            writer: Arc::new(Lock::new(writer)),
            live,
        }
    }

    pub(crate) fn live(&self) -> Live<AgentStatus> {
        self.live.clone()
    }

    /// Changes the status; nobody is woken where nothing differs.
    pub(crate) fn update(&self, change: impl FnOnce(&mut AgentStatus)) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let old = writer.load();
        let mut new = AgentStatus::clone(&old);
        change(&mut new);
        if new != *old {
            writer.publish(new);
        }
    }

    /// Something failed; logged when it is news.
    pub(crate) fn trouble(&self, what: &str, reachable: bool) {
        let news = self.live.load().last_error.as_deref() != Some(what);
        if news {
            tracing::warn!(error = what, "the agent is in trouble");
        }
        self.update(|status| {
            status.server_reachable &= reachable;
            status.last_error = Some(what.to_owned());
        });
    }

    /// The server answered.
    pub(crate) fn reached(&self) {
        if !self.live.load().server_reachable {
            self.update(|status| {
                status.server_reachable = true;
                status.last_error = None;
            });
        }
    }
}
