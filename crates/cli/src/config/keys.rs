//! Every key of the configuration: the one table that files are checked by and that the reference is made of.

use std::time::Duration;

use attesta_model::KeyAlgorithm;

use super::value::Kind;

/// What a process does, and so which keys mean something to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `attesta run`.
    Run,
    /// `attesta server run`.
    Server,
    /// `attesta agent run`.
    Agent,
}

impl Role {
    /// The command.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Run => "attesta run",
            Self::Server => "attesta server run",
            Self::Agent => "attesta agent run",
        }
    }

    /// The sections it reads.
    pub(crate) fn sections(self) -> &'static [&'static str] {
        match self {
            Self::Run => &["server", "agent"],
            Self::Server => &["server"],
            Self::Agent => &["agent"],
        }
    }
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its full name: `section.key`, or `section.plugin.key`.
    pub(crate) path: &'static str,
    /// What it may hold.
    pub(crate) kind: Kind,
    /// What holds where it is left out, as TOML; empty where nothing does, and `doc` says what happens then.
    pub(crate) default: &'static str,
    /// Who reads it.
    pub(crate) roles: &'static [Role],
    /// Whether it, or its flag, must be there for its roles but `run`.
    pub(crate) required: bool,
    /// What it is for.
    pub(crate) doc: &'static str,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const ANY: &[KeyAlgorithm] = &[
    KeyAlgorithm::EcP256,
    KeyAlgorithm::EcP384,
    KeyAlgorithm::Rsa2048,
];
const WORKLOAD: &[KeyAlgorithm] = &[KeyAlgorithm::EcP256, KeyAlgorithm::Rsa2048];
const SERVERS: &[Role] = &[Role::Run, Role::Server];
const AGENTS: &[Role] = &[Role::Run, Role::Agent];
const LONE_AGENT: &[Role] = &[Role::Agent];

const fn server(path: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key {
        path,
        kind,
        default,
        roles: SERVERS,
        required: false,
        doc,
    }
}

const fn agent(path: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key {
        path,
        kind,
        default,
        roles: AGENTS,
        required: false,
        doc,
    }
}

const fn lone_agent(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default,
        roles: LONE_AGENT,
        required: false,
        doc,
    }
}

const fn required(key: Key) -> Key {
    Key {
        required: true,
        ..key
    }
}

/// The table. The order is the reference's.
pub(crate) const KEYS: &[Key] = &[
    required(server(
        "server.trust_domain",
        Kind::TrustDomain,
        "",
        "The trust domain, for ever: a ledger belongs to one. `attesta run` takes `example.org` where nobody says. Flag: `--trust-domain`.",
    )),
    server(
        "server.data_dir",
        Kind::Path,
        "",
        "Where the ledger, its key and the sockets are. Left out: `/var/lib/attesta` for root, else `attesta` under `$XDG_STATE_HOME` or `~/.local/state`. Flag: `--data-dir`.",
    ),
    server(
        "server.listen",
        Kind::Address,
        "",
        "Where agents connect to; port 0 chooses one, which is kept over restarts where it is still free. Left out: `127.0.0.1:0` for `attesta run`, `0.0.0.0:8081` for `attesta server run`. Flag: `--listen`.",
    ),
    Key {
        roles: &[Role::Server],
        ..server(
            "server.admin_socket",
            Kind::Path,
            "",
            "The admin socket (mode 0660). Left out: `admin.sock` in the data directory.",
        )
    },
    server(
        "server.connections",
        Kind::Count(1, 1_000_000),
        "20000",
        "Most connections of agents at once.",
    ),
    server(
        "server.ca_key_type",
        Kind::Key(ANY),
        "\"ec-p256\"",
        "The kind of key of the X.509 authority.",
    ),
    server(
        "server.jwt_key_types",
        Kind::Keys(ANY),
        "[\"ec-p256\"]",
        "The kinds of keys of JWT authorities, each of which signs; the first is the default. Some clouds take `rsa-2048` only.",
    ),
    server(
        "server.ca_ttl",
        Kind::Duration(MINUTE, Duration::from_secs(3650 * 24 * 3600)),
        "\"24h\"",
        "How long an authority lives. SVIDs live at most a sixth of it.",
    ),
    server(
        "server.propagation",
        Kind::Duration(SECOND, DAY),
        "\"10m\"",
        "What must pass between the publishing of a new authority and its first signature: the longest time after which a reader of the bundle looks again.",
    ),
    server(
        "server.default_x509_svid_ttl",
        Kind::Duration(SECOND, Duration::from_secs(365 * 24 * 3600)),
        "\"1h\"",
        "How long X.509-SVIDs live whose entry does not say.",
    ),
    server(
        "server.default_jwt_svid_ttl",
        Kind::Duration(SECOND, DAY),
        "\"5m\"",
        "How long JWT-SVIDs live whose entry does not say.",
    ),
    server(
        "server.longest_x509_svid_ttl",
        Kind::Duration(SECOND, Duration::from_secs(365 * 24 * 3600)),
        "",
        "The longest an entry may ask for. Left out: what `ca_ttl` allows.",
    ),
    server(
        "server.longest_jwt_svid_ttl",
        Kind::Duration(SECOND, DAY),
        "\"1h\"",
        "The longest a JWT-SVID may live.",
    ),
    server(
        "server.agent_ttl",
        Kind::Duration(SECOND, Duration::from_secs(365 * 24 * 3600)),
        "",
        "How long agents' certificates live. Left out: as long as X.509-SVIDs.",
    ),
    server(
        "server.admin_ids",
        Kind::SpiffeIds,
        "[]",
        "SPIFFE IDs that administer over mTLS, beside those of entries with `admin`.",
    ),
    server(
        "server.default_policies",
        Kind::Bool,
        "true",
        "Whether the built-in policies hold. Without them only `policy_files` permit anything.",
    ),
    server(
        "server.policy_files",
        Kind::Paths,
        "[]",
        "Files of Cedar policies that hold beside the built-in ones; a forbid beats every permit. See policy.md.",
    ),
    server(
        "server.records_age",
        Kind::Duration(HOUR, Duration::from_secs(36500 * 24 * 3600)),
        "",
        "How long records of the audit log are kept; what goes is itself a record. Left out: for ever.",
    ),
    server(
        "server.records_size",
        Kind::Size(1 << 50),
        "",
        "How many bytes of records are kept; the oldest go, and that is itself a record. Left out: without limit.",
    ),
    server(
        "server.join_token",
        Kind::Bool,
        "true",
        "Whether nodes may attest with join tokens (`attesta token generate`).",
    ),
    server(
        "server.x509pop.ca_bundle_paths",
        Kind::Paths,
        "",
        "PEM files of the CAs whose certificates nodes may attest with (x509pop). Left out: none may.",
    ),
    required(lone_agent(
        "agent.trust_domain",
        Kind::TrustDomain,
        "",
        "The trust domain of the server. Flag: `--trust-domain`.",
    )),
    required(lone_agent(
        "agent.server_address",
        Kind::HostPort,
        "",
        "Where the server is. Flag: `--server-address`.",
    )),
    lone_agent(
        "agent.data_dir",
        Kind::Path,
        "",
        "Where the agent's key, its SVID, the bundle and the sockets are. Left out: as for the server. Flag: `--data-dir`.",
    ),
    lone_agent(
        "agent.bootstrap_bundle",
        Kind::Path,
        "",
        "By what the server is believed the first time: a file with the trust domain's bundle, PEM certificates or a SPIFFE bundle document. Not needed once the agent has kept a bundle of its own. Flag: `--bootstrap-bundle`.",
    ),
    lone_agent(
        "agent.insecure_bootstrap",
        Kind::Bool,
        "false",
        "Believe whoever answers the first time. Whoever can answer in the server's place then owns this agent. Flag: `--insecure-bootstrap`.",
    ),
    lone_agent(
        "agent.workload_socket",
        Kind::Path,
        "",
        "The Workload API's socket (mode 0777). Left out: `workload.sock` in the data directory.",
    ),
    lone_agent(
        "agent.admin_socket",
        Kind::Path,
        "",
        "The agent's own admin socket (mode 0660). Left out: `agent-admin.sock` beside the Workload API's.",
    ),
    agent(
        "agent.sync_interval",
        Kind::Duration(SECOND, HOUR),
        "\"5s\"",
        "How often a server that cannot push is asked for entries.",
    ),
    agent(
        "agent.workload_key_type",
        Kind::Key(WORKLOAD),
        "\"ec-p256\"",
        "The kind of keys made for workloads.",
    ),
    agent(
        "agent.executable_limit",
        Kind::Size(1 << 40),
        "\"512MiB\"",
        "The largest executable that is hashed; a larger one has no `unix:sha256` selector.",
    ),
    agent(
        "agent.foreign_paths",
        Kind::Bool,
        "false",
        "Whether `unix:path` is also given where the agent cannot see that file itself (containers). Such a path is what the process's own mounts say, and it can make it up.",
    ),
    agent(
        "agent.connections_per_uid",
        Kind::Count(1, 100_000),
        "1024",
        "Most connections of one user at once.",
    ),
    agent(
        "agent.streams_per_uid",
        Kind::Count(1, 100_000),
        "1024",
        "Most open streams of one user at once.",
    ),
    lone_agent(
        "agent.join_token.path",
        Kind::Path,
        "",
        "A file that holds a join token, to attest with. `ATTESTA_JOIN_TOKEN` and `--join-token` give one as well; a flag is visible to every user of the machine.",
    ),
    lone_agent(
        "agent.x509pop.certificate_path",
        Kind::Path,
        "",
        "PEM file of the node's certificate, to attest with (x509pop); intermediates may follow it.",
    ),
    lone_agent(
        "agent.x509pop.private_key_path",
        Kind::Path,
        "",
        "PEM file of its key, mode 0600.",
    ),
    lone_agent(
        "agent.x509pop.intermediates_path",
        Kind::Path,
        "",
        "PEM file of further intermediates.",
    ),
];

/// The key of this name.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use toml::de::DeValue;

    use super::*;

    #[test]
    fn names_are_unique_and_defaults_are_what_is_allowed() {
        assert_eq!(
            KEYS.iter().map(|k| k.path).collect::<BTreeSet<_>>().len(),
            KEYS.len()
        );
        for key in KEYS {
            assert!(
                key.path.starts_with("server.") || key.path.starts_with("agent."),
                "{}",
                key.path
            );
            if !key.default.is_empty() {
                let value = DeValue::parse(key.default).unwrap();
                assert!(
                    key.kind.check(value.get_ref(), Path::new("/")).is_ok(),
                    "{}",
                    key.path
                );
            }
        }
    }
}
