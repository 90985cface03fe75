//! Who is on the other end: connections are accepted with their process held, and counted per user id.
//!
//! Must not know what is asked. One user's connections never take another's place.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use attesta_attest::{Peer, PeerError};
use attesta_runtime::Clock;
use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::Connected;

use attesta_runtime::socket::Listening;

use crate::host::Host;

/// How long accepting rests when the system has no descriptor left.
const REST: Duration = Duration::from_millis(50);

#[expect(
    clippy::disallowed_types,
    reason = "a counter per user id, held for one map operation"
)]
type Lock<T> = std::sync::Mutex<T>;

/// How many of something each user has.
#[derive(Clone, Default)]
pub(crate) struct Uids(Arc<Lock<HashMap<u32, u32>>>);

/// One of them; given back when dropped.
pub(crate) struct Slot {
    uid: u32,
    uids: Uids,
}

impl Uids {
    /// One more for this user, unless it has `limit` already.
    pub(crate) fn take(&self, uid: u32, limit: u32) -> Option<Slot> {
        let mut counts = self.counts();
        let count = counts.entry(uid).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Slot {
            uid,
            uids: self.clone(),
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<u32, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.uids.counts();
        if let Some(count) = counts.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// Whoever connected, as every call on the connection finds it.
#[derive(Clone)]
pub(crate) struct Caller {
    uid: u32,
    peer: Result<Peer, PeerError>,
}

impl Caller {
    /// The user id when it connected.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// The process, or why it cannot be held.
    pub(crate) fn peer(&self) -> Result<&Peer, &PeerError> {
        self.peer.as_ref()
    }
}

/// One connection.
pub(crate) struct Connection {
    stream: UnixStream,
    host: Host,
    caller: Caller,
    _slot: Slot,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

/// The connections of a socket, for as long as it is listened on; never an error.
pub(crate) fn incoming(
    listening: Listening,
    uids: Uids,
    limit: u32,
    clock: Clock,
) -> impl Stream<Item = Result<Connection, Infallible>> {
    stream::unfold(
        (listening, uids, clock),
        move |(listening, uids, clock)| async move {
            loop {
                let stream = match listening.listener().accept().await {
                    Ok((stream, _)) => stream,
                    Err(e) => {
                        tracing::warn!(socket = %listening.path().display(), error = %e, "a connection could not be accepted");
                        clock
                            .timeout(REST, std::future::pending::<()>())
                            .await
                            .err();
                        continue;
                    }
                };
                match admit(stream, &uids, limit) {
                    Ok(connection) => return Some((Ok(connection), (listening, uids, clock))),
                    Err(Refused::Full(uid)) => {
                        tracing::warn!(
                            uid,
                            limit,
                            "a user has too many connections; one more was closed"
                        );
                    }
                    Err(Refused::Unknown(e)) => {
                        tracing::debug!(error = %e, "a connection went before it was seen")
                    }
                }
            }
        },
    )
}

enum Refused {
    Full(u32),
    Unknown(io::Error),
}

fn admit(stream: UnixStream, uids: &Uids, limit: u32) -> Result<Connection, Refused> {
    let uid = stream.peer_cred().map_err(Refused::Unknown)?.uid();
    // Counted before its process is looked at: a refusal has to be cheap.
    let slot = uids.take(uid, limit).ok_or(Refused::Full(uid))?;
    let peer = Peer::of(&stream);
    Ok(Connection {
        stream,
        host: Host::new(),
        caller: Caller { uid, peer },
        _slot: slot,
    })
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(bytes) = buf.filled_mut().get_mut(before..) {
            self.host.pass(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, pin::pin};

    use futures::StreamExt;
    use tokio::io::AsyncReadExt;

    use super::*;
    use attesta_runtime::socket::listen;

    #[test]
    fn each_user_has_its_own_places() {
        let uids = Uids::default();
        let first = uids.take(1, 2).unwrap();
        let second = uids.take(1, 2).unwrap();
        assert!(uids.take(1, 2).is_none());
        assert!(uids.take(2, 2).is_some(), "and gives it back at once");
        drop(first);
        let third = uids.take(1, 2).unwrap();
        drop((second, third));
        assert!(uids.counts().is_empty());
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let clock = Clock::system();
        let listening = listen(&dir.path().join("s"), 0o777, &clock).await.unwrap();
        let path = listening.path().to_owned();
        let mut incoming = pin!(incoming(listening, Uids::default(), 2, clock));
        let mut open = Vec::new();
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(UnixStream::connect(&path).await.unwrap());
            let Ok(connection) = incoming.next().await.unwrap();
            assert_eq!(
                connection.connect_info().peer().unwrap().pid(),
                std::process::id()
            );
            open.push(connection);
        }
        let mut surplus = UnixStream::connect(&path).await.unwrap();
        let fourth = async {
            assert_eq!(surplus.read(&mut [0]).await.unwrap(), 0, "closed");
            drop(open.pop());
            UnixStream::connect(&path).await.unwrap()
        };
        let (accepted, _client) = tokio::join!(incoming.next(), fourth);
        assert!(accepted.is_some());
    }
}
