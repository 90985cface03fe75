//! The handshake on a connection, with a deadline; errors say what the peer showed.
//!
//! Must not know where connections come from.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use attesta_runtime::{Clock, Elapsed};
use rustls::{CertificateError, ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::PeerError;

/// A connection that a client made to us.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;
/// A connection that we made to a server.
pub type ClientStream<IO> = tokio_rustls::client::TlsStream<IO>;

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer's certificate is not one that we accept.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer refused us: the alert it sent. In TLS 1.3 a client learns it only with its first read, whose
    /// `io::Error` becomes this by `From`.
    #[error("the peer refused the handshake: alert {0:?}")]
    Refused(rustls::AlertDescription),
    /// The peer speaks no TLS that we do.
    #[error("TLS handshake: {0}")]
    Tls(rustls::Error),
    /// The connection broke.
    #[error("connection lost in the TLS handshake: {0}")]
    Io(io::Error),
    /// The handshake took too long.
    #[error("TLS handshake: {0}")]
    Deadline(#[from] Elapsed),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            None => Self::Io(error),
            Some(rustls::Error::AlertReceived(alert)) => Self::Refused(*alert),
            Some(tls) => peer_error(tls).map_or_else(|| Self::Tls(tls.clone()), Self::Peer),
        }
    }
}

/// What [`crate::trust`] said, out of what rustls wrapped around it.
fn peer_error(error: &rustls::Error) -> Option<PeerError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<PeerError>().cloned()
        }
        _ => None,
    }
}

/// The server's handshake, done within `deadline` of real time.
///
/// # Errors
/// See [`HandshakeError`]; the connection is closed, the peer was told by an alert.
pub async fn accept<IO>(
    config: Arc<ServerConfig>,
    io: IO,
    deadline: Duration,
) -> Result<ServerStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(config).accept(io);
    Ok(Clock::system().timeout(deadline, handshake).await??)
}

/// The client's handshake, done within `deadline` of real time. `host` is sent as SNI when it is a DNS name, for what
/// routes by it on the way; it is not checked against anything.
///
/// # Errors
/// See [`HandshakeError`]; the connection is closed, the peer was told by an alert.
pub async fn connect<IO>(
    config: Arc<ClientConfig>,
    host: &str,
    io: IO,
    deadline: Duration,
) -> Result<ClientStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // An address is never sent.
    let name = ServerName::try_from(host.to_owned())
        .unwrap_or_else(|_| ServerName::from(Ipv4Addr::UNSPECIFIED));
    let handshake = TlsConnector::from(config).connect(name, io);
    Ok(Clock::system().timeout(deadline, handshake).await??)
}
