//! What SPIRE's API shows of a node and the node itself does not hold: the serial and end of its newest certificate, and
//! its agent's version. Folded from attestations and renewals, which are records and no changes.

use std::collections::HashMap;

use attesta_model::CredentialId;
use attesta_spiffe::SpiffeId;
use jiff::Timestamp;

/// What was last seen of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) serial: Option<CredentialId>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) version: String,
}

/// By node.
#[derive(Default)]
pub(crate) struct NodesSeen {
    #[expect(
        clippy::disallowed_types,
        reason = "held for one look-up or insert, never across IO or an await"
    )]
    nodes: std::sync::Mutex<HashMap<SpiffeId, Seen>>,
}

impl NodesSeen {
    /// A certificate was issued to this node.
    pub(crate) fn certificate(&self, node: &SpiffeId, serial: CredentialId, expires_at: Timestamp) {
        self.with(|nodes| {
            let seen = nodes.entry(node.clone()).or_default();
            seen.serial = Some(serial);
            seen.expires_at = Some(expires_at);
        });
    }

    /// The node's agent said which version it is.
    pub(crate) fn version(&self, node: &SpiffeId, version: String) {
        self.with(|nodes| nodes.entry(node.clone()).or_default().version = version);
    }

    /// What was last seen.
    pub(crate) fn of(&self, node: &SpiffeId) -> Seen {
        self.with(|nodes| nodes.get(node).cloned().unwrap_or_default())
    }

    /// The node is gone.
    pub(crate) fn forget(&self, node: &SpiffeId) {
        self.with(|nodes| nodes.remove(node));
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<SpiffeId, Seen>) -> T) -> T {
        f(&mut self
            .nodes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
