//! The bytes of a certificate that will be signed (RFC 5280 section 4.1), with the contents SPIRE gives its SVIDs.
//!
//! Only typed structures are encoded; the lints of `spiffe` read every result before it may be signed.

use attesta_model::KeyAlgorithm;
use attesta_spiffe::{SpiffeId, TrustDomain};
use const_oid::{
    ObjectIdentifier,
    db::{
        rfc4519::{CN, COUNTRY_NAME, ORGANIZATION_NAME, SERIAL_NUMBER},
        rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH},
        rfc5912::{ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, SHA_256_WITH_RSA_ENCRYPTION},
    },
};
use der::{
    Any, DateTime, Decode, Encode, Sequence,
    asn1::{
        BitString, GeneralizedTime, Ia5String, Null, OctetString, PrintableStringRef, SetOfVec,
        UtcTime, Utf8StringRef,
    },
};
use jiff::Timestamp;
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::{
    attr::AttributeTypeAndValue,
    certificate::Version,
    ext::{
        Extension, Extensions,
        pkix::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages,
            SubjectAltName, SubjectKeyIdentifier, name::GeneralName,
        },
    },
    name::{RdnSequence, RelativeDistinguishedName},
    serial_number::SerialNumber,
    time::{Time, Validity},
};

/// What a certificate says.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) serial: [u8; 16],
    pub(crate) issuer: Vec<u8>,
    pub(crate) issuer_key_id: Option<[u8; 20]>,
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) spki: &'a [u8],
    pub(crate) key_id: [u8; 20],
    pub(crate) subject: Vec<u8>,
    pub(crate) uri: String,
    pub(crate) dns_names: &'a [String],
    pub(crate) authority: bool,
}

/// TBSCertificate (RFC 5280 section 4.1.2); names are encoded before.
#[derive(Sequence)]
struct Tbs {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: Version,
    serial: SerialNumber,
    signature: AlgorithmIdentifierOwned,
    issuer: Any,
    validity: Validity,
    subject: Any,
    spki: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Extensions,
}

/// Certificate (RFC 5280 section 4.1): what was signed, by what, and the signature.
#[derive(Sequence)]
struct Certificate {
    tbs: Any,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// The X.509 name of signatures with this key.
fn algorithm_identifier(algorithm: KeyAlgorithm) -> der::Result<AlgorithmIdentifierOwned> {
    let (oid, parameters) = match algorithm {
        KeyAlgorithm::EcP256 => (ECDSA_WITH_SHA_256, None),
        KeyAlgorithm::EcP384 => (ECDSA_WITH_SHA_384, None),
        KeyAlgorithm::Rsa2048 => (SHA_256_WITH_RSA_ENCRYPTION, Some(Any::encode_from(&Null)?)),
    };
    Ok(AlgorithmIdentifierOwned { oid, parameters })
}

/// `C=US, O=SPIRE`, and the first DNS name as common name (SPIRE's subject).
pub(crate) fn leaf_subject(common_name: Option<&str>) -> der::Result<Vec<u8>> {
    let mut parts = vec![
        (COUNTRY_NAME, printable("US")?),
        (ORGANIZATION_NAME, printable("SPIRE")?),
    ];
    if let Some(name) = common_name {
        // X.520's upper bound; a longer name stays in the alternative names, where it counts.
        if name.len() <= 64 {
            parts.push((CN, Any::encode_from(&Utf8StringRef::new(name)?)?));
        }
    }
    name(parts)
}

/// `C=US, O=SPIFFE` and the serial, so that two roots differ by name and verifiers need not try both.
pub(crate) fn authority_subject(serial: &[u8; 16]) -> der::Result<Vec<u8>> {
    name(vec![
        (COUNTRY_NAME, printable("US")?),
        (ORGANIZATION_NAME, printable("SPIFFE")?),
        (
            SERIAL_NUMBER,
            printable(&u128::from_be_bytes(*serial).to_string())?,
        ),
    ])
}

fn printable(text: &str) -> der::Result<Any> {
    Any::encode_from(&PrintableStringRef::new(text)?)
}

fn name(parts: Vec<(ObjectIdentifier, Any)>) -> der::Result<Vec<u8>> {
    let mut rdns = Vec::with_capacity(parts.len());
    for (oid, value) in parts {
        rdns.push(RelativeDistinguishedName::from(SetOfVec::try_from([
            AttributeTypeAndValue { oid, value },
        ])?));
    }
    RdnSequence::from(rdns).to_der()
}

/// The subject of a certificate, encoded, for use as an issuer.
pub(crate) fn subject_of(certificate: &[u8]) -> der::Result<Vec<u8>> {
    x509_cert::Certificate::from_der(certificate)?
        .tbs_certificate()
        .subject()
        .to_der()
}

/// The bytes that will be signed.
pub(crate) fn encode(contents: &Contents<'_>) -> der::Result<Vec<u8>> {
    let mut extensions = Vec::with_capacity(6);
    let usage = if contents.authority {
        KeyUsages::KeyCertSign | KeyUsages::CRLSign
    } else {
        KeyUsages::DigitalSignature | KeyUsages::KeyEncipherment | KeyUsages::KeyAgreement
    };
    extensions.push(extension(&KeyUsage(usage), true)?);
    if !contents.authority {
        extensions.push(extension(
            &ExtendedKeyUsage(vec![ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH]),
            false,
        )?);
    }
    extensions.push(extension(
        &BasicConstraints {
            ca: contents.authority,
            path_len_constraint: None,
        },
        true,
    )?);
    extensions.push(extension(
        &SubjectKeyIdentifier(OctetString::new(contents.key_id)?),
        false,
    )?);
    if let Some(id) = contents.issuer_key_id {
        let aki = AuthorityKeyIdentifier {
            key_identifier: Some(OctetString::new(id)?),
            authority_cert_issuer: None,
            authority_cert_serial_number: None,
        };
        extensions.push(extension(&aki, false)?);
    }
    let mut names = vec![GeneralName::UniformResourceIdentifier(Ia5String::new(
        &contents.uri,
    )?)];
    for dns in contents.dns_names {
        names.push(GeneralName::DnsName(Ia5String::new(dns)?));
    }
    // C028: critical only with an empty subject, which ours never have.
    extensions.push(extension(&SubjectAltName(names), false)?);
    let tbs = Tbs {
        version: Version::V3,
        serial: SerialNumber::new(&contents.serial)?,
        signature: algorithm_identifier(contents.algorithm)?,
        issuer: Any::from_der(&contents.issuer)?,
        validity: Validity::new(time(contents.not_before)?, time(contents.not_after)?),
        subject: Any::from_der(&contents.subject)?,
        spki: SubjectPublicKeyInfoOwned::from_der(contents.spki)?,
        extensions,
    };
    tbs.to_der()
}

fn extension<T: Encode + const_oid::AssociatedOid>(
    value: &T,
    critical: bool,
) -> der::Result<Extension> {
    Ok(Extension {
        extn_id: T::OID,
        critical,
        extn_value: OctetString::new(value.to_der()?)?,
    })
}

/// UTCTime until 2049, GeneralizedTime after (RFC 5280 section 4.1.2.5).
fn time(at: Timestamp) -> der::Result<Time> {
    let since_epoch = std::time::Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    let at = DateTime::from_unix_duration(since_epoch)?;
    Ok(match UtcTime::from_date_time(at) {
        Ok(utc) => Time::UtcTime(utc),
        Err(_) => Time::GeneralTime(GeneralizedTime::from_date_time(at)),
    })
}

/// The certificate: what was signed and its signature.
pub(crate) fn assemble(
    tbs: &[u8],
    algorithm: KeyAlgorithm,
    signature: &[u8],
) -> der::Result<Vec<u8>> {
    Certificate {
        tbs: Any::from_der(tbs)?,
        algorithm: algorithm_identifier(algorithm)?,
        signature: BitString::from_bytes(signature)?,
    }
    .to_der()
}

/// The URI of an authority's own certificate: its trust domain (C030, C031).
pub(crate) fn authority_uri(trust_domain: &TrustDomain) -> String {
    trust_domain.id().to_string()
}

/// The URI of an SVID.
pub(crate) fn leaf_uri(id: &SpiffeId) -> String {
    id.as_str().to_owned()
}
