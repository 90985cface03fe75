//! The rustls ends: an SVID goes in, the SPIFFE ID of the peer comes out.
//!
//! One provider (aws-lc-rs), passed explicitly; TLS 1.2 and 1.3; ALPN `h2`; no tickets and no resumption, because a
//! resumed session outlives the SVIDs it began with. Names of hosts prove nothing here: a peer is who its SVID says.
//! This room must not know gRPC, nor what a peer is allowed to do. All rustls types of the product live here.

mod client;
mod identity;
mod peer;
mod server;
mod stream;
mod trust;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use client::client_config;
pub use identity::{Identity, IdentityError};
pub use peer::{Peer, PeerError, peer_of};
pub use rustls::{ClientConfig, ServerConfig, ServerConnection};
pub use rustls_pki_types::CertificateDer;
pub use server::{ClientAuth, server_config};
pub use stream::{ClientStream, HandshakeError, ServerStream, accept, connect};

/// A configuration that rustls does not take; not caused by a peer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("TLS configuration: {0}")]
pub struct TlsError(#[from] rustls::Error);

/// What gRPC runs over, and nothing else.
const ALPN: &[u8] = b"h2";

/// The one provider. Never installed as the process's default, so that no library picks it, or another, unseen.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
