//! What a decision is about, in the model's own words. It must not know how Cedar is asked.

use std::time::Duration;

use attesta_model::{Attested, Entry, Facts, KeyAlgorithm, Node, Request};
use attesta_spiffe::SpiffeId;

/// May this actor do this? The request says who, what and when; `about` says to whom or what.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Who asks for which action, and when.
    pub request: &'a Request,
    /// What is acted on.
    pub about: About<'a>,
}

/// What is acted on. Which variant goes with which actions is fixed; another pair is refused as a fault of ours.
#[derive(Clone, Debug)]
pub enum About<'a> {
    /// `issue_x509` with [`Want::X509`], `issue_jwt` with [`Want::Jwt`]: a credential for a workload.
    Issue {
        /// The entry that gives it.
        entry: &'a Entry,
        /// The SPIFFE ID, expanded.
        id: &'a SpiffeId,
        /// What was proven, by whom, of which instance.
        attested: &'a Attested,
        /// The node that vouches, where a node does.
        node: Option<&'a Node>,
        /// Whether the caller named the entry instead of showing facts.
        by_entry: bool,
        /// The credential.
        want: Want,
    },
    /// `attest_node`, `renew_node`, with [`Want::X509`] or [`Want::Nothing`].
    Node {
        /// The node's SPIFFE ID.
        id: &'a SpiffeId,
        /// The attestor that proved it.
        attestor: &'a str,
        /// What was proven of it.
        facts: &'a Facts,
        /// The node as it is known already.
        known: Option<&'a Node>,
        /// The credential.
        want: Want,
    },
    /// `entry_create`, `entry_update`, `entry_delete`.
    Entry {
        /// The entry: as it will be, or the one to delete.
        entry: &'a Entry,
        /// As it was before an update.
        before: Option<&'a Entry>,
    },
    /// `node_ban`, `node_evict`, `token_create`, `instance_ended`: the target's name.
    Target(&'a str),
    /// `authority_prepare`, `authority_activate`, `authority_retire`, `server_svid`, with [`Want::X509`] or
    /// [`Want::Nothing`].
    System {
        /// The SPIFFE ID a certificate is for, where it is for one.
        id: Option<&'a SpiffeId>,
        /// The credential.
        want: Want,
    },
}

/// The credential that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// None; the action is something else.
    Nothing,
    /// An X.509-SVID.
    X509 {
        /// Its lifetime, as asked for; the authority's ceiling applies as well.
        ttl: Duration,
        /// Its DNS names.
        dns_names: Vec<String>,
    },
    /// A JWT-SVID.
    Jwt {
        /// For whom.
        audience: Vec<String>,
        /// Its lifetime, as asked for; the authority's ceiling applies as well.
        ttl: Duration,
        /// What it will be signed with.
        algorithm: KeyAlgorithm,
    },
}

impl Want {
    /// The lifetime asked for; zero where nothing is wanted.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        match self {
            Self::Nothing => Duration::ZERO,
            Self::X509 { ttl, .. } | Self::Jwt { ttl, .. } => *ttl,
        }
    }
}
