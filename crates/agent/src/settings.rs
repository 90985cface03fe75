//! What an agent is told when it is built: whom to ask, where to listen, how much of anything.
//!
//! Must not know files of settings, flags or the environment; the command line makes these values.

use std::{path::PathBuf, sync::Arc, time::Duration};

use attesta_attest::{node::Collect, workload::Workloads};
use attesta_model::KeyAlgorithm;
use attesta_spiffe::{Bundle, TrustDomain};
use tokio::{io::DuplexStream, sync::mpsc};

/// Everything an agent needs to know.
pub struct AgentSettings {
    /// The trust domain of the server and of everything this agent hands out.
    pub trust_domain: TrustDomain,
    /// Where the server is.
    pub server: Dial,
    /// By what the server is believed before the agent holds a bundle of its own. A bundle kept in `data_dir` wins.
    pub bootstrap: Bootstrap,
    /// Where the agent's key, SVID and bundle are kept (files of mode 0600); nowhere but in memory when `None`.
    pub data_dir: Option<PathBuf>,
    /// The socket of the SPIFFE Workload API, mode 0777.
    pub workload_socket: PathBuf,
    /// The agent's own admin socket, mode 0660; none where nobody asks.
    pub admin_socket: Option<PathBuf>,
    /// How the node proves what it is.
    pub collect: Arc<dyn Collect>,
    /// How processes are described.
    pub workloads: Workloads,
    /// How often a server that cannot push is asked for entries and bundle; 5 s is SPIRE's.
    pub sync_interval: Duration,
    /// The kind of keys made for workloads: `EcP256` or `Rsa2048`.
    pub workload_key: KeyAlgorithm,
    /// How much of anything.
    pub limits: AgentLimits,
}

/// Where the server is.
#[derive(Clone, Debug)]
pub enum Dial {
    /// `host:port`.
    Tcp(String),
    /// In this process: the far end of each new connection is sent here. TLS runs over it all the same.
    Local(mpsc::Sender<DuplexStream>),
}

/// By what a server is believed before there is a bundle from it.
#[derive(Clone, Debug)]
pub enum Bootstrap {
    /// By this bundle, which came another way.
    Bundle(Bundle),
    /// By its name alone, the first time.
    Insecure,
}

/// How much of anything an agent takes on.
#[derive(Clone, Debug)]
pub struct AgentLimits {
    /// Open connections to the sockets per user id; one more is closed at once.
    pub connections_per_uid: u32,
    /// Open streams per user id; one more is answered `Unavailable`.
    pub streams_per_uid: u32,
    /// X.509-SVIDs held at once.
    pub holdings: usize,
    /// JWT-SVIDs held at once; one more pushes out the one that would go stale first.
    pub jwt_cache: usize,
    /// Instances whose end is still to be reported; one more pushes out the oldest.
    pub endings: usize,
    /// How long one workload attestor may take.
    pub attest_deadline: Duration,
}

impl Default for AgentLimits {
    /// 1,024 connections and streams per user, 50,000 SVIDs, 10,000 tokens, 10,000 endings, 5 s.
    fn default() -> Self {
        Self {
            connections_per_uid: 1024,
            streams_per_uid: 1024,
            holdings: 50_000,
            jwt_cache: 10_000,
            endings: 10_000,
            attest_deadline: Duration::from_secs(5),
        }
    }
}
