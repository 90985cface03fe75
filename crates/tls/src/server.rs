//! The server's end: shows the current identity, and proves a client's SVID when the client shows one.
//!
//! Must not know what a client without an SVID may do; that is the caller's, who asks [`crate::peer_of`].

use std::sync::Arc;

use attesta_runtime::{Clock, Live};
use attesta_spiffe::Bundle;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ALL_VERSIONS, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::trust::Trust;
use crate::{ALPN, Identity, TlsError, provider};

/// What a server asks of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate is asked for.
    None,
    /// A certificate is asked for and may be withheld; one that is shown must be a valid SVID of the bundle's trust
    /// domain, else the handshake fails.
    Optional,
}

/// A server that shows what `identity` holds at each handshake, and checks clients against `bundle` at `clock`'s time.
///
/// # Errors
/// When rustls refuses the configuration; that would be a fault of this room.
pub fn server_config(
    identity: Live<Identity>,
    bundle: Live<Bundle>,
    clock: Clock,
    client: ClientAuth,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(ALL_VERSIONS)?;
    let builder = match client {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional => builder.with_client_cert_verifier(Arc::new(ClientCheck {
            trust: Trust::new(bundle, clock),
        })),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Shown { identity }));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Shown {
    identity: Live<Identity>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.identity.load().certified())
    }
}

#[derive(Debug)]
struct ClientCheck {
    trust: Trust,
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: authorities of one trust domain share a name, and clients have one identity to show.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.trust.verify(leaf, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.tls12(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.tls13(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.schemes()
    }
}
