//! The node's certificate: whether it chains to the CA bundle, what it says, which key it names.
//!
//! Knows no files and no wire.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use attesta_model::{Fact, Facts};
use attesta_spiffe::TrustDomain;
use aws_lc_rs::{
    digest,
    signature::{
        self, EcdsaVerificationAlgorithm, RsaParameters, RsaPssSaltLength, UnparsedPublicKey,
    },
};
use const_oid::db::{rfc4519, rfc5912};
use der::{Decode, Encode, Sequence, asn1::UintRef};
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};
use x509_cert::{
    Certificate,
    ext::pkix::{
        KeyUsage, SubjectAltName,
        name::{DirectoryString, GeneralName},
    },
};

use super::{NAME, NONCE_BYTES};
use crate::AttestError;

/// Longest part of an ECDSA signature, in bytes: P-521's.
const SCALAR_BYTES: usize = 66;
/// How Go signs when it is not told the length of the salt: as long as fits.
static PSS_LONGEST_SALT: RsaParameters =
    signature::RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);

/// The CA certificates that node certificates chain to.
pub(super) struct Authorities(Vec<Authority>, Vec<TrustAnchor<'static>>);

struct Authority {
    anchor: TrustAnchor<'static>,
    fingerprint: String,
}

impl Authorities {
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, AttestError> {
        let fail = |why: String| AttestError::Setting {
            attestor: NAME,
            setting: "ca_bundles",
            why,
            hint: "give the certificates of the CA that signs node certificates".into(),
        };
        let mut all = Vec::new();
        for certificate in certificates {
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|e| fail(format!("a certificate cannot be a CA's: {e}")))?;
            all.push(Authority {
                anchor: anchor.to_owned(),
                fingerprint: fingerprint(&certificate),
            });
        }
        if all.is_empty() {
            return Err(fail("there is no certificate".to_owned()));
        }
        let anchors = all.iter().map(|a| a.anchor.clone()).collect();
        Ok(Self(all, anchors))
    }

    /// Verifies the chain at `now`, and gives the fingerprints of every certificate above the
    /// node's, over all chains that hold, as SPIRE does.
    ///
    /// Any extended key usage will do and no name is looked for: node certificates are made for
    /// other purposes, and often have neither.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<BTreeSet<String>, AttestError> {
        let leaf = EndEntityCert::try_from(leaf).map_err(|e| {
            AttestError::malformed(NAME, format!("the certificate cannot be read: {e}"))
        })?;
        let seconds = u64::try_from(now.as_second())
            .map_err(|_| AttestError::refused(NAME, "the clock is before 1970"))?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let fingerprints = RefCell::new(BTreeSet::new());
        // Called for each chain that was verified; the error makes it look for the next one.
        let each = |path: &VerifiedPath<'_>| {
            let mut all = fingerprints.borrow_mut();
            all.extend(
                path.intermediate_certificates()
                    .map(|c| fingerprint(&c.der())),
            );
            all.extend(
                self.0
                    .iter()
                    .filter(|a| a.anchor == *path.anchor())
                    .map(|a| a.fingerprint.clone()),
            );
            Err(webpki::Error::UnknownIssuer)
        };
        let verified = leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.1,
            intermediates,
            time,
            AnyUse,
            None,
            Some(&each),
        );
        let failure = verified.err();
        let fingerprints = fingerprints.into_inner();
        // INVARIANT: `each` ran only for verified chains, and a chain has at least its CA.
        if !fingerprints.is_empty() {
            return Ok(fingerprints);
        }
        Err(AttestError::refused(
            NAME,
            match failure {
                Some(webpki::Error::UnknownIssuer) | None => {
                    "the certificate does not chain to the configured CA bundle".to_owned()
                }
                Some(webpki::Error::CertExpired { not_after, .. }) => {
                    format!("a certificate of the chain expired at {}", at(not_after))
                }
                Some(webpki::Error::CertNotValidYet { not_before, .. }) => format!(
                    "a certificate of the chain is not valid before {}",
                    at(not_before)
                ),
                Some(e) => format!("the certificate's chain does not hold: {e}"),
            },
        ))
    }
}

fn at(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds} s"), |t| t.to_string())
}

/// Accepts every extended key usage, and none.
struct AnyUse;

impl ExtendedKeyUsageValidator for AnyUse {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// The SHA-1 of a certificate in hexadecimal: a name in SPIRE's selectors, no proof.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex::encode(digest::digest(
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        certificate,
    ))
}

/// What a verified certificate says.
pub(super) struct Leaf {
    pub(super) suffix: String,
    pub(super) facts: Facts,
    pub(super) possession: Possession,
}

impl Leaf {
    /// Reads a certificate whose chain was verified.
    pub(super) fn read(
        der: &CertificateDer<'_>,
        above: &BTreeSet<String>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, AttestError> {
        let certificate = parse(der)?;
        let tbs = certificate.tbs_certificate();
        let usage = tbs.get_extension::<KeyUsage>().map_err(|_| {
            AttestError::malformed(NAME, "the certificate's key usage cannot be read")
        })?;
        if !usage.is_some_and(|(_, usage)| usage.digital_signature()) {
            return Err(AttestError::refused(
                NAME,
                "the certificate is not intended for digital signatures (key usage)",
            ));
        }
        let mut facts = Vec::new();
        // What is no fact (a control character in a name, say) is left out: entries that ask for
        // it do not match.
        let mut add =
            |key: &str, values: Vec<String>| facts.extend(Fact::new(NAME, key, values).ok());
        let mut names = tbs
            .subject()
            .iter()
            .filter(|part| part.oid == rfc4519::COMMON_NAME);
        // With two nobody can say which one is meant.
        if let (Some(name), None) = (names.next(), names.next())
            && let Ok(name) = DirectoryString::try_from(&name.value)
        {
            add("subject:cn", vec![name.value().into_owned()]);
        }
        add("ca:fingerprint", above.iter().cloned().collect());
        add("serialnumber", vec![serial(tbs.serial_number().as_bytes())]);
        let names = tbs.get_extension::<SubjectAltName>().map_err(|_| {
            AttestError::malformed(NAME, "the certificate's alternative names cannot be read")
        })?;
        let mut keyed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in names.iter().flat_map(|(_, names)| names.0.iter()) {
            if let GeneralName::UniformResourceIdentifier(uri) = name
                && let Some((key, value)) = named_fact(uri.as_str(), trust_domain)
            {
                keyed
                    .entry(format!("san:{key}"))
                    .or_default()
                    .push(value.to_owned());
            }
        }
        for (key, values) in keyed {
            add(&key, values);
        }
        let facts = Facts::new(facts).map_err(|source| AttestError::Facts {
            attestor: NAME,
            source,
        })?;
        Ok(Self {
            suffix: fingerprint(der),
            facts,
            possession: Possession::of(&certificate)?,
        })
    }
}

/// SPIRE's form: whole bytes, lower case.
fn serial(bytes: &[u8]) -> String {
    let first = bytes
        .iter()
        .position(|b| *b != 0)
        .unwrap_or(bytes.len().saturating_sub(1));
    hex::encode(bytes.get(first..).unwrap_or_default())
}

/// `x509pop://<trust domain>/<key>/<value>`; the value may have slashes. A URI with escapes, a
/// query or a fragment, or a key that could be taken for another key and the start of its value,
/// says nothing.
fn named_fact<'a>(uri: &'a str, trust_domain: &TrustDomain) -> Option<(&'a str, &'a str)> {
    let path = uri
        .strip_prefix("x509pop://")?
        .strip_prefix(trust_domain.as_str())?
        .strip_prefix('/')?;
    if path.contains(['%', '?', '#']) {
        return None;
    }
    let (key, value) = path.trim_matches('/').split_once('/')?;
    (!key.contains(':')).then_some((key, value))
}

/// A key whose possession can be proven.
pub(super) enum Possession {
    /// RSA of 2048 to 8192 bits: the `RSAPublicKey`.
    Rsa(Vec<u8>),
    /// ECDSA: the curve with SHA-256, and the point.
    Ecdsa(&'static EcdsaVerificationAlgorithm, Vec<u8>),
}

/// An ECDSA signature as X.509 has it.
#[derive(Sequence)]
struct EcdsaDer<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

impl Possession {
    fn of(certificate: &Certificate) -> Result<Self, AttestError> {
        let key = certificate.tbs_certificate().subject_public_key_info();
        let unknown = || {
            AttestError::refused(
                NAME,
                "the certificate's key is neither RSA nor ECDSA on P-256, P-384 or P-521",
            )
        };
        let bits = key
            .subject_public_key
            .as_bytes()
            .ok_or_else(unknown)?
            .to_vec();
        match key.algorithm.oid {
            rfc5912::RSA_ENCRYPTION => Ok(Self::Rsa(bits)),
            rfc5912::ID_EC_PUBLIC_KEY => {
                let curve = key
                    .algorithm
                    .parameters
                    .as_ref()
                    .and_then(|p| p.decode_as::<der::asn1::ObjectIdentifier>().ok());
                let algorithm = match curve.ok_or_else(unknown)? {
                    rfc5912::SECP_256_R_1 => &signature::ECDSA_P256_SHA256_ASN1,
                    rfc5912::SECP_384_R_1 => &signature::ECDSA_P384_SHA256_ASN1,
                    rfc5912::SECP_521_R_1 => &signature::ECDSA_P521_SHA256_ASN1,
                    _ => return Err(unknown()),
                };
                Ok(Self::Ecdsa(algorithm, bits))
            }
            _ => Err(unknown()),
        }
    }

    /// PSS with SHA-256, its salt as long as the digest or as long as fits.
    pub(super) fn check_rsa(
        &self,
        signed: &[u8; 2 * NONCE_BYTES],
        signature: &[u8],
    ) -> Result<(), AttestError> {
        let Self::Rsa(key) = self else {
            return Err(wrong_signature());
        };
        let digest_long = UnparsedPublicKey::new(&signature::RSA_PSS_2048_8192_SHA256, key)
            .verify(signed, signature);
        digest_long
            .or_else(|_| UnparsedPublicKey::new(&PSS_LONGEST_SALT, key).verify(signed, signature))
            .map_err(|_| wrong_signature())
    }

    pub(super) fn check_ecdsa(
        &self,
        signed: &[u8; 2 * NONCE_BYTES],
        r: &[u8],
        s: &[u8],
    ) -> Result<(), AttestError> {
        let Self::Ecdsa(algorithm, point) = self else {
            return Err(wrong_signature());
        };
        let scalar = |bytes| {
            UintRef::new(bytes)
                .ok()
                .filter(|n| n.as_bytes().len() <= SCALAR_BYTES)
        };
        let (Some(r), Some(s)) = (scalar(r), scalar(s)) else {
            return Err(AttestError::malformed(
                NAME,
                "the answer's r or s is too long",
            ));
        };
        let der = EcdsaDer { r, s }.to_der().map_err(|_| wrong_signature())?;
        UnparsedPublicKey::new(*algorithm, point)
            .verify(signed, &der)
            .map_err(|_| wrong_signature())
    }
}

fn wrong_signature() -> AttestError {
    AttestError::refused(
        NAME,
        "the answer's signature is not by the certificate's key over this challenge",
    )
}

fn parse(der: &CertificateDer<'_>) -> Result<Certificate, AttestError> {
    Certificate::from_der(der)
        .map_err(|_| AttestError::malformed(NAME, "the certificate cannot be read"))
}

/// The bits of a certificate's public key.
pub(super) fn public_key(der: &CertificateDer<'_>) -> Result<Vec<u8>, AttestError> {
    let certificate = parse(der)?;
    Ok(certificate
        .tbs_certificate()
        .subject_public_key_info()
        .subject_public_key
        .raw_bytes()
        .to_vec())
}

/// The `r` and `s` of a signature that another tool made.
#[cfg(test)]
pub(super) fn scalars(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let EcdsaDer { r, s } = EcdsaDer::from_der(der).unwrap();
    (r.as_bytes().to_vec(), s.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_whole_bytes() {
        for (bytes, text) in [
            (&[0x0a, 0x1b][..], "0a1b"),
            (&[0, 0xff], "ff"),
            (&[0], "00"),
            (&[0, 0], "00"),
            (&[], ""),
        ] {
            assert_eq!(serial(bytes), text);
        }
    }

    #[test]
    fn names_that_say_something() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        for (uri, expect) in [
            ("x509pop://example.org/cluster/a", Some(("cluster", "a"))),
            (
                "x509pop://example.org/cluster/a/b/",
                Some(("cluster", "a/b")),
            ),
            ("x509pop://example.org/cluster", None),
            ("x509pop://example.org/", None),
            ("x509pop://example.org.evil/cluster/a", None),
            ("x509pop://other.org/cluster/a", None),
            ("spiffe://example.org/cluster/a", None),
            ("x509pop://example.org/clu%73ter/a", None),
            ("x509pop://example.org/cluster/a?b", None),
            ("x509pop://example.org/a:b/c", None),
        ] {
            assert_eq!(named_fact(uri, &trust_domain), expect, "{uri}");
        }
    }
}
