//! Checked configuration becomes what server and agent are built of.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use attesta_agent::{AgentLimits, Bootstrap};
use attesta_attest::{
    AttestError,
    node::{self, Collect, Verifiers, join_token::Token, local::LocalVerify, x509pop},
    workload::{WorkloadSettings, Workloads, unix},
};
use attesta_authority::{Kek, Lifetimes, ring::Limits};
use attesta_model::Evidence;
use attesta_policy::Policies;
use attesta_server::{AdminSocket, ServerError, ServerSettings};
use attesta_spiffe::{Bundle, TrustDomain};
use attesta_store::Retention;
use zeroize::Zeroizing;

use super::bundle_file;
use crate::{
    config::{AgentConfig, ServerConfig, read_file},
    output::Failure,
};

/// Longest file of policies or with a token, in bytes; `policy` has its own bound below it.
const FILE_BYTES: u64 = 4 << 20;

/// For how many commits deletions are remembered: who reads changes from further back loads everything.
const REVISIONS: u64 = 100_000;

/// What a server is made of beside its state.
pub(super) struct ServerParts<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) listen: Option<SocketAddr>,
    pub(super) admin_socket: PathBuf,
    pub(super) local: Option<LocalVerify>,
}

impl ServerParts<'_> {
    pub(super) fn settings(self, kek: Kek) -> Result<ServerSettings, Failure> {
        let config = self.config;
        let mut halves = node::ServerSettings::none(self.trust_domain.clone());
        halves.join_token = config.join_token;
        halves.local = self.local;
        if !config.x509pop_ca_bundles.is_empty() {
            halves.x509pop = Some(x509pop::ServerSettings {
                ca_bundles: config.x509pop_ca_bundles.clone(),
            });
        }
        Ok(ServerSettings {
            trust_domain: self.trust_domain.clone(),
            listen: self.listen,
            admin_socket: Some(AdminSocket {
                path: self.admin_socket,
            }),
            kek,
            ca_key: config.ca_key,
            jwt_keys: config.jwt_keys.clone(),
            lifetimes: Lifetimes {
                authority: config.ca_ttl,
                propagation: config.propagation,
            },
            limits: Limits {
                default_x509: config.default_x509,
                default_jwt: config.default_jwt,
                longest_x509: config.longest_x509,
                longest_jwt: config.longest_jwt,
                ..Limits::default()
            },
            agent_ttl: config.agent_ttl,
            policies: policies(config)?,
            attestors: Verifiers::new(halves).map_err(|e| Failure::usage(e.to_string()))?,
            admin_ids: config.admin_ids.clone(),
            retention: Retention {
                age: config.records_age,
                bytes: config.records_size,
                revisions: Some(REVISIONS),
            },
            connections: config.connections,
        })
    }
}

fn policies(config: &ServerConfig) -> Result<Policies, Failure> {
    let mut texts = Vec::new();
    if config.default_policies {
        texts.push(("default.cedar".to_owned(), Policies::DEFAULT.to_owned()));
    }
    for path in &config.policy_files {
        let text = String::from_utf8(read_file(path, FILE_BYTES)?)
            .map_err(|_| Failure::usage(format!("{}: not UTF-8", path.display())))?;
        texts.push((path.display().to_string(), text));
    }
    let texts: Vec<_> = texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    Policies::parse(&texts).map_err(|e| Failure::usage(e.to_string()))
}

/// Why a server was not built, with the way out where its own words do not have it.
pub(super) fn refused(error: ServerError) -> anyhow::Error {
    match &error {
        ServerError::Listen { address, source }
            if source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            Failure::failed(format!("{address} is in use by another process"))
                .with_cause(source)
                .with_hint("choose another with --listen")
                .into()
        }
        _ => error.into(),
    }
}

/// How processes are described.
pub(super) fn workloads(config: &AgentConfig) -> Workloads {
    let unix = unix::Settings {
        executable_limit: config.executable_limit,
        foreign_paths: config.foreign_paths,
    };
    Workloads::new(&WorkloadSettings { unix: Some(unix) })
}

/// How much an agent takes on.
pub(super) fn agent_limits(config: &AgentConfig) -> AgentLimits {
    AgentLimits {
        connections_per_uid: config.connections_per_uid,
        streams_per_uid: config.streams_per_uid,
        ..AgentLimits::default()
    }
}

/// What an earlier run of the agent left in its directory.
pub(super) struct Kept {
    bundle: bool,
    identity: bool,
}

impl Kept {
    pub(super) fn look(dir: &Path) -> Self {
        Self {
            bundle: dir.join("agent-bundle.json").exists(),
            identity: dir.join("agent-svid.json").exists(),
        }
    }
}

/// By what the server is believed the first time.
pub(super) fn bootstrap(
    config: &AgentConfig,
    trust_domain: &TrustDomain,
    kept: &Kept,
) -> Result<Bootstrap, Failure> {
    match &config.bootstrap_bundle {
        // The agent's own bundle wins, and the file may be gone by then. Should it be gone too, nobody is believed.
        _ if kept.bundle => Bundle::new(trust_domain.clone(), Vec::new(), Vec::new(), 0, None).map(Bootstrap::Bundle).map_err(|e| Failure::failed(e.to_string())),
        Some(path) => Ok(Bootstrap::Bundle(bundle_file::read(path, trust_domain)?)),
        None if config.insecure_bootstrap => Ok(Bootstrap::Insecure),
        None => Err(Failure::usage("nothing says by what the server is believed the first time")
            .with_hint("give the server's bundle.pem with --bootstrap-bundle (key agent.bootstrap_bundle), or, where nobody can stand in between, --insecure-bootstrap")),
    }
}

/// How the node proves what it is.
pub(super) fn collect(
    config: &AgentConfig,
    token: Option<Arc<Zeroizing<String>>>,
    kept: &Kept,
) -> Result<Arc<dyn Collect>, Failure> {
    let usage = |e: AttestError| Failure::usage(e.to_string());
    let mut halves = node::AgentSettings::none();
    let token = match (token, &config.join_token_path) {
        (Some(token), _) => Some(token),
        (None, Some(path)) => {
            let bytes = Zeroizing::new(read_file(path, FILE_BYTES)?);
            let text = std::str::from_utf8(&bytes)
                .map_err(|_| Failure::usage(format!("{}: not UTF-8", path.display())))?;
            Some(Arc::new(Zeroizing::new(text.trim().to_owned())))
        }
        (None, None) => None,
    };
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        halves.join_token = Some(Token::parse(&token).map_err(usage)?);
    }
    halves.x509pop = config.x509pop.as_ref().map(|own| x509pop::AgentSettings {
        certificate: own.certificate.clone(),
        private_key: own.private_key.clone(),
        intermediates: own.intermediates.clone(),
    });
    if halves.join_token.is_none() && halves.x509pop.is_none() && kept.identity {
        return Ok(Arc::new(Spent));
    }
    node::collector(halves).map(Arc::from).map_err(|e| {
        usage(e).with_hint("a join token (`attesta token generate` on the server) in ATTESTA_JOIN_TOKEN or in the file agent.join_token.path; or [agent.x509pop]")
    })
}

/// The agent has attested before and is given no evidence now: it lives on the SVID it kept, for as long as that is
/// renewed.
struct Spent;

impl Collect for Spent {
    fn name(&self) -> &'static str {
        "none"
    }

    fn evidence(&self) -> Result<Evidence, AttestError> {
        Err(AttestError::Setting {
            attestor: "node",
            setting: "node_attestor",
            why: "the agent has to attest again and has nothing to attest with".to_owned(),
            hint: "start it with a new join token, or with [agent.x509pop]".into(),
        })
    }

    fn answer(&self, _: &[u8]) -> Result<Vec<u8>, AttestError> {
        self.evidence().map(|_| Vec::new())
    }
}
