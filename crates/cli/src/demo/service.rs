//! What the demo's processes do: payments calls orders, orders answers payments alone, the impostor tries both doors.

use std::{io::Read, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use attesta_agent::DECISION_METADATA;
use attesta_runtime::{Clock, Live, Tasks, live};
use attesta_spiffe::{Bundle, SpiffeId, TrustDomain};
use attesta_tls::{
    ClientAuth, Identity, accept, client_config, connect as secure, peer_of, server_config,
};
use attesta_wire::proto::workload::{
    X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use clap::{Args, ValueEnum};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::{
    event::{What, tell},
    holder::{connect, hold, request},
};
use crate::{args::Global, output::Failure, serve::bundle_file};

/// How often payments calls.
const CALL: Duration = Duration::from_secs(1);
/// How often the impostor tries.
const TRY: Duration = Duration::from_secs(3);
/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest line that is read, in bytes.
const LINE: u64 = 4096;

/// One process of the demo.
#[derive(Args)]
pub(crate) struct DemoService {
    /// Who it plays
    #[arg(value_enum)]
    part: Part,
    #[arg(long)]
    trust_domain: String,
    /// Where orders listens
    #[arg(long)]
    orders: Option<SocketAddr>,
    /// The bundle, which is public, for the one that has no identity to get it with
    #[arg(long)]
    bundle: Option<PathBuf>,
}

/// The parts.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    Orders,
    Payments,
    Impostor,
}

/// Plays a part until stdin is closed.
pub(crate) async fn service(service: DemoService, global: &Global) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let tasks = Tasks::new(clock.clone());
    let trust_domain = TrustDomain::parse(&service.trust_domain)?;
    let orders = || {
        service
            .orders
            .ok_or_else(|| Failure::usage("--orders is missing"))
    };
    let played = async {
        match service.part {
            Part::Orders => {
                play_orders(&trust_domain, global.workload_socket(), &clock, &tasks).await
            }
            Part::Payments => {
                play_payments(
                    &trust_domain,
                    global.workload_socket(),
                    orders()?,
                    &clock,
                    &tasks,
                )
                .await
            }
            Part::Impostor => {
                let bundle = service
                    .bundle
                    .as_ref()
                    .ok_or_else(|| Failure::usage("--bundle is missing"))?;
                let bundle = bundle_file::read(bundle, &trust_domain)?;
                play_impostor(
                    &trust_domain,
                    global.workload_socket(),
                    orders()?,
                    bundle,
                    &clock,
                )
                .await
            }
        }
    };
    let (gone, stage_gone) = oneshot::channel();
    // A thread of its own, which ends with the process: a read of stdin cannot be called off.
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let read = std::io::stdin().read(&mut [0; 1]);
            tracing::debug!(?read, "stdin ended");
            gone.send(())
        })?;
    tokio::select! {
        played = played => played.map(|()| ExitCode::SUCCESS),
        // The stage has gone, however it ended.
        _ = stage_gone => Ok(ExitCode::SUCCESS),
    }
}

fn id_of(trust_domain: &TrustDomain, name: &str) -> anyhow::Result<SpiffeId> {
    Ok(trust_domain.with_path(&format!("/demo/{name}"))?)
}

async fn play_orders(
    trust_domain: &TrustDomain,
    socket: PathBuf,
    clock: &Clock,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let allowed = id_of(trust_domain, "payments")?;
    let holder = hold(socket, clock, tasks).await?;
    let tls = server_config(
        holder.identity,
        holder.bundle,
        clock.clone(),
        ClientAuth::Optional,
    )?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    tell(What::Listening, listener.local_addr()?.to_string());
    loop {
        let (stream, _) = listener.accept().await?;
        let (tls, allowed) = (tls.clone(), allowed.clone());
        tasks.spawn("caller", async move {
            let answered = async {
                let mut stream = accept(tls, stream, DEADLINE).await?;
                let caller = peer_of(stream.get_ref().1).map(|peer| peer.id.clone());
                let mut asked = String::new();
                BufReader::new((&mut stream).take(LINE))
                    .read_line(&mut asked)
                    .await?;
                // The only rule orders has.
                let answer = if caller.as_ref() == Some(&allowed) {
                    format!("accepted {}", asked.trim())
                } else {
                    "refused: only payments may call orders".to_owned()
                };
                stream.write_all(format!("{answer}\n").as_bytes()).await?;
                stream.shutdown().await?;
                let caller = caller.map_or_else(
                    || "a caller without an identity".to_owned(),
                    |id| id.to_string(),
                );
                if answer.starts_with("accepted") {
                    tell(What::Served, format!("answered {caller}: {answer}"));
                } else {
                    tell(What::TurnedAway, format!("turned away {caller}"));
                }
                anyhow::Ok(())
            };
            if let Err(e) = answered.await {
                tell(What::Trouble, format!("a caller: {e:#}"));
            }
        });
    }
}

async fn play_payments(
    trust_domain: &TrustDomain,
    socket: PathBuf,
    orders: SocketAddr,
    clock: &Clock,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let server = id_of(trust_domain, "orders")?;
    let holder = hold(socket, clock, tasks).await?;
    let mut number = 0_u64;
    loop {
        number += 1;
        match call(
            orders,
            &server,
            holder.maybe.clone(),
            holder.bundle.clone(),
            clock,
            &format!("order {number}"),
        )
        .await
        {
            Ok(answer) if answer.starts_with("accepted") => {
                tell(What::Called, format!("called {server} over mTLS: {answer}"))
            }
            Ok(answer) => tell(What::Rejected, answer),
            Err(e) => tell(What::Trouble, format!("calling {server}: {e:#}")),
        }
        clock.sleep(CALL).await;
    }
}

async fn play_impostor(
    trust_domain: &TrustDomain,
    socket: PathBuf,
    orders: SocketAddr,
    bundle: Bundle,
    clock: &Clock,
) -> anyhow::Result<()> {
    let server = id_of(trust_domain, "orders")?;
    let (_bundle, bundle) = live(bundle);
    let (_nobody, nobody) = live(None);
    let mut client = SpiffeWorkloadApiClient::new(connect(socket).await?);
    loop {
        let asked = match client.fetch_x509svid(request(X509svidRequest {})).await {
            Ok(stream) => stream.into_inner().message().await,
            Err(status) => Err(status),
        };
        match asked {
            Ok(_) => anyhow::bail!("the impostor was given an identity"),
            Err(status) if status.code() == tonic::Code::PermissionDenied => {
                let decision = status
                    .metadata()
                    .get(DECISION_METADATA)
                    .and_then(|d| d.to_str().ok());
                let decision = decision
                    .map(|d| format!(" (decision {d})"))
                    .unwrap_or_default();
                tell(
                    What::Refused,
                    format!(
                        "asked for an identity and was refused: {}{decision}",
                        status.message()
                    ),
                );
            }
            Err(status) => tell(What::Trouble, status.message()),
        }
        match call(
            orders,
            &server,
            nobody.clone(),
            bundle.clone(),
            clock,
            "order 666",
        )
        .await
        {
            Ok(answer) if answer.starts_with("accepted") => {
                anyhow::bail!("orders served the impostor")
            }
            Ok(answer) => tell(
                What::Rejected,
                format!("called orders without one: {answer}"),
            ),
            Err(e) => tell(What::Rejected, format!("called orders without one: {e:#}")),
        }
        clock.sleep(TRY).await;
    }
}

/// One call: a line there, a line back.
async fn call(
    to: SocketAddr,
    server: &SpiffeId,
    identity: Live<Option<Identity>>,
    bundle: Live<Bundle>,
    clock: &Clock,
    line: &str,
) -> anyhow::Result<String> {
    let tls = client_config(identity, bundle, server.clone(), clock.clone())?;
    let called = async {
        let stream = TcpStream::connect(to).await?;
        let mut stream = secure(tls, "orders", stream, DEADLINE).await?;
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(LINE))
            .read_line(&mut answer)
            .await?;
        anyhow::Ok(answer.trim().to_owned())
    };
    clock.timeout(DEADLINE, called).await.context("no answer")?
}
