//! The client's end: accepts exactly one SPIFFE ID, and shows the current identity when asked for one.
//!
//! Must not know addresses: the host's name is not looked at.

use std::sync::Arc;

use attesta_runtime::{Clock, Live};
use attesta_spiffe::{Bundle, SpiffeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{ALL_VERSIONS, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::trust::Trust;
use crate::{ALPN, Identity, PeerError, TlsError, provider};

/// A client of the server `expected`. It shows what `identity` holds at each handshake (nothing before attestation:
/// `live(None)`), and checks the server against `bundle` at `clock`'s time.
///
/// # Errors
/// When rustls refuses the configuration; that would be a fault of this room.
pub fn client_config(
    identity: Live<Option<Identity>>,
    bundle: Live<Bundle>,
    expected: SpiffeId,
    clock: Clock,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(ALL_VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(check(bundle, expected, clock))
        .with_client_cert_resolver(Arc::new(Shown { identity }));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// What decides whether the server is the right one.
pub(crate) fn check(
    bundle: Live<Bundle>,
    expected: SpiffeId,
    clock: Clock,
) -> Arc<dyn ServerCertVerifier> {
    Arc::new(ServerCheck {
        trust: Trust::new(bundle, clock),
        expected,
    })
}

#[derive(Debug)]
struct Shown {
    identity: Live<Option<Identity>>,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.identity
            .load()
            .as_ref()
            .as_ref()
            .map(Identity::certified)
    }

    fn has_certs(&self) -> bool {
        // Asked before `resolve`, and an identity may arrive in between; having none then is fine as well.
        true
    }
}

#[derive(Debug)]
struct ServerCheck {
    trust: Trust,
    expected: SpiffeId,
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let proven = self.trust.verify(leaf, intermediates)?;
        if *proven.id() != self.expected {
            return Err(PeerError::Another {
                found: proven.id().clone(),
                expected: self.expected.clone(),
            }
            .into());
        }
        Ok(ServerCertVerified::assertion())
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
