//! A server's life: built whole, then run; what it opened is closed in order.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use attesta_authority::{Keys, Ring, SealedKeys, SignError, draw, lifecycle::refresh_hint};
use attesta_model::{Denial, KeyKind, Snapshot, Touched};
use attesta_runtime::{
    CancellationToken, Clock, Live, Outcome, ReadyGuards, Task, TaskError, Tasks, Writer, live,
    socket,
};
use attesta_spiffe::bundle::{Bundle, BundleError};
use attesta_store::{Backend, Failpoints, Ledger, LedgerOptions, OpenError, OpenRecords, Opened};
use attesta_tls::{ClientAuth, Identity, TlsError, server_config};
use attesta_wire::proto::{
    attesta::{
        admin::v1::admin_server::AdminServer, agent::v1::agent_link_server::AgentLinkServer,
    },
    spire::api::server::{
        agent::v1::agent_server::AgentServer, bundle::v1::bundle_server::BundleServer,
        entry::v1::entry_server::EntryServer, svid::v1::svid_server::SvidServer,
    },
};
use jiff::Timestamp;
use tokio::{io::DuplexStream, net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Router;

use crate::{
    core::Core,
    door,
    flow::{authorities, forget, server_svid},
    guard::Guard,
    listen::{self, Connection},
    refusals::Refusals,
    seen::NodesSeen,
    settings::ServerSettings,
    timeguard::TimeGuard,
    wakes::Wakes,
};

/// Largest message an agent or administrator may send; SPIRE's bound.
const MESSAGE: usize = 4 * 1024 * 1024;
/// Streams of one connection.
const STREAMS: u32 = 256;
/// Connections from the agent in this process that wait.
const INSIDE: usize = 16;

/// Why a server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The ledger does not open.
    #[error(transparent)]
    Ledger(#[from] OpenError),
    /// The authorities do not open.
    #[error("{0}")]
    Keys(#[from] SignError),
    /// The first authorities or the server's own SVID could not be issued.
    #[error("{0}")]
    Issue(#[from] Denial),
    /// An authority in the ledger is malformed.
    #[error("the ledger's bundle: {0}")]
    Bundle(#[from] BundleError),
    /// TLS refused our own certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The TCP listener.
    #[error("listening on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] socket::SocketError),
    /// Randomness failed.
    #[error(transparent)]
    Random(#[from] draw::NoRandomness),
}

/// A server, built: everything is open and nothing is answered yet.
pub struct Server {
    core: Arc<Core>,
    identity: Writer<Identity>,
    due: Timestamp,
    tcp: Option<TcpListener>,
    admin: Option<socket::Listening>,
    inside: Option<mpsc::Receiver<DuplexStream>>,
    connections: usize,
}

/// What a running server is known by.
#[derive(Clone)]
pub struct Started {
    /// Where agents call.
    pub address: Option<SocketAddr>,
    /// How an agent in this process calls.
    pub inside: mpsc::Sender<DuplexStream>,
    /// The bundle, kept current.
    pub bundle: Live<Bundle>,
    /// The state, kept current.
    pub snapshot: Live<Snapshot>,
    /// The ledger, to close last.
    pub ledger: Ledger,
}

impl Server {
    /// Opens the ledger and the keys, makes the first authorities where there are none, issues the server's SVID, and
    /// binds the sockets.
    ///
    /// # Errors
    /// [`ServerError`], with the way out; nothing is left half made.
    pub async fn build(
        settings: ServerSettings,
        backend: Box<dyn Backend>,
        records: OpenRecords,
        failpoints: Failpoints,
        clock: Clock,
    ) -> Result<(Self, Started), ServerError> {
        let wakes = Arc::new(Wakes::default());
        // Filled once the core exists; commits before that are the start's own.
        let bundles: Arc<OnceLock<Arc<Publish>>> = Arc::default();
        let on_commit = {
            let (wakes, bundles) = (Arc::clone(&wakes), Arc::clone(&bundles));
            Box::new(move |snapshot: &Arc<Snapshot>, touched: &Touched| {
                if touched.bundle
                    && let Some(publish) = bundles.get()
                {
                    publish.bundle(snapshot);
                }
                wakes.commit(snapshot, touched);
            })
        };
        let options = LedgerOptions {
            queue: 8192,
            deadline: Duration::from_secs(10),
            on_commit,
            failpoints: failpoints.clone(),
            new_id: draw::bytes()?,
        };
        let Opened {
            ledger,
            newest_record,
            ..
        } = Ledger::open(
            backend,
            records,
            &settings.trust_domain,
            clock.clone(),
            options,
        )?;
        let built = Self::over(
            ledger.clone(),
            newest_record,
            settings,
            wakes,
            &bundles,
            failpoints,
            clock,
        )
        .await;
        if built.is_err() {
            // What was opened is closed: the next start finds no lock held.
            ledger.close().await;
        }
        built
    }

    /// Everything above an open ledger.
    async fn over(
        ledger: Ledger,
        newest_record: Option<Timestamp>,
        settings: ServerSettings,
        wakes: Arc<Wakes>,
        bundles: &OnceLock<Arc<Publish>>,
        failpoints: Failpoints,
        clock: Clock,
    ) -> Result<(Self, Started), ServerError> {
        let keys: Arc<dyn Keys> = Arc::new(SealedKeys::new(settings.kek));
        let snapshot = ledger.snapshot();
        let hint = refresh_hint(&settings.lifetimes);
        let (ring, ring_live) = live(Ring::open(
            &snapshot,
            keys.as_ref(),
            ledger.id(),
            settings.limits,
            None,
        )?);
        let (bundle, bundle_live) = live(bundle_of(&snapshot, hint)?);
        let (_policies, policies) = live(settings.policies);
        drop(ring_live);
        let tcp = match settings.listen {
            None => None,
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .map_err(|source| ServerError::Listen { address, source })?,
            ),
        };
        let address = tcp.as_ref().and_then(|l| l.local_addr().ok());
        let admin = match &settings.admin_socket {
            None => None,
            Some(s) => Some(socket::listen(&s.path, 0o660, &clock).await?),
        };
        let (_listening, listening) = live(address.map(|a| a.to_string()).unwrap_or_default());
        let mut wanted_keys = vec![(KeyKind::X509, settings.ca_key)];
        wanted_keys.extend(settings.jwt_keys.iter().map(|a| (KeyKind::Jwt, *a)));
        let core = Arc::new(Core {
            trust_domain: settings.trust_domain,
            time: TimeGuard::new(&clock, newest_record),
            clock,
            ledger: ledger.clone(),
            policies,
            keys: Arc::clone(&keys),
            ring,
            bundle,
            lifetimes: settings.lifetimes,
            retention: settings.retention,
            failpoints,
            wanted_keys,
            agent_ttl: settings.agent_ttl,
            attestors: settings.attestors,
            admin_ids: settings.admin_ids,
            wakes,
            seen: NodesSeen::default(),
            refusals: Refusals::default(),
            listening,
            stop: CancellationToken::new(),
        });
        let publish = Arc::new(Publish {
            core: Arc::downgrade(&core),
            hint,
        });
        if bundles.set(publish).is_err() {
            tracing::debug!("the bundle's publisher was set before");
        }
        forget::recall(&core).await?;
        authorities::turn(&core).await?;
        let svid = server_svid::issue(&core).await?;
        let (identity, _) = live(svid.identity);
        let (inside, incoming) = mpsc::channel(INSIDE);
        let started = Started {
            address,
            inside,
            bundle: bundle_live,
            snapshot: ledger.live(),
            ledger,
        };
        Ok((
            Self {
                core,
                identity,
                due: svid.due_at,
                tcp,
                admin,
                inside: Some(incoming),
                connections: settings.connections,
            },
            started,
        ))
    }

    /// Answers, until the tasks are stopped.
    ///
    /// # Errors
    /// TLS refused our own certificate.
    pub fn run(mut self, tasks: &Tasks, ready: &ReadyGuards) -> Result<(), ServerError> {
        let guard = ready.guard("server");
        let (stop, streams) = (tasks.stopping(), self.core.stop.clone());
        tasks.spawn("end-streams", async move {
            stop.cancelled().await;
            streams.cancel();
        });
        let tls = server_config(
            self.identity.reader(),
            self.core.bundle.reader(),
            self.core.clock.clone(),
            ClientAuth::Optional,
        )?;
        let (reporter, health) = tonic_health::server::health_reporter();
        let agents = || Doors::new(&self.core).agents();
        if let Some(listener) = self.tcp.take() {
            let incoming = listen::tcp(tasks, listener, Arc::clone(&tls), self.connections);
            serve(tasks, "serve-tcp", agents(), incoming);
        }
        if let Some(incoming) = self.inside.take() {
            let incoming = listen::inside(tasks, incoming, Arc::clone(&tls));
            serve(tasks, "serve-inside", agents(), incoming);
        }
        if let Some(listener) = self.admin.take() {
            let router = Doors::new(&self.core).admins().add_service(health);
            serve(tasks, "serve-admin", router, listen::unix(tasks, listener));
        }
        tasks.every(
            door::health::Health {
                core: Arc::clone(&self.core),
                reporter,
            },
            None,
        );
        tasks.every(
            Forget {
                core: Arc::clone(&self.core),
            },
            None,
        );
        tasks.every(
            Authorities {
                core: Arc::clone(&self.core),
            },
            None,
        );
        tasks.every(
            ServerSvid {
                core: self.core,
                identity: self.identity,
                due: self.due,
            },
            None,
        );
        drop(guard);
        Ok(())
    }
}

/// The doors of one listener, behind the guard.
struct Doors {
    core: Arc<Core>,
}

type Served = Router<tower::layer::util::Stack<Guard, tower::layer::util::Identity>>;

impl Doors {
    fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
        }
    }

    /// What agents and administrators over mTLS reach; the guard's table says who may call what.
    fn agents(&self) -> Served {
        let core = || Arc::clone(&self.core);
        tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS)
            .http2_keepalive_interval(Some(Duration::from_secs(60)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .layer(Guard(core()))
            .add_service(
                AgentServer::new(door::agent::Door(core())).max_decoding_message_size(MESSAGE),
            )
            .add_service(
                BundleServer::new(door::bundle::Door(core())).max_decoding_message_size(MESSAGE),
            )
            .add_service(
                EntryServer::new(door::entry::Door(core())).max_decoding_message_size(MESSAGE),
            )
            .add_service(
                SvidServer::new(door::svid::Door(core())).max_decoding_message_size(MESSAGE),
            )
            .add_service(
                AgentLinkServer::new(door::link::Door(core())).max_decoding_message_size(MESSAGE),
            )
            .add_service(
                AdminServer::new(door::admin::Door(core())).max_decoding_message_size(MESSAGE),
            )
    }

    /// What the admin socket serves beside: the same doors, and health.
    fn admins(&self) -> Served {
        self.agents()
    }
}

fn serve(
    tasks: &Tasks,
    name: &'static str,
    router: Served,
    incoming: mpsc::Receiver<io::Result<Connection>>,
) {
    let stop = tasks.stopping();
    tasks.spawn(name, async move {
        router
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
            .await
    });
}

/// Publishes ring and bundle when a commit touched the authorities; on the writer's thread, so that nobody is answered
/// before the ring knows.
struct Publish {
    core: std::sync::Weak<Core>,
    hint: Duration,
}

impl Publish {
    fn bundle(&self, snapshot: &Snapshot) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let previous = core.ring.load();
        match Ring::open(
            snapshot,
            core.keys.as_ref(),
            core.ledger.id(),
            *previous.limits(),
            Some(&previous),
        ) {
            Ok(ring) => core.ring.publish(ring),
            Err(e) => {
                tracing::error!(error = %e, "the authorities could not be opened; the old ones go on signing until they end")
            }
        }
        match bundle_of(snapshot, self.hint) {
            Ok(bundle) => core.bundle.publish(bundle),
            Err(e) => tracing::error!(error = %e, "the bundle could not be published"),
        }
    }
}

/// The bundle a snapshot publishes.
fn bundle_of(snapshot: &Snapshot, hint: Duration) -> Result<Bundle, BundleError> {
    let wire = attesta_wire::bundle::to_wire(snapshot, hint, None);
    attesta_wire::bundle::parse(&wire)
}

struct Authorities {
    core: Arc<Core>,
}

impl Task for Authorities {
    const NAME: &'static str = "authorities";
    const EVERY: Duration = Duration::from_secs(10);

    async fn tick(&mut self, _: Timestamp) -> Result<Outcome, TaskError> {
        let did = authorities::turn(&self.core).await?;
        if did.is_empty() {
            return Ok(Outcome::Idle);
        }
        tracing::info!(did = did.join("; "), "authorities turned over");
        Ok(Outcome::Did(did.join("; ")))
    }
}

struct Forget {
    core: Arc<Core>,
}

impl Task for Forget {
    const NAME: &'static str = "forget";
    const EVERY: Duration = Duration::from_secs(600);

    async fn tick(&mut self, _: Timestamp) -> Result<Outcome, TaskError> {
        match forget::tick(&self.core).await? {
            None => Ok(Outcome::Idle),
            Some(what) => {
                tracing::info!(what, "forgotten");
                Ok(Outcome::Did(what))
            }
        }
    }
}

struct ServerSvid {
    core: Arc<Core>,
    identity: Writer<Identity>,
    due: Timestamp,
}

impl Task for ServerSvid {
    const NAME: &'static str = "server-svid";
    const EVERY: Duration = Duration::from_secs(5);

    async fn tick(&mut self, now: Timestamp) -> Result<Outcome, TaskError> {
        if now < self.due {
            return Ok(Outcome::Idle);
        }
        let svid = server_svid::issue(&self.core).await?;
        self.identity.publish(svid.identity);
        self.due = svid.due_at;
        Ok(Outcome::Did("replaced the server's SVID".to_owned()))
    }
}
