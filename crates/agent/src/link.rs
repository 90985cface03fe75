//! The connection to the server: gRPC over TLS that accepts one SPIFFE ID, the server's, and shows the agent's.
//! A new identity is a new connection.
//!
//! Must not know what is asked over it. Says of a refusal what it means for the agent's own identity, and no more.

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use attesta_model::{Reason, attested::SERVER_PATH};
use attesta_runtime::{Clock, Live, Writer, live};
use attesta_spiffe::{Bundle, IdError, TrustDomain};
use attesta_tls::{ClientConfig, HandshakeError, Identity, TlsError, client_config, connect};
use attesta_wire::status::agent_reason;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, duplex},
    net::TcpStream,
    sync::mpsc,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::{settings::Dial, status::Board};

/// How long connecting may take: TCP and TLS each.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(30);
/// The buffer of a connection within the process, in bytes.
const PIPE: usize = 64 * 1024;
/// The largest answer that is read, in bytes: all entries of a large node in one push.
pub(crate) const MAX_ANSWER: usize = 64 << 20;

/// Why there can be no link at all; found when the agent is built.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not `host:port`.
    #[error("server address {0:?} is not host:port")]
    Address(String),
    /// The trust domain has no server id.
    #[error("the server's id: {0}")]
    Id(#[from] IdError),
    /// TLS cannot be configured.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a refusal says about the identity that was shown, named by its serial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) serial: Arc<str>,
    pub(crate) banned: bool,
}

/// A connection with the identity it shows. Connects when first used, and again when it broke.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) channel: Channel,
    /// Of the certificate that is shown.
    pub(crate) serial: Arc<str>,
    /// Each connection's own.
    number: u64,
    /// Whether the server has shown that it speaks SPIRE's services alone.
    plain: Arc<AtomicBool>,
}

impl Session {
    /// Whether our own services are not there; not asked again on this connection.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Relaxed)
    }

    /// Our own services are not there.
    pub(crate) fn found_plain(&self) {
        self.plain.store(true, Ordering::Relaxed);
    }
}

/// See the module.
pub(crate) struct Link {
    dialer: Dialer,
    shown: Writer<Option<Identity>>,
    sessions: Writer<Option<Session>>,
    numbers: AtomicU64,
    verdicts: mpsc::Sender<Verdict>,
    board: Board,
    clock: Clock,
}

struct Dialer {
    endpoint: Endpoint,
    dial: Dial,
    host: Arc<str>,
    anonymous: Arc<ClientConfig>,
    identified: Arc<ClientConfig>,
    board: Board,
    clock: Clock,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect to the server: {0}")]
    Connect(#[from] io::Error),
    #[error("cannot connect to the server within {0:?}")]
    Slow(Duration),
    #[error("the server in this process is gone")]
    Gone,
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl Link {
    /// A link to this server, which must show `spiffe://TRUST-DOMAIN/spire/server` by this bundle. The other end of the
    /// channel hears what refusals mean.
    pub(crate) fn new(
        dial: Dial,
        trust_domain: &TrustDomain,
        bundle: Live<Bundle>,
        board: Board,
        clock: Clock,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Verdict>), LinkError> {
        let (host, uri) = address(&dial)?;
        let endpoint =
            Endpoint::from(uri).user_agent(concat!("attesta-agent/", env!("CARGO_PKG_VERSION")));
        let endpoint = endpoint
            .map_err(|_| LinkError::Address(host.clone()))?
            .connect_timeout(CONNECT * 2);
        let server = trust_domain.with_path(SERVER_PATH)?;
        let (shown, showing) = live(None);
        let (_, nothing) = live(None);
        let dialer = Dialer {
            endpoint,
            dial,
            host: host.into(),
            anonymous: client_config(nothing, bundle.clone(), server.clone(), clock.clone())?,
            identified: client_config(showing, bundle, server, clock.clone())?,
            board: board.clone(),
            clock: clock.clone(),
        };
        let (sessions, _) = live(None);
        let (verdicts, heard) = mpsc::channel(16);
        Ok((
            Arc::new(Self {
                dialer,
                shown,
                sessions,
                numbers: AtomicU64::new(0),
                verdicts,
                board,
                clock,
            }),
            heard,
        ))
    }

    /// A connection that shows nothing: for attestation.
    pub(crate) fn anonymous(&self) -> Channel {
        self.dialer.channel(&self.dialer.anonymous)
    }

    /// Shows this identity from now on, on a connection of its own.
    pub(crate) fn present(&self, identity: Identity, serial: &str) {
        self.shown.publish(Some(identity));
        self.connect_as(serial.into());
    }

    /// Shows nothing any more.
    pub(crate) fn withdraw(&self) {
        self.shown.publish(None);
        self.sessions.publish(None);
    }

    fn connect_as(&self, serial: Arc<str>) {
        let channel = self.dialer.channel(&self.dialer.identified);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let plain = Arc::default();
        self.sessions.publish(Some(Session {
            channel,
            serial,
            number,
            plain,
        }));
    }

    /// The current connection, once there is an identity.
    pub(crate) async fn session(&self) -> Session {
        let sessions = self.sessions.reader();
        let mut version = sessions.version();
        loop {
            if let Some(session) = sessions.load().as_ref() {
                return session.clone();
            }
            version = sessions.changed(version).await;
        }
    }

    /// The current connection, if there is an identity.
    pub(crate) fn current(&self) -> Option<Session> {
        self.sessions.load().as_ref().clone()
    }

    /// Waits until this is not the current connection any more.
    pub(crate) async fn replaced(&self, session: &Session) {
        let sessions = self.sessions.reader();
        let mut version = sessions.version();
        while sessions
            .load()
            .as_ref()
            .as_ref()
            .is_some_and(|now| now.number == session.number)
        {
            version = sessions.changed(version).await;
        }
    }

    /// One call, within the deadline.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        match self.clock.timeout(CALL, call).await {
            Ok(Ok(answer)) => {
                self.board.reached();
                Ok(answer)
            }
            Ok(Err(status)) => Err(status),
            Err(e) => Err(Status::deadline_exceeded(format!(
                "the server gave no answer: {e}"
            ))),
        }
    }

    /// Draws the consequences of a failed call: for the connection, for the status, for the identity.
    pub(crate) fn failed(&self, session: &Session, status: &Status) {
        if status.code() == Code::DeadlineExceeded
            && self
                .current()
                .is_some_and(|now| now.number == session.number)
        {
            // A connection that swallows calls is as good as broken.
            self.connect_as(Arc::clone(&session.serial));
        }
        let banned = match agent_reason(status) {
            Some(Reason::Banned) => true,
            Some(
                Reason::Expired | Reason::NotAttested | Reason::NotActive | Reason::MustReattest,
            ) => false,
            _ => {
                let reachable =
                    !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
                if !reachable || !matches!(status.code(), Code::Cancelled | Code::Unimplemented) {
                    self.board.trouble(&sentence(status), reachable);
                }
                return;
            }
        };
        let verdict = Verdict {
            serial: Arc::clone(&session.serial),
            banned,
        };
        // A full queue already holds the same news.
        drop(self.verdicts.try_send(verdict));
    }
}

impl Dialer {
    fn channel(&self, config: &Arc<ClientConfig>) -> Channel {
        let (dial, host, config) = (
            self.dial.clone(),
            Arc::clone(&self.host),
            Arc::clone(config),
        );
        let (board, clock) = (self.board.clone(), self.clock.clone());
        self.endpoint
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let (dial, host, config) = (dial.clone(), Arc::clone(&host), Arc::clone(&config));
                let (board, clock) = (board.clone(), clock.clone());
                async move {
                    let connected = async {
                        Ok::<_, DialError>(
                            connect(config, bare(&host), reach(&dial, &clock).await?, CONNECT)
                                .await?,
                        )
                    };
                    match connected.await {
                        Ok(stream) => Ok(TokioIo::new(stream)),
                        Err(e) => {
                            board.trouble(&e.to_string(), false);
                            Err(e)
                        }
                    }
                }
            }))
    }
}

async fn reach(dial: &Dial, clock: &Clock) -> Result<Box<dyn Io>, DialError> {
    match dial {
        Dial::Tcp(address) => {
            let stream = clock
                .timeout(CONNECT, TcpStream::connect(address.as_str()))
                .await
                .map_err(|_| DialError::Slow(CONNECT))??;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Dial::Local(server) => {
            let (ours, theirs) = duplex(PIPE);
            server.send(theirs).await.map_err(|_| DialError::Gone)?;
            Ok(Box::new(ours))
        }
    }
}

/// Host (with its port) and the URI that names it; the URI's scheme is only gRPC's, TLS is ours.
fn address(dial: &Dial) -> Result<(String, Uri), LinkError> {
    let text = match dial {
        Dial::Local(_) => "localhost:0",
        Dial::Tcp(text) => text,
    };
    let bad = || LinkError::Address(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    let uri = format!("http://{text}").parse().map_err(|_| bad())?;
    Ok((text.to_owned(), uri))
}

fn bare(host: &str) -> &str {
    host.rsplit_once(':').map_or(host, |(host, _)| host)
}

/// A status with what caused it: gRPC hides a refused handshake behind "transport error".
pub(crate) fn sentence(status: &Status) -> String {
    let mut out = format!(
        "{:?}: {}",
        status.code(),
        attesta_model::text::bounded(status.message(), 512)
    );
    let mut source = status.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !out.contains(&words) {
            out.push_str(": ");
            out.push_str(&attesta_model::text::bounded(&words, 512));
        }
        source = cause.source();
    }
    out
}
