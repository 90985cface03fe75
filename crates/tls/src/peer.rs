//! Who the other end is, by the certificate it showed; and why it is nobody.
//!
//! Must not know what a peer may do.

use attesta_spiffe::{SpiffeId, TrustDomain, X509Error};
use der::{Decode, Encode};
use jiff::{SignedDuration, Timestamp};
use rustls::{CertificateError, OtherError, ServerConnection};
use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::ext::pkix::AuthorityKeyIdentifier;

/// The other end of a connection whose handshake succeeded: every field was proven then. Whether the certificate is
/// still valid is for the caller, at each use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Its own certificate.
    pub leaf: CertificateDer<'static>,
    /// The certificate's serial: lower-case hex, whole bytes.
    pub serial_hex: String,
    /// The certificate is valid from here.
    pub not_before: Timestamp,
    /// The certificate is valid until here.
    pub not_after: Timestamp,
    /// Its public key (`SubjectPublicKeyInfo`, DER).
    pub spki: Vec<u8>,
}

/// Why a certificate that was shown proves nobody. For operators: it says whose certificate came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// A valid SVID, of somebody else.
    #[error("the peer is {found}, and we expected {expected}")]
    Another {
        /// Who it is.
        found: SpiffeId,
        /// Who it should be.
        expected: SpiffeId,
    },
    /// The id is of a trust domain that the bundle is not of.
    #[error("the peer is {found}, which is not of our trust domain {trust_domain}")]
    Foreign {
        /// Who it says it is.
        found: SpiffeId,
        /// Whose bundle we hold.
        trust_domain: TrustDomain,
    },
    /// No authority in the bundle signed it.
    #[error(
        "the certificate of {found} was signed by an authority (key {authority}) that our bundle of {trust_domain} \
         does not hold (keys there: {known}): the bundle is old, or of another server"
    )]
    UnknownAuthority {
        /// Who it says it is.
        found: SpiffeId,
        /// The key id of the authority it names, in hex.
        authority: String,
        /// Whose bundle we hold.
        trust_domain: TrustDomain,
        /// The key ids of the authorities in the bundle, in hex, at most eight.
        known: String,
    },
    /// Its time is over.
    #[error(
        "the certificate of {found} expired at {not_after}, {:#} before our time {now}: it was not renewed, or our \
         clock is ahead", SignedDuration::from_secs(now.as_second() - not_after.as_second())
    )]
    Expired {
        /// Who it says it is.
        found: SpiffeId,
        /// When it expired.
        not_after: Timestamp,
        /// What our clock says.
        now: Timestamp,
    },
    /// Its time has not come.
    #[error(
        "the certificate of {found} is valid from {not_before}, {:#} after our time {now}: our clock is behind at least \
         by that, or the issuer's is ahead", SignedDuration::from_secs(not_before.as_second() - now.as_second())
    )]
    NotYetValid {
        /// Who it says it is.
        found: SpiffeId,
        /// When it begins.
        not_before: Timestamp,
        /// What our clock says.
        now: Timestamp,
    },
    /// It is no X.509-SVID, or something else is wrong with its chain.
    #[error("the peer's certificate is not acceptable: {0}")]
    Invalid(X509Error),
}

impl From<PeerError> for rustls::Error {
    fn from(error: PeerError) -> Self {
        CertificateError::Other(OtherError(std::sync::Arc::new(error))).into()
    }
}

/// The client at the other end; nothing when it showed no certificate, or the handshake is not done.
pub fn peer_of(connection: &ServerConnection) -> Option<Peer> {
    if connection.is_handshaking() {
        return None;
    }
    let leaf = connection.peer_certificates()?.first()?;
    let shown = Leaf::parse(leaf)?;
    Some(Peer {
        // The verifier let it pass, so it has an id; were that not so, it is nobody.
        id: attesta_spiffe::leaf_id(leaf).ok()?,
        leaf: leaf.clone(),
        serial_hex: shown.serial_hex,
        not_before: shown.not_before,
        not_after: shown.not_after,
        spki: shown.spki,
    })
}

/// What a certificate says; proves nothing by itself.
pub(crate) struct Leaf {
    serial_hex: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    spki: Vec<u8>,
    /// In hex.
    pub(crate) authority: Option<String>,
}

impl Leaf {
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let body = certificate.tbs_certificate();
        let time = |time: x509_cert::time::Time| {
            Timestamp::from_second(i64::try_from(time.to_unix_duration().as_secs()).ok()?).ok()
        };
        let authority = body
            .get_extension::<AuthorityKeyIdentifier>()
            .ok()
            .flatten()
            .and_then(|(_, key)| Some(hex::encode(key.key_identifier?.as_bytes())));
        Some(Self {
            serial_hex: serial_hex(body.serial_number().as_bytes()),
            not_before: time(body.validity().not_before)?,
            not_after: time(body.validity().not_after)?,
            spki: body.subject_public_key_info().to_der().ok()?,
            authority,
        })
    }
}

/// As `attesta_spiffe` writes it: the sign byte of DER is not part of the number.
fn serial_hex(serial: &[u8]) -> String {
    match serial {
        [0, digits @ ..] if !digits.is_empty() => hex::encode(digits),
        digits => hex::encode(digits),
    }
}
