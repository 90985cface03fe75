//! Connections: accepted, given their origin, and handed to the doors. A handshake that stalls stalls nobody else.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use attesta_attest::Peer;
use attesta_runtime::{Tasks, socket::Listening};
use attesta_tls::{ServerConfig, ServerStream, accept, peer_of};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Semaphore, mpsc},
};
use tonic::transport::server::Connected;

use crate::{
    caller::{From, Origin},
    places::{Place, Places},
};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most handshakes at once; more wait in the listener's backlog.
const HANDSHAKES: usize = 256;
/// Connections that are through and not yet taken by the HTTP/2 server.
const ACCEPTED: usize = 64;
/// How long to rest when the process has no file descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// A connection with its origin.
pub(crate) struct Connection {
    io: Io,
    origin: Origin,
    /// Its place among the connections there may be; given back with the connection.
    _place: Option<Place>,
}

enum Io {
    Tcp(Box<ServerStream<TcpStream>>),
    Inside(Box<ServerStream<DuplexStream>>),
    Unix(UnixStream),
}

impl Connected for Connection {
    type ConnectInfo = Origin;

    fn connect_info(&self) -> Origin {
        self.origin.clone()
    }
}

/// Accepts agents over TCP.
pub(crate) fn tcp(
    tasks: &Tasks,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    connections: usize,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (out, accepted) = mpsc::channel(ACCEPTED);
    let (stop, spawner) = (tasks.stopping(), tasks.clone());
    tasks.spawn("accept-tcp", async move {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let places = Places::new(connections);
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
                return;
            };
            let incoming = tokio::select! {
                () = stop.cancelled() => return,
                incoming = listener.accept() => incoming,
            };
            let (stream, address) = match incoming {
                Ok(incoming) => incoming,
                Err(e) => {
                    exhausted("tcp", &e).await;
                    continue;
                }
            };
            let Some(mut place) = places.take(address.ip()) else {
                tracing::debug!(from = %address, "too many connections: closed");
                continue;
            };
            if let Err(e) = stream.set_nodelay(true) {
                tracing::debug!(error = %e, "TCP_NODELAY");
            }
            let (tls, out) = (Arc::clone(&tls), out.clone());
            spawner.spawn("handshake", async move {
                match accept(tls, stream, HANDSHAKE).await {
                    Ok(stream) => {
                        drop(permit);
                        let peer = peer_of(stream.get_ref().1).map(Arc::new);
                        if peer.is_some() {
                            place.known();
                        }
                        let origin = Origin::Tls {
                            peer,
                            from: From::Address(address),
                        };
                        hand_on(
                            &out,
                            Connection {
                                io: Io::Tcp(Box::new(stream)),
                                origin,
                                _place: Some(place),
                            },
                        )
                        .await;
                    }
                    Err(e) => tracing::debug!(from = %address, error = %e, "handshake refused"),
                }
            });
        }
    });
    accepted
}

/// Accepts the agent in this process: TLS all the same, over memory.
pub(crate) fn inside(
    tasks: &Tasks,
    mut incoming: mpsc::Receiver<DuplexStream>,
    tls: Arc<ServerConfig>,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (out, accepted) = mpsc::channel(ACCEPTED);
    let (stop, spawner) = (tasks.stopping(), tasks.clone());
    tasks.spawn("accept-inside", async move {
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                stream = incoming.recv() => match stream { Some(stream) => stream, None => return },
            };
            let (tls, out) = (Arc::clone(&tls), out.clone());
            spawner.spawn("handshake-inside", async move {
                match accept(tls, stream, HANDSHAKE).await {
                    Ok(stream) => {
                        let peer = peer_of(stream.get_ref().1).map(Arc::new);
                        let origin = Origin::Tls {
                            peer,
                            from: From::Inside,
                        };
                        hand_on(
                            &out,
                            Connection {
                                io: Io::Inside(Box::new(stream)),
                                origin,
                                _place: None,
                            },
                        )
                        .await;
                    }
                    Err(e) => tracing::debug!(error = %e, "handshake refused inside"),
                }
            });
        }
    });
    accepted
}

/// Accepts administrators; the kernel says who they are.
pub(crate) fn unix(tasks: &Tasks, listener: Listening) -> mpsc::Receiver<io::Result<Connection>> {
    let (out, accepted) = mpsc::channel(ACCEPTED);
    let stop = tasks.stopping();
    tasks.spawn("accept-admin", async move {
        loop {
            let incoming = tokio::select! {
                () = stop.cancelled() => return,
                incoming = listener.listener().accept() => incoming,
            };
            let stream = match incoming {
                Ok((stream, _)) => stream,
                Err(e) => {
                    exhausted("admin", &e).await;
                    continue;
                }
            };
            match admin(&stream) {
                Ok(origin) => hand_on(&out, Connection { io: Io::Unix(stream), origin, _place: None }).await,
                Err(e) => tracing::warn!(error = %e, "a connection to the admin socket was dropped: its peer could not be read"),
            }
        }
    });
    accepted
}

fn admin(stream: &UnixStream) -> Result<Origin, attesta_attest::PeerError> {
    let peer = Peer::of(stream)?;
    let path = std::fs::read_link(format!("/proc/{}/exe", peer.pid()))
        .map(|p| p.to_string_lossy().into_owned())
        .unwrap_or_default();
    // Read while the peer is held: a reused pid is never described.
    let path = if peer.alive() { path } else { String::new() };
    Ok(Origin::Admin {
        uid: peer.uid(),
        pid: peer.pid(),
        path: path.into(),
    })
}

async fn hand_on(out: &mpsc::Sender<io::Result<Connection>>, connection: Connection) {
    // The receiver goes when the server stops; the connection goes with it.
    if out.send(Ok(connection)).await.is_err() {
        tracing::debug!("a connection came while stopping");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a rest of real time while descriptors are exhausted, whatever the clock says"
)]
async fn exhausted(door: &str, e: &io::Error) {
    tracing::warn!(door, error = %e, "a connection could not be accepted");
    tokio::time::sleep(EXHAUSTED).await;
}

macro_rules! each {
    ($self:expr, $io:ident => $e:expr) => {
        match &mut $self.get_mut().io {
            Io::Tcp($io) => $e,
            Io::Inside($io) => $e,
            Io::Unix($io) => $e,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Inside(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
        }
    }
}
