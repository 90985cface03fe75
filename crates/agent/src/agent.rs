//! The agent put together: built first (sockets bound, what was kept loaded; no network), then run.
//!
//! Must not know the process it runs in. Everything it does is a named task.

use std::sync::Arc;

use attesta_attest::{AttestError, Peer, PeerError};
use attesta_runtime::{
    Clock, Live, ReadyGuards, Tasks, Wake,
    socket::{Listening, SocketError, listen},
};
use attesta_tls::IdentityError;
use attesta_wire::{
    WORKLOAD_DESCRIPTOR_SET,
    proto::{
        attesta::agent::v1::agent_admin_server::AgentAdminServer,
        workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
};
use tonic::{
    Status,
    service::interceptor::InterceptedService,
    transport::{Server, server::Router},
};

use crate::{
    door::{
        admin::AdminDoor,
        caller::Reception,
        workload::{WorkloadDoor, check_header},
    },
    holdings::Book,
    identity::{Identities, Kept, KeptError, revive},
    instances::{Begun, Instances},
    issue::{Desk, Issuer, Orders},
    jwt::Tokens,
    link::{Link, LinkError},
    peers::{Uids, incoming},
    rotate::Rotate,
    settings::{AgentSettings, Bootstrap},
    standing::Standing,
    status::{AgentStatus, Board},
    sync::Sync,
    unmatched::Unmatched,
};

/// Largest request of a workload, in bytes: a token to be validated.
const MAX_REQUEST: usize = 256 * 1024;
/// Most streams on one connection.
const STREAMS_PER_CONNECTION: u32 = 128;
/// Largest header list, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;

/// Why an agent cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// What was kept.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The way to the server.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kept SVID is of no use for TLS.
    #[error("the kept SVID: {0}")]
    Identity(#[from] IdentityError),
    /// The node attestor.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// The bootstrap bundle is another trust domain's.
    #[error("the bootstrap bundle is of {found}, the agent of {expected}")]
    OtherTrustDomain {
        /// Whose bundle it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// Without a bundle the server cannot be believed.
    #[error("insecure bootstrap is not supported yet: give the agent the server's bundle")]
    Insecure,
    /// Reflection could not be described; a fault of the build.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// An agent that was built and does not run yet.
pub struct Agent {
    reception: Arc<Reception>,
    identities: Identities,
    sync: Sync,
    issuer: Issuer,
    orders: Orders,
    rotate: Rotate,
    instances: Arc<Instances>,
    begun: Begun,
    link: Arc<Link>,
    board: Board,
    clock: Clock,
    arrived: Wake,
    connections_per_uid: u32,
    workload: (Listening, Router),
    admin: Option<(Listening, Router)>,
}

impl Agent {
    /// Binds the sockets and loads what was kept. Needs no network, and answers no call before [`Agent::run`].
    ///
    /// # Errors
    /// See [`AgentError`]: what has to be changed before an agent can run at all. A server that is away is no error.
    pub async fn build(
        settings: AgentSettings,
        clock: Clock,
        tasks: &Tasks,
        ready: &ReadyGuards,
    ) -> Result<Self, AgentError> {
        let AgentSettings {
            trust_domain,
            server,
            bootstrap,
            data_dir,
            workload_socket,
            admin_socket,
            collect,
            workloads,
            sync_interval,
            workload_key,
            limits,
        } = settings;
        let board = Board::new();
        let kept = Kept::open(data_dir)?;
        let found = kept.load(&trust_domain)?;
        let bundle = match (found.bundle, bootstrap) {
            (Some(kept), _) => kept,
            (None, Bootstrap::Bundle(given)) => given,
            (None, Bootstrap::Insecure) => return Err(AgentError::Insecure),
        };
        if *bundle.trust_domain() != trust_domain {
            return Err(AgentError::OtherTrustDomain {
                found: bundle.trust_domain().to_string(),
                expected: trust_domain.to_string(),
            });
        }
        let workload = listen(&workload_socket, 0o777, &clock).await?;
        let admin = match &admin_socket {
            Some(path) => Some(listen(path, 0o660, &clock).await?),
            None => None,
        };
        let standing = Standing::new(bundle, kept.clone(), board.clone());
        let (link, verdicts) = Link::new(
            server,
            &trust_domain,
            standing.bundle(),
            board.clone(),
            clock.clone(),
        )?;
        let current = found
            .identity
            .and_then(|(key, svid)| revive(key, svid, &trust_domain, clock.now()));
        let identities = Identities {
            trust_domain: trust_domain.clone(),
            collect,
            kept,
            link: Arc::clone(&link),
            standing: Arc::clone(&standing),
            board: board.clone(),
            clock: clock.clone(),
            verdicts,
            current,
            next: found.next,
            must_attest: false,
        };
        identities.present()?;
        let book = Book::new(limits.holdings);
        let tokens = Tokens::new(limits.jwt_cache);
        let (instances, begun) = Instances::new(
            Arc::clone(&book),
            Arc::clone(&tokens),
            limits.endings,
            clock.clone(),
        );
        let (desk, orders) = Desk::new();
        let (now, arrived) = (Wake::new(), Wake::new());
        let behind = now.clone();
        let issuer = Issuer {
            link: Arc::clone(&link),
            authorized: standing.live(),
            book: Arc::clone(&book),
            tokens: Arc::clone(&tokens),
            instances: Arc::clone(&instances),
            board: board.clone(),
            clock: clock.clone(),
            algorithm: workload_key,
            sync: now.clone(),
        };
        let sync = Sync {
            trust_domain: trust_domain.clone(),
            link: Arc::clone(&link),
            standing: Arc::clone(&standing),
            board: board.clone(),
            clock: clock.clone(),
            interval: sync_interval,
            now,
            arrived: arrived.clone(),
            unready: Some(ready.guard("agent_sync")),
        };
        let reception = Arc::new(Reception {
            workloads,
            deadline: limits.attest_deadline,
            authorized: standing.live(),
            book: Arc::clone(&book),
            tokens,
            desk: desk.clone(),
            instances: Arc::clone(&instances),
            unmatched: Unmatched::new(Arc::clone(&link), clock.clone(), behind),
            streams: Uids::default(),
            streams_per_uid: limits.streams_per_uid,
            clock: clock.clone(),
            stop: tasks.stopping(),
        });
        let (health, serving) = tonic_health::server::health_reporter();
        health
            .set_serving::<SpiffeWorkloadApiServer<WorkloadDoor>>()
            .await;
        let api = SpiffeWorkloadApiServer::new(WorkloadDoor(Arc::clone(&reception)))
            .max_decoding_message_size(MAX_REQUEST);
        let workload_router = server_with_limits()
            .add_service(checked(api))
            .add_service(serving.clone())
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let admin_door = AdminDoor {
            reception: Arc::clone(&reception),
            board: board.clone(),
            hold: hold_pid,
        };
        let admin_router = server_with_limits()
            .add_service(AgentAdminServer::new(admin_door))
            .add_service(serving);
        Ok(Self {
            rotate: Rotate::new(standing.live(), book, desk, board.clone(), clock.clone()),
            reception,
            identities,
            sync,
            issuer,
            orders,
            instances,
            begun,
            link,
            board,
            clock,
            arrived,
            connections_per_uid: limits.connections_per_uid,
            workload: (workload, workload_router),
            admin: admin.map(|listening| (listening, admin_router)),
        })
    }

    /// How it is doing, now and later.
    pub fn status(&self) -> Live<AgentStatus> {
        self.board.live()
    }

    /// Starts its tasks; they end with `tasks`.
    pub fn run(self, tasks: &Tasks) {
        tasks.spawn("agent_identity", self.identities.run(tasks.stopping()));
        tasks.spawn("agent_sync", self.sync.run(tasks.stopping()));
        tasks.spawn(
            "agent_issue",
            self.issuer.run(self.orders, tasks.stopping()),
        );
        tasks.spawn(
            "agent_instances",
            Arc::clone(&self.instances).run(self.begun, tasks.stopping()),
        );
        tasks.spawn(
            "agent_endings",
            self.instances.report(self.link, tasks.stopping()),
        );
        tasks.every(self.rotate, Some(self.arrived));
        for (name, door) in [
            ("workload_door", Some(self.workload)),
            ("agent_admin_door", self.admin),
        ] {
            let Some((listening, router)) = door else {
                continue;
            };
            let stop = tasks.stopping();
            // Counted per socket: whoever fills the one does not lock the admin out of the other.
            let connections = incoming(
                listening,
                Uids::default(),
                self.connections_per_uid,
                self.clock.clone(),
            );
            tasks.spawn(name, async move {
                router
                    .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
                    .await
            });
        }
        drop(self.reception);
    }
}

fn server_with_limits() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(MAX_HEADERS)
}

/// What looks at a call before its service does.
type Check = fn(tonic::Request<()>) -> Result<tonic::Request<()>, Status>;

/// The Workload API behind its header check; other services on the socket need no header.
fn checked<T: SpiffeWorkloadApi>(
    api: SpiffeWorkloadApiServer<T>,
) -> InterceptedService<SpiffeWorkloadApiServer<T>, Check> {
    InterceptedService::new(api, check_header)
}

/// C172: a workload may ask what is served, and is told of the Workload API alone.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(WORKLOAD_DESCRIPTOR_SET)
}

/// Holds a process that did not connect.
fn hold_pid(pid: u32) -> Result<Peer, Status> {
    Peer::by_pid(pid).map_err(|e| match e {
        PeerError::Gone => Status::not_found(format!("there is no process {pid}")),
        e => Status::failed_precondition(e.to_string()),
    })
}
