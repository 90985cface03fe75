//! What a server is told, checked: raw configuration becomes this in the cli.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use attesta_attest::node::Verifiers;
use attesta_authority::{Kek, Lifetimes, ring::Limits};
use attesta_model::KeyAlgorithm;
use attesta_policy::Policies;
use attesta_spiffe::{SpiffeId, TrustDomain};
use attesta_store::Retention;

/// Everything a server needs to know before it is built.
pub struct ServerSettings {
    /// For ever: the ledger's header holds it.
    pub trust_domain: TrustDomain,
    /// Where agents call; port 0 chooses one. None: only an agent in this process.
    pub listen: Option<SocketAddr>,
    /// The admin socket.
    pub admin_socket: Option<AdminSocket>,
    /// The key-encryption key.
    pub kek: Kek,
    /// Key of the X.509 authority.
    pub ca_key: KeyAlgorithm,
    /// Keys of JWT authorities, the first is the default. Some clouds take RS256 only.
    pub jwt_keys: Vec<KeyAlgorithm>,
    /// Lifetimes of authorities.
    pub lifetimes: Lifetimes,
    /// Lifetimes of SVIDs.
    pub limits: Limits,
    /// Lifetime of agents' certificates; zero is the default of X.509-SVIDs.
    pub agent_ttl: Duration,
    /// The policies.
    pub policies: Policies,
    /// The node attestors, server halves.
    pub attestors: Verifiers,
    /// SPIFFE IDs that administer, beside those of entries.
    pub admin_ids: Vec<SpiffeId>,
    /// How long records are kept; what goes is itself a record.
    pub retention: Retention,
    /// Most connections at once on the TCP listener, of which each may hold a push stream.
    pub connections: usize,
}

/// The admin socket.
#[derive(Clone, Debug)]
pub struct AdminSocket {
    /// Its path, in a directory that only the owner can write.
    pub path: PathBuf,
}
