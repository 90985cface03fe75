//! The commands that serve: `run`, `server run`, `agent run`. Built whole, then run; stopped, drained, closed in order.
//!
//! `place` is the data directory, `parts` turns configuration into settings, `life` is signals and the end, `greeting`
//! what is printed once ready, `bundle_file` the bundle on disk. Must not know how servers and agents work inside.

pub(crate) mod bundle_file;
mod greeting;
mod life;
mod parts;
mod place;

use std::{net::SocketAddr, path::PathBuf, pin::pin, process::ExitCode, sync::Arc};

use anyhow::Context;
use attesta_agent::{Agent, AgentSettings, Bootstrap, Dial};
use attesta_attest::node::{self, local};
use attesta_authority::draw;
use attesta_runtime::{CancellationToken, Live};
use attesta_server::{Server, Started};
use attesta_spiffe::TrustDomain;
use attesta_store::Failpoints;
use clap::Args;
use zeroize::Zeroizing;

use crate::{
    args::{self, Global},
    config::{
        AgentConfig, Role, ServerConfig, Values,
        value::{Value, host_port},
    },
    demo,
    output::Failure,
};
use greeting::Greeting;
use life::{End, Life};
use parts::ServerParts;
use place::Place;

/// `attesta run`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  attesta run
  attesta run --ephemeral --output json
  attesta run --data-dir /srv/attesta --trust-domain acme.com
  attesta run --demo --once

With --output json exactly one line is written to stdout once all is ready:
  {\"admin\":\"unix:...\",\"bundle\":\"...\",\"issuer\":null,\"node\":\"spiffe://...\",\"server\":\"host:port\",
   \"trust_domain\":\"...\",\"workload_api\":\"unix:...\"}
SIGTERM and SIGINT stop it.")]
pub(crate) struct RunArgs {
    /// Keep nothing: state in memory, sockets in a new directory that goes with the process
    #[arg(long)]
    ephemeral: bool,
    /// The trust domain, for ever [default: example.org]
    #[arg(long, value_name = "NAME", value_parser = trust_domain)]
    trust_domain: Option<TrustDomain>,
    /// Where agents connect to [default: 127.0.0.1 and a port that stays the same over restarts]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// What the flags do not say (see `attesta config reference`)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show two services, payments calling orders over mTLS, and an impostor that is refused; keeps nothing unless a
    /// directory is named
    #[arg(long)]
    demo: bool,
    /// End by itself once the demo has shown everything
    #[arg(long, requires = "demo")]
    once: bool,
}

/// `attesta server run`.
#[derive(Args)]
#[command(after_help = "Example:\n  attesta server run -c attesta.toml")]
pub(crate) struct ServerRun {
    /// The configuration (see `attesta config reference`)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The trust domain, for ever
    #[arg(long, value_name = "NAME", value_parser = trust_domain)]
    trust_domain: Option<TrustDomain>,
    /// Where agents connect to [default: 0.0.0.0:8081]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
}

/// `attesta agent run`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  attesta agent run -c attesta.toml
  ATTESTA_JOIN_TOKEN=... attesta agent run --trust-domain acme.com --server-address attesta.acme.com:8081 --bootstrap-bundle bundle.pem")]
pub(crate) struct AgentRun {
    /// The configuration (see `attesta config reference`)
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The trust domain of the server
    #[arg(long, value_name = "NAME", value_parser = trust_domain)]
    trust_domain: Option<TrustDomain>,
    /// Where the server is
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    server_address: Option<String>,
    /// The trust domain's bundle, by which the server is believed the first time
    #[arg(long, value_name = "FILE")]
    bootstrap_bundle: Option<PathBuf>,
    /// Believe whoever answers the first time
    #[arg(long)]
    insecure_bootstrap: bool,
    /// A join token. Every user of this machine can read it here while the process runs: ATTESTA_JOIN_TOKEN or
    /// `join_token.path` in the configuration keep it
    #[arg(long, env = "ATTESTA_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = secret)]
    join_token: Option<Secret>,
}

/// A secret of the command line: no `Debug` of it, and wiped. (What the kernel keeps of it is not ours to wipe.)
#[derive(Clone)]
struct Secret(Arc<Zeroizing<String>>);

fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret(Arc::new(Zeroizing::new(text.to_owned()))))
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::from_name_or_id(text).map_err(|e| e.to_string())
}

fn address(text: &str) -> Result<String, String> {
    host_port(text).ok_or_else(|| "it must be HOST:PORT, an IPv6 host in brackets".to_owned())
}

/// The agent of this process.
struct Local {
    agent: Agent,
    server: Server,
}

/// Server and agent in one process.
pub(crate) async fn run(args: RunArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let values = Values::load(args.config.as_deref(), Role::Run, Default::default())?;
    let (config, agent) = (ServerConfig::new(&values), AgentConfig::new(&values));
    let trust_domain = match args.trust_domain.or(config.trust_domain.clone()) {
        Some(name) => name,
        None => TrustDomain::parse("example.org").context("the default trust domain")?,
    };
    let named = global.data_dir.clone().or(config.data_dir.clone());
    let from_environment = global.data_dir.is_some()
        && std::env::var_os("ATTESTA_DATA_DIR").map(PathBuf::from) == global.data_dir;
    if args.ephemeral && global.data_dir.is_some() && !from_environment {
        return Err(Failure::usage(
            "--ephemeral keeps nothing, and --data-dir names where to keep it",
        )
        .with_hint("leave one out")
        .into());
    }
    let place = if args.ephemeral || (args.demo && (named.is_none() || from_environment)) {
        Place::ephemeral()?
    } else {
        Place::open(&named.unwrap_or_else(args::default_dir))?
    };
    let mut life = Life::begin()?;
    let listen = place.listen(args.listen.or(config.listen));
    let Building { local, started, .. } = life
        .unless_stopped(build_local(
            &config,
            &agent,
            &trust_domain,
            listen,
            &place,
            &life,
        ))
        .await??;
    place.remember(started.address);
    let bundle = place.path("bundle.pem");
    bundle_file::keep(&life.tasks, &bundle, started.bundle.clone())?;
    local.server.run(&life.tasks, &life.guards)?;
    let status = local.agent.status();
    local.agent.run(&life.tasks);
    let ended = life.ready(Some(&status)).await;
    let result = match ended {
        Some(end) => Err(end),
        None => {
            let greeting = Greeting {
                trust_domain: &trust_domain,
                node: status.load().id.clone(),
                workload_api: Some(place.path(args::WORKLOAD_SOCKET)),
                admin: Some(place.path(args::ADMIN_SOCKET)),
                server: started.address,
                bundle: Some(bundle),
                dir: place.dir(),
                is_default: place.dir() == args::default_dir(),
            };
            greeting.print(global.output, Role::Run);
            let stage = demo::Stage {
                dir: place.path("demo"),
                trust_domain: &trust_domain,
                node: greeting.node.clone(),
                workload_socket: place.path(args::WORKLOAD_SOCKET),
                admin_socket: place.path(args::ADMIN_SOCKET),
                agent_admin_socket: place.path(args::AGENT_ADMIN_SOCKET),
                bundle: place.path("bundle.pem"),
                output: global.output,
                once: args.once,
            };
            if args.demo {
                play(&stage, &mut life).await
            } else {
                Err(life.end().await)
            }
        }
    };
    close(life, started, &[place.path(args::ADMIN_SOCKET)]).await;
    drop(place);
    match result {
        Ok(shown) => shown.map(|()| ExitCode::SUCCESS),
        Err(end) => end.code(),
    }
}

/// Plays the demo until it has ended by itself, or something else ends.
async fn play(stage: &demo::Stage<'_>, life: &mut Life) -> Result<anyhow::Result<()>, End> {
    let stop = CancellationToken::new();
    let tasks = life.tasks.clone();
    let mut playing = pin!(demo::play(stage, &tasks, stop.clone()));
    let end = tokio::select! {
        end = life.end() => end,
        shown = &mut playing => return Ok(shown),
    };
    stop.cancel();
    if let Err(e) = playing.await {
        tracing::warn!(error = format!("{e:#}"), "the demo did not end cleanly");
    }
    Err(end)
}

struct Building {
    local: Local,
    started: Started,
}

async fn build_local(
    config: &ServerConfig,
    agent: &AgentConfig,
    trust_domain: &TrustDomain,
    listen: SocketAddr,
    place: &Place,
    life: &Life,
) -> anyhow::Result<Building> {
    let (verify, collect) = local::pair(draw::bytes()?);
    let parts = ServerParts {
        config,
        trust_domain,
        listen: Some(listen),
        admin_socket: place.path(args::ADMIN_SOCKET),
        local: Some(verify),
    };
    let (server, started) = build_server(parts, place, life).await?;
    let mut halves = node::AgentSettings::none();
    halves.local = Some(collect);
    let settings = AgentSettings {
        trust_domain: trust_domain.clone(),
        server: Dial::Local(started.inside.clone()),
        bootstrap: Bootstrap::Bundle(started.bundle.load().as_ref().clone()),
        data_dir: None,
        workload_socket: place.path(args::WORKLOAD_SOCKET),
        admin_socket: Some(place.path(args::AGENT_ADMIN_SOCKET)),
        collect: Arc::from(node::collector(halves)?),
        workloads: parts::workloads(agent),
        sync_interval: agent.sync_interval,
        workload_key: agent.workload_key,
        limits: parts::agent_limits(agent),
    };
    let agent = Agent::build(settings, life.clock.clone(), &life.tasks, &life.guards).await?;
    Ok(Building {
        local: Local { agent, server },
        started,
    })
}

async fn build_server(
    parts: ServerParts<'_>,
    place: &Place,
    life: &Life,
) -> anyhow::Result<(Server, Started)> {
    let (kek, backend, records) = place.state()?;
    let settings = parts.settings(kek)?;
    Server::build(
        settings,
        backend,
        records,
        Failpoints::none(),
        life.clock.clone(),
    )
    .await
    .map_err(parts::refused)
}

/// A server on its own.
pub(crate) async fn server_run(args: ServerRun, global: &Global) -> anyhow::Result<ExitCode> {
    let given = args
        .trust_domain
        .map(|name| ("server.trust_domain", Value::TrustDomain(name)))
        .into_iter()
        .collect();
    let values = Values::load(args.config.as_deref(), Role::Server, given)?;
    let config = ServerConfig::new(&values);
    let Some(trust_domain) = config.trust_domain.clone() else {
        return Err(Failure::usage("there is no trust domain").into());
    };
    let place = Place::open(
        &global
            .data_dir
            .clone()
            .or(config.data_dir.clone())
            .unwrap_or_else(args::default_dir),
    )?;
    let mut life = Life::begin()?;
    let listen = args
        .listen
        .or(config.listen)
        .unwrap_or(SocketAddr::from(([0, 0, 0, 0], 8081)));
    let listen = place.listen(Some(listen));
    let admin_socket = config
        .admin_socket
        .clone()
        .unwrap_or_else(|| place.path(args::ADMIN_SOCKET));
    let parts = ServerParts {
        config: &config,
        trust_domain: &trust_domain,
        listen: Some(listen),
        admin_socket: admin_socket.clone(),
        local: None,
    };
    let (server, started) = life
        .unless_stopped(build_server(parts, &place, &life))
        .await??;
    place.remember(started.address);
    let bundle = place.path("bundle.pem");
    bundle_file::keep(&life.tasks, &bundle, started.bundle.clone())?;
    server.run(&life.tasks, &life.guards)?;
    let end = match life.ready(None).await {
        Some(end) => end,
        None => {
            let greeting = Greeting {
                trust_domain: &trust_domain,
                node: None,
                workload_api: None,
                admin: Some(admin_socket.clone()),
                server: started.address,
                bundle: Some(bundle),
                dir: place.dir(),
                is_default: place.dir() == args::default_dir(),
            };
            greeting.print(global.output, Role::Server);
            life.end().await
        }
    };
    close(life, started, &[admin_socket]).await;
    end.code()
}

/// An agent on its own.
pub(crate) async fn agent_run(args: AgentRun, global: &Global) -> anyhow::Result<ExitCode> {
    let mut given = crate::config::Given::new();
    given.extend(
        args.trust_domain
            .map(|name| ("agent.trust_domain", Value::TrustDomain(name))),
    );
    given.extend(
        args.server_address
            .map(|address| ("agent.server_address", Value::Text(address))),
    );
    given.extend(
        args.bootstrap_bundle
            .map(|path| ("agent.bootstrap_bundle", Value::Path(path))),
    );
    given.extend(
        args.insecure_bootstrap
            .then_some(("agent.insecure_bootstrap", Value::Bool(true))),
    );
    let values = Values::load(args.config.as_deref(), Role::Agent, given)?;
    let config = AgentConfig::new(&values);
    let (Some(trust_domain), Some(server)) =
        (config.trust_domain.clone(), config.server_address.clone())
    else {
        return Err(Failure::usage("there is no trust domain, or no server").into());
    };
    let place = Place::open(
        &global
            .data_dir
            .clone()
            .or(config.data_dir.clone())
            .unwrap_or_else(args::default_dir),
    )?;
    let workload_socket = config
        .workload_socket
        .clone()
        .unwrap_or_else(|| place.path(args::WORKLOAD_SOCKET));
    let admin_socket = config
        .admin_socket
        .clone()
        .unwrap_or_else(|| workload_socket.with_file_name(args::AGENT_ADMIN_SOCKET));
    let kept = parts::Kept::look(&place.path("agent"));
    let settings = AgentSettings {
        bootstrap: parts::bootstrap(&config, &trust_domain, &kept)?,
        collect: parts::collect(&config, args.join_token.map(|token| token.0), &kept)?,
        trust_domain: trust_domain.clone(),
        server: Dial::Tcp(server),
        data_dir: Some(place.path("agent")),
        workload_socket: workload_socket.clone(),
        admin_socket: Some(admin_socket.clone()),
        workloads: parts::workloads(&config),
        sync_interval: config.sync_interval,
        workload_key: config.workload_key,
        limits: parts::agent_limits(&config),
    };
    let mut life = Life::begin()?;
    let agent = life
        .unless_stopped(Agent::build(
            settings,
            life.clock.clone(),
            &life.tasks,
            &life.guards,
        ))
        .await??;
    let status: Live<_> = agent.status();
    agent.run(&life.tasks);
    let end = match life.ready(Some(&status)).await {
        Some(end) => end,
        None => {
            let greeting = Greeting {
                trust_domain: &trust_domain,
                node: status.load().id.clone(),
                workload_api: Some(workload_socket),
                admin: Some(admin_socket),
                server: None,
                bundle: None,
                dir: place.dir(),
                is_default: place.dir() == args::default_dir(),
            };
            greeting.print(global.output, Role::Agent);
            life.end().await
        }
    };
    life.drain().await;
    end.code()
}

/// Stops answering, then closes the ledger; what is left is removed.
async fn close(mut life: Life, started: Started, sockets: &[PathBuf]) {
    life.drain().await;
    life.close(started.ledger).await;
    for socket in sockets {
        // A stale socket is harmless; the next start replaces it.
        drop(std::fs::remove_file(socket));
    }
}
