//! Configuration: a TOML file against one table of keys, every error at once; then one checked struct per role.
//!
//! `keys` is the table, `value` what a key may hold, `read` the file, `nearest` the guess at what was meant,
//! `reference` the table for people. Must not know what the settings do.

pub(crate) mod keys;
mod nearest;
mod read;
mod reference;
pub(crate) mod value;

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use attesta_authority::Lifetimes;
use attesta_model::KeyAlgorithm;
use attesta_spiffe::{SpiffeId, TrustDomain};
use clap::{Subcommand, ValueEnum};

use crate::{
    args::{Global, Output},
    output::{Failure, raw},
};
pub(crate) use keys::Role;
pub(crate) use read::{Given, Values};

/// Commands about the configuration.
#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Check a file, and say everything that is wrong with it
    #[command(after_help = "Example:\n  attesta config check -c attesta.toml --for server")]
    Check {
        /// The file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Which command will read it; by default the one its sections are for
        #[arg(long = "for", value_enum)]
        role: Option<For>,
    },
    /// Print the reference of all keys, as Markdown
    Reference,
}

/// Who reads a file.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum For {
    /// `attesta run`
    Run,
    /// `attesta server run`
    Server,
    /// `attesta agent run`
    Agent,
}

impl From<For> for Role {
    fn from(role: For) -> Self {
        match role {
            For::Run => Self::Run,
            For::Server => Self::Server,
            For::Agent => Self::Agent,
        }
    }
}

/// Runs a command about the configuration.
pub(crate) fn command(command: &ConfigCommand, global: &Global) -> anyhow::Result<ExitCode> {
    let text = match command {
        ConfigCommand::Reference => reference::markdown(),
        ConfigCommand::Check { config, role } => {
            let role = match role {
                Some(role) => Role::from(*role),
                None => read::role_of(config)?,
            };
            let values = Values::load(Some(config), role, Given::default())?;
            // The structs are made as the command would make them.
            match role {
                Role::Run => drop((ServerConfig::new(&values), AgentConfig::new(&values))),
                Role::Server => drop(ServerConfig::new(&values)),
                Role::Agent => drop(AgentConfig::new(&values)),
            }
            match global.output {
                Output::Text => format!("{} is good for `{}`\n", config.display(), role.command()),
                Output::Json => format!(
                    "{}\n",
                    serde_json::json!({"file": config, "command": role.command(), "good": true})
                ),
            }
        }
    };
    raw(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// `[server]`, checked.
#[derive(Debug, PartialEq)]
pub(crate) struct ServerConfig {
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) admin_socket: Option<PathBuf>,
    pub(crate) connections: usize,
    pub(crate) ca_key: KeyAlgorithm,
    pub(crate) jwt_keys: Vec<KeyAlgorithm>,
    pub(crate) ca_ttl: Duration,
    pub(crate) propagation: Duration,
    pub(crate) default_x509: Duration,
    pub(crate) default_jwt: Duration,
    pub(crate) longest_x509: Duration,
    pub(crate) longest_jwt: Duration,
    /// Zero: as X.509-SVIDs.
    pub(crate) agent_ttl: Duration,
    pub(crate) admin_ids: Vec<SpiffeId>,
    pub(crate) default_policies: bool,
    pub(crate) policy_files: Vec<PathBuf>,
    /// None: for ever.
    pub(crate) records_age: Option<Duration>,
    /// Bytes; none: without limit.
    pub(crate) records_size: Option<u64>,
    pub(crate) join_token: bool,
    /// Empty: switched off.
    pub(crate) x509pop_ca_bundles: Vec<PathBuf>,
}

impl ServerConfig {
    pub(crate) fn new(values: &Values) -> Self {
        let ca_ttl = values.duration("server.ca_ttl").unwrap_or_default();
        Self {
            trust_domain: values.trust_domain("server.trust_domain"),
            data_dir: values.path("server.data_dir"),
            listen: values.address("server.listen"),
            admin_socket: values.path("server.admin_socket"),
            connections: values.count("server.connections"),
            ca_key: values
                .keys("server.ca_key_type")
                .first()
                .copied()
                .unwrap_or_default(),
            jwt_keys: values.keys("server.jwt_key_types"),
            ca_ttl,
            propagation: values.duration("server.propagation").unwrap_or_default(),
            default_x509: values
                .duration("server.default_x509_svid_ttl")
                .unwrap_or_default(),
            default_jwt: values
                .duration("server.default_jwt_svid_ttl")
                .unwrap_or_default(),
            longest_x509: values
                .duration("server.longest_x509_svid_ttl")
                .unwrap_or_else(|| longest(ca_ttl)),
            longest_jwt: values
                .duration("server.longest_jwt_svid_ttl")
                .unwrap_or_default(),
            agent_ttl: values.duration("server.agent_ttl").unwrap_or_default(),
            admin_ids: values.ids("server.admin_ids"),
            default_policies: values.flag("server.default_policies"),
            policy_files: values.paths("server.policy_files"),
            records_age: values.duration("server.records_age"),
            records_size: Some(values.number("server.records_size")).filter(|size| *size > 0),
            join_token: values.flag("server.join_token"),
            x509pop_ca_bundles: values.paths("server.x509pop.ca_bundle_paths"),
        }
    }
}

/// The longest SVID that authorities of this lifetime sign.
fn longest(ca_ttl: Duration) -> Duration {
    Lifetimes {
        authority: ca_ttl,
        ..Lifetimes::default()
    }
    .longest_svid()
}

/// `[agent]`, checked.
#[derive(Debug, PartialEq)]
pub(crate) struct AgentConfig {
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) server_address: Option<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) bootstrap_bundle: Option<PathBuf>,
    pub(crate) insecure_bootstrap: bool,
    pub(crate) workload_socket: Option<PathBuf>,
    pub(crate) admin_socket: Option<PathBuf>,
    pub(crate) sync_interval: Duration,
    pub(crate) workload_key: KeyAlgorithm,
    /// Bytes.
    pub(crate) executable_limit: u64,
    pub(crate) foreign_paths: bool,
    pub(crate) connections_per_uid: u32,
    pub(crate) streams_per_uid: u32,
    pub(crate) join_token_path: Option<PathBuf>,
    pub(crate) x509pop: Option<X509Pop>,
}

/// `[agent.x509pop]`, checked.
#[derive(Debug, PartialEq)]
pub(crate) struct X509Pop {
    pub(crate) certificate: PathBuf,
    pub(crate) private_key: PathBuf,
    pub(crate) intermediates: Option<PathBuf>,
}

impl AgentConfig {
    pub(crate) fn new(values: &Values) -> Self {
        let x509pop = match (
            values.path("agent.x509pop.certificate_path"),
            values.path("agent.x509pop.private_key_path"),
        ) {
            (Some(certificate), Some(private_key)) => Some(X509Pop {
                certificate,
                private_key,
                intermediates: values.path("agent.x509pop.intermediates_path"),
            }),
            _ => None,
        };
        let count = |path| u32::try_from(values.count(path)).unwrap_or(u32::MAX);
        Self {
            trust_domain: values.trust_domain("agent.trust_domain"),
            server_address: values.text("agent.server_address"),
            data_dir: values.path("agent.data_dir"),
            bootstrap_bundle: values.path("agent.bootstrap_bundle"),
            insecure_bootstrap: values.flag("agent.insecure_bootstrap"),
            workload_socket: values.path("agent.workload_socket"),
            admin_socket: values.path("agent.admin_socket"),
            sync_interval: values.duration("agent.sync_interval").unwrap_or_default(),
            workload_key: values
                .keys("agent.workload_key_type")
                .first()
                .copied()
                .unwrap_or_default(),
            executable_limit: values.number("agent.executable_limit"),
            foreign_paths: values.flag("agent.foreign_paths"),
            connections_per_uid: count("agent.connections_per_uid"),
            streams_per_uid: count("agent.streams_per_uid"),
            join_token_path: values.path("agent.join_token.path"),
            x509pop,
        }
    }
}

/// A file of the configuration's, or named by it, read whole.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let fail = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| fail(e.to_string()))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(fail(format!("longer than {limit} bytes")));
    }
    Ok(bytes)
}
