//! X.509-SVIDs: what a validator accepts, and what an issuer may sign. Knows no private key and
//! makes no certificate.

use std::time::Duration;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::aws_lc_rs as algs;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::bundle::Bundle;
pub use crate::certificate::{MAX_CERTIFICATE_BYTES, Part, X509Error};
use crate::certificate::{Read, since_epoch};
use crate::id::{SpiffeId, TrustDomain};

/// The most certificates that a chain may have, leaf included.
pub const MAX_CHAIN: usize = 16;

/// Named one by one, so that what is accepted does not depend on features of the library.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algs::ECDSA_P256_SHA256,
    algs::ECDSA_P256_SHA384,
    algs::ECDSA_P256_SHA512,
    algs::ECDSA_P384_SHA256,
    algs::ECDSA_P384_SHA384,
    algs::ECDSA_P384_SHA512,
    algs::ECDSA_P521_SHA256,
    algs::ECDSA_P521_SHA384,
    algs::ECDSA_P521_SHA512,
    algs::ED25519,
    algs::RSA_PKCS1_2048_8192_SHA256,
    algs::RSA_PKCS1_2048_8192_SHA384,
    algs::RSA_PKCS1_2048_8192_SHA512,
    algs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// A leaf whose chain ends in its trust domain's bundle; made only by [`verify_chain`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedX509 {
    id: SpiffeId,
    serial_hex: String,
    not_before: Timestamp,
    not_after: Timestamp,
    spki_der: Vec<u8>,
}

impl VerifiedX509 {
    /// Whose certificate it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The serial number in lower-case hex, whole bytes, without a sign byte.
    #[must_use]
    pub fn serial_hex(&self) -> &str {
        &self.serial_hex
    }

    /// When it started to be valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last second in which it is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The public key, as the DER of a SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }
}

/// The SPIFFE ID of a leaf, after the checks of X509-SVID 5.2 that need no bundle: one URI name
/// (C024) that is a SPIFFE ID (C046) with a path (C027), no authority (C032, C044), and a key
/// usage without keyCertSign and cRLSign (C045).
///
/// An absent key usage is refused: RFC 5280 4.2.1.3 reads it as every usage, and C037 asks every
/// SVID for one. Proves nothing about who issued it.
///
/// # Errors
/// [`X509Error`], naming the check.
pub fn leaf_id(der: &[u8]) -> Result<SpiffeId, X509Error> {
    checked_leaf(&Read::certificate(der)?)
}

/// Validates a chain, leaf first, against the bundle of the leaf's trust domain at `now`:
/// RFC 5280 path validation (C043) to an authority that is itself valid, the profile of
/// [`leaf_id`], keyCertSign on every intermediate, and extended key usages that, where present,
/// allow both ends of a TLS connection (C042), so that the answer does not depend on the end.
///
/// URI name constraints (C036) are not supported by the path builder: it refuses such chains.
///
/// # Errors
/// [`X509Error`], naming the check.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    now: Timestamp,
) -> Result<VerifiedX509, X509Error> {
    let (leaf, intermediates) = chain.split_first().ok_or(X509Error::EmptyChain)?;
    if chain.len() > MAX_CHAIN {
        return Err(X509Error::ChainTooLong { len: chain.len() });
    }
    let read = Read::certificate(leaf)?;
    let id = checked_leaf(&read)?;
    if !id.is_member_of(bundle.trust_domain()) {
        return Err(X509Error::OtherTrustDomain);
    }
    let anchors: Vec<_> = bundle
        .x509_authorities()
        .iter()
        .filter(|authority| authority.is_valid_at(now))
        .map(|authority| authority.anchor())
        .collect();
    if anchors.is_empty() {
        return Err(X509Error::NoAuthority);
    }
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let end_entity = EndEntityCert::try_from(leaf).map_err(path_error)?;
    let path = end_entity
        .verify_for_usage(
            ALGORITHMS,
            &anchors,
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            BothEnds,
            None,
            None,
        )
        .map_err(path_error)?;
    // The path builder is content with cA; RFC 5280 6.1.4 (n) also asks for keyCertSign.
    for intermediate in path.intermediate_certificates() {
        let intermediate = Read::certificate(&intermediate.der())?;
        if intermediate.usage.is_some_and(|u| !u.value.key_cert_sign()) {
            return Err(X509Error::UsageMissing {
                usage: "keyCertSign",
            });
        }
    }
    Ok(VerifiedX509 {
        id,
        serial_hex: serial_hex(&read.serial),
        not_before: read.not_before,
        not_after: read.not_after,
        spki_der: read.spki_der,
    })
}

/// Checks a leaf that is about to be handed out under `expected`: one URI name (C023), a path
/// (C026), the name critical when the subject is empty (C028), cA=FALSE written out (C034),
/// key usage present and critical (C037) with digitalSignature (C039) and without keyCertSign
/// and cRLSign (C040), extended key usage present (C041) for both ends (C042), and RFC 5280's
/// version, serial, validity and extensions.
///
/// # Errors
/// [`X509Error`], naming the check.
pub fn lint_leaf(der: &[u8], expected: &SpiffeId) -> Result<(), X509Error> {
    check_issued_leaf(&Read::certificate(der)?, expected)
}

/// [`lint_leaf`] for a TBSCertificate, before it is signed.
///
/// # Errors
/// As [`lint_leaf`].
pub fn lint_leaf_tbs(tbs: &[u8], expected: &SpiffeId) -> Result<(), X509Error> {
    check_issued_leaf(&Read::tbs(tbs)?, expected)
}

/// Checks the certificate of an authority of `domain`: it is an SVID (C019, C029) whose ID is
/// the domain's own, without a path (C020, C030, C031), with cA=TRUE (C033), key usage present
/// and critical (C037) with keyCertSign (C038), a subject and a key identifier to find it by.
///
/// # Errors
/// [`X509Error`], naming the check.
pub fn lint_authority(der: &[u8], domain: &TrustDomain) -> Result<(), X509Error> {
    check_issued_authority(&Read::certificate(der)?, domain)
}

/// [`lint_authority`] for a TBSCertificate, before it is signed.
///
/// # Errors
/// As [`lint_authority`].
pub fn lint_authority_tbs(tbs: &[u8], domain: &TrustDomain) -> Result<(), X509Error> {
    check_issued_authority(&Read::tbs(tbs)?, domain)
}

fn checked_leaf(read: &Read) -> Result<SpiffeId, X509Error> {
    if read.is_authority() {
        return Err(X509Error::IsAuthority);
    }
    check_leaf_usage(read)?;
    let id = SpiffeId::parse(read.uri()?)?;
    if !id.has_path() {
        return Err(X509Error::NoPath);
    }
    Ok(id)
}

fn check_leaf_usage(read: &Read) -> Result<(), X509Error> {
    let usage = read
        .usage
        .as_ref()
        .ok_or(X509Error::Missing(Part::KeyUsage))?;
    let usage = &usage.value;
    for (name, set) in [
        ("keyCertSign", usage.key_cert_sign()),
        ("cRLSign", usage.crl_sign()),
    ] {
        if set {
            return Err(X509Error::UsageForbidden { usage: name });
        }
    }
    if !usage.digital_signature() {
        return Err(X509Error::UsageMissing {
            usage: "digitalSignature",
        });
    }
    Ok(())
}

fn check_issued_leaf(read: &Read, expected: &SpiffeId) -> Result<(), X509Error> {
    check_issued(read, expected)?;
    if !expected.has_path() {
        return Err(X509Error::NoPath);
    }
    // Real clients ask for the extension itself, so that leaving cA to its default is not enough.
    let constraints = read
        .constraints
        .as_ref()
        .ok_or(X509Error::Missing(Part::BasicConstraints))?;
    if constraints.value.ca {
        return Err(X509Error::IsAuthority);
    }
    if constraints.value.path_len_constraint.is_some() {
        return Err(X509Error::Invalid(Part::BasicConstraints));
    }
    check_leaf_usage(read)?;
    let purposes = read
        .purposes
        .as_ref()
        .ok_or(X509Error::Missing(Part::ExtendedKeyUsage))?;
    if !purposes.contains(&ID_KP_SERVER_AUTH) || !purposes.contains(&ID_KP_CLIENT_AUTH) {
        return Err(X509Error::Purposes);
    }
    Ok(())
}

fn check_issued_authority(read: &Read, domain: &TrustDomain) -> Result<(), X509Error> {
    check_issued(read, &domain.id())?;
    let constraints = read
        .constraints
        .as_ref()
        .ok_or(X509Error::Missing(Part::BasicConstraints))?;
    if !constraints.value.ca {
        return Err(X509Error::NotAuthority);
    }
    if !constraints.critical {
        return Err(X509Error::NotCritical(Part::BasicConstraints));
    }
    if read
        .usage
        .as_ref()
        .is_some_and(|usage| !usage.value.key_cert_sign())
    {
        return Err(X509Error::UsageMissing {
            usage: "keyCertSign",
        });
    }
    if read.subject_is_empty {
        return Err(X509Error::Missing(Part::Subject));
    }
    if read.subject_key_id.as_ref().is_none_or(Vec::is_empty) {
        return Err(X509Error::Missing(Part::SubjectKeyIdentifier));
    }
    Ok(())
}

/// What every SVID has, leaf or authority.
fn check_issued(read: &Read, expected: &SpiffeId) -> Result<(), X509Error> {
    if !read.is_v3 {
        return Err(X509Error::Invalid(Part::Version));
    }
    // RFC 5280 4.1.2.2: positive, at most 20 octets.
    let positive = read.serial.first().is_some_and(|first| *first < 0x80)
        && read.serial.iter().any(|byte| *byte != 0);
    if !positive || read.serial.len() > 20 {
        return Err(X509Error::Invalid(Part::Serial));
    }
    if read.not_before >= read.not_after {
        return Err(X509Error::Invalid(Part::Validity));
    }
    if let Some(oid) = read.unknown_critical {
        return Err(X509Error::UnknownCritical { oid });
    }
    let uri = read.uri()?;
    SpiffeId::parse(uri)?;
    // Byte by byte: what we write has one spelling.
    if uri != expected.as_str() {
        return Err(X509Error::OtherId);
    }
    if read.subject_is_empty && read.names.as_ref().is_some_and(|names| !names.critical) {
        return Err(X509Error::NotCritical(Part::SubjectAltName));
    }
    match &read.usage {
        None => Err(X509Error::Missing(Part::KeyUsage)),
        Some(usage) if !usage.critical => Err(X509Error::NotCritical(Part::KeyUsage)),
        Some(_) => Ok(()),
    }
}

/// Extended key usage as an SVID's: absent, or for both ends.
struct BothEnds;

impl ExtendedKeyUsageValidator for BothEnds {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut any, mut server, mut client, mut present) = (false, false, false, Vec::new());
        for purpose in purposes {
            let arcs = purpose?.to_decoded_oid();
            any |= is(&arcs, ANY_EXTENDED_KEY_USAGE);
            server |= is(&arcs, ID_KP_SERVER_AUTH);
            client |= is(&arcs, ID_KP_CLIENT_AUTH);
            present.push(arcs);
        }
        if present.is_empty() || any || (server && client) {
            return Ok(());
        }
        let required = if server {
            webpki::KeyUsage::client_auth()
        } else {
            webpki::KeyUsage::server_auth()
        };
        Err(webpki::Error::RequiredEkuNotFoundContext(
            webpki::RequiredEkuNotFoundContext { required, present },
        ))
    }
}

fn is(arcs: &[usize], oid: ObjectIdentifier) -> bool {
    let mut want = oid.arcs();
    let same = arcs
        .iter()
        .all(|arc| want.next().and_then(|w| usize::try_from(w).ok()) == Some(*arc));
    same && want.next().is_none()
}

fn path_error(error: webpki::Error) -> X509Error {
    let at = |time: UnixTime| since_epoch(Duration::from_secs(time.as_secs()));
    match error {
        webpki::Error::CertExpired { not_after, .. } => X509Error::Expired {
            not_after: at(not_after),
        },
        webpki::Error::CertNotValidYet { not_before, .. } => X509Error::NotYetValid {
            not_before: at(not_before),
        },
        webpki::Error::UnknownIssuer => X509Error::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => X509Error::Signature,
        webpki::Error::RequiredEkuNotFoundContext(_) => X509Error::Purposes,
        other => X509Error::Path(other),
    }
}

/// Lower-case hex of whole bytes; DER's sign byte is not part of the number.
fn serial_hex(serial: &[u8]) -> String {
    use std::fmt::Write as _;
    let digits = match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    let mut out = String::with_capacity(digits.len() * 2);
    for byte in digits {
        // Writing to a String cannot fail.
        write!(out, "{byte:02x}").unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests;
