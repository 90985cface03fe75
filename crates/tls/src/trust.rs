//! The one question both ends ask of a certificate: does it prove a SPIFFE ID, by our bundle, now?
//!
//! Must not know which id is wanted. The proof is `attesta_spiffe::verify_chain`; here a refusal gets its words.

use std::iter;

use attesta_runtime::{Clock, Live};
use attesta_spiffe::{
    Bundle, SpiffeId, VerifiedX509, X509Authority, X509Error, leaf_id, verify_chain,
};
use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::CertificateDer;

use crate::peer::Leaf;
use crate::{PeerError, provider};

/// How many of the bundle's keys a refusal names.
const NAMED_KEYS: usize = 8;

/// What certificates are checked against, as it is at each handshake.
#[derive(Debug)]
pub(crate) struct Trust {
    bundle: Live<Bundle>,
    clock: Clock,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    pub(crate) fn new(bundle: Live<Bundle>, clock: Clock) -> Self {
        Self {
            bundle,
            clock,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<VerifiedX509, PeerError> {
        let (bundle, now) = (self.bundle.load(), self.clock.now());
        let chain: Vec<_> = iter::once(leaf).chain(intermediates).cloned().collect();
        verify_chain(&chain, &bundle, now).map_err(|error| explain(error, leaf, &bundle, now))
    }

    pub(crate) fn tls12(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    pub(crate) fn tls13(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    pub(crate) fn schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The words for operators: whose certificate it is, and what about it does not fit our bundle or our clock.
fn explain(error: X509Error, leaf: &[u8], bundle: &Bundle, now: Timestamp) -> PeerError {
    let (Ok(found), Some(shown)) = (leaf_id(leaf), Leaf::parse(leaf)) else {
        return PeerError::Invalid(error);
    };
    match error {
        X509Error::OtherTrustDomain => PeerError::Foreign {
            found,
            trust_domain: bundle.trust_domain().clone(),
        },
        X509Error::Expired { not_after } => PeerError::Expired {
            found,
            not_after,
            now,
        },
        X509Error::NotYetValid { not_before } => PeerError::NotYetValid {
            found,
            not_before,
            now,
        },
        // With a clock far off no authority is valid either; then the clock is what to look at.
        X509Error::NoAuthority if shown.not_after < now => PeerError::Expired {
            found,
            not_after: shown.not_after,
            now,
        },
        X509Error::NoAuthority if now < shown.not_before => PeerError::NotYetValid {
            found,
            not_before: shown.not_before,
            now,
        },
        X509Error::NoAuthority | X509Error::UnknownIssuer => {
            unknown_authority(found, &shown, bundle, now)
        }
        // All authorities of SPIRE have one name, so that another's certificate is tried with our keys, and fails.
        X509Error::Signature if !bundle_names(bundle, &shown) => {
            unknown_authority(found, &shown, bundle, now)
        }
        other => PeerError::Invalid(other),
    }
}

/// Whether the bundle holds the key that the leaf says it was signed with.
fn bundle_names(bundle: &Bundle, shown: &Leaf) -> bool {
    bundle
        .x509_authorities()
        .iter()
        .filter_map(X509Authority::subject_key_id)
        .any(|key| Some(hex::encode(key)) == shown.authority)
}

fn unknown_authority(found: SpiffeId, shown: &Leaf, bundle: &Bundle, now: Timestamp) -> PeerError {
    let known: Vec<_> = bundle
        .x509_authorities()
        .iter()
        .filter(|authority| authority.is_valid_at(now))
        .filter_map(X509Authority::subject_key_id)
        .take(NAMED_KEYS)
        .map(hex::encode)
        .collect();
    PeerError::UnknownAuthority {
        found,
        authority: shown
            .authority
            .clone()
            .unwrap_or_else(|| "not named".to_owned()),
        trust_domain: bundle.trust_domain().clone(),
        known: if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        },
    }
}
