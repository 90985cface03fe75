//! What a certificate says of itself, as far as SPIFFE asks, and what can be wrong with it.
//! Proves nothing: signatures and paths are `x509svid`'s.

use std::time::Duration;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::{
    ID_CE_AUTHORITY_KEY_IDENTIFIER, ID_CE_BASIC_CONSTRAINTS, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE,
    ID_CE_NAME_CONSTRAINTS, ID_CE_SUBJECT_ALT_NAME, ID_CE_SUBJECT_KEY_IDENTIFIER,
};
use der::{Decode, Encode};
use jiff::Timestamp;
use thiserror::Error;
use x509_cert::certificate::Version;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::time::Time;
use x509_cert::{Certificate, TbsCertificate};

use crate::id::IdError;
use crate::key::KeyError;

/// The largest certificate we read, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;

/// The part of a certificate that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Part {
    /// The subject alternative name.
    #[error("subject alternative name")]
    SubjectAltName,
    /// Basic constraints.
    #[error("basic constraints")]
    BasicConstraints,
    /// Key usage.
    #[error("key usage")]
    KeyUsage,
    /// Extended key usage.
    #[error("extended key usage")]
    ExtendedKeyUsage,
    /// The subject key identifier.
    #[error("subject key identifier")]
    SubjectKeyIdentifier,
    /// The subject.
    #[error("subject")]
    Subject,
    /// The serial number.
    #[error("serial number")]
    Serial,
    /// The validity period.
    #[error("validity")]
    Validity,
    /// The version, which is 3.
    #[error("version")]
    Version,
}

/// Why a certificate or a chain is not what SPIFFE asks for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum X509Error {
    /// Larger than [`MAX_CERTIFICATE_BYTES`].
    #[error("a certificate has at most {MAX_CERTIFICATE_BYTES} bytes, this one has {len}")]
    TooLong {
        /// Its size in bytes.
        len: usize,
    },
    /// Not a certificate in DER, or an extension in it does not parse.
    #[error("the certificate is not valid DER")]
    Malformed,
    /// An extension appears twice (RFC 5280 4.2).
    #[error("the certificate has extension {oid} twice")]
    Twice {
        /// Which one.
        oid: ObjectIdentifier,
    },
    /// A critical extension that we do not know (RFC 5280 4.2).
    #[error("the certificate has the unknown critical extension {oid}")]
    UnknownCritical {
        /// Which one.
        oid: ObjectIdentifier,
    },
    /// Something that must be there is not.
    #[error("the certificate has no {0}")]
    Missing(Part),
    /// An extension that must be critical is not.
    #[error("the certificate's {0} is not critical")]
    NotCritical(Part),
    /// A value that its place does not allow.
    #[error("the certificate's {0} is invalid")]
    Invalid(Part),
    /// None, or more than one URI name (C023, C024).
    #[error("an SVID has exactly one URI name, this certificate has {count}")]
    UriNames {
        /// How many.
        count: usize,
    },
    /// The URI name is not a SPIFFE ID (C046).
    #[error("the certificate's URI name is not a SPIFFE ID: {0}")]
    Id(#[from] IdError),
    /// A leaf with the ID of a trust domain (C026, C027).
    #[error("the SPIFFE ID of a leaf must have a path")]
    NoPath,
    /// A different SPIFFE ID from the one that should be there (C030, C031).
    #[error("the certificate's SPIFFE ID is not the expected one")]
    OtherId,
    /// A leaf of another trust domain than the bundle's.
    #[error("the certificate does not belong to the bundle's trust domain")]
    OtherTrustDomain,
    /// A leaf with cA set (C032, C034, C044).
    #[error("the certificate is an authority's, not a leaf")]
    IsAuthority,
    /// An authority without cA (C033).
    #[error("the certificate is not an authority's")]
    NotAuthority,
    /// Key usage lacks this bit (C038, C039).
    #[error("the certificate's key usage lacks {usage}")]
    UsageMissing {
        /// The bit's name in RFC 5280.
        usage: &'static str,
    },
    /// Key usage has this bit, which a leaf must not (C040, C045).
    #[error("the certificate's key usage has {usage}, which a leaf must not")]
    UsageForbidden {
        /// The bit's name in RFC 5280.
        usage: &'static str,
    },
    /// Extended key usage without both serverAuth and clientAuth (C042).
    #[error("the certificate's extended key usage is not for both ends of a TLS connection")]
    Purposes,
    /// A public key that bundles do not carry.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No certificate at all.
    #[error("the certificate chain is empty")]
    EmptyChain,
    /// More certificates than [`crate::x509svid::MAX_CHAIN`].
    #[error("the chain has {len} certificates, which is too many")]
    ChainTooLong {
        /// How many.
        len: usize,
    },
    /// The bundle has no X.509 authority, or none that is valid now (C053, C115).
    #[error("the trust bundle has no X.509 authority that is valid now")]
    NoAuthority,
    /// No path to one of the bundle's authorities.
    #[error("the certificate was not issued by an authority of the trust bundle")]
    UnknownIssuer,
    /// Before its time.
    #[error("the certificate is not valid before {not_before}")]
    NotYetValid {
        /// When it starts.
        not_before: Timestamp,
    },
    /// After its time.
    #[error("the certificate expired at {not_after}")]
    Expired {
        /// When it ended.
        not_after: Timestamp,
    },
    /// A signature in the chain does not verify.
    #[error("a signature in the certificate chain does not verify")]
    Signature,
    /// Another rule of RFC 5280 path validation (C043).
    #[error("the certificate chain is not valid: {0:?}")]
    Path(webpki::Error),
}

/// A certificate, read once.
pub(crate) struct Read {
    pub(crate) is_v3: bool,
    /// Big-endian two's complement, as in the certificate.
    pub(crate) serial: Vec<u8>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) subject_is_empty: bool,
    pub(crate) spki_der: Vec<u8>,
    pub(crate) names: Option<Marked<Vec<String>>>,
    pub(crate) constraints: Option<Marked<BasicConstraints>>,
    pub(crate) usage: Option<Marked<KeyUsage>>,
    pub(crate) purposes: Option<Vec<ObjectIdentifier>>,
    pub(crate) subject_key_id: Option<Vec<u8>>,
    pub(crate) unknown_critical: Option<ObjectIdentifier>,
}

/// An extension's value, and whether it is marked critical.
pub(crate) struct Marked<T> {
    pub(crate) critical: bool,
    pub(crate) value: T,
}

impl Read {
    pub(crate) fn certificate(der: &[u8]) -> Result<Self, X509Error> {
        check_len(der)?;
        let certificate = Certificate::from_der(der).map_err(|_| X509Error::Malformed)?;
        Self::parts(certificate.tbs_certificate())
    }

    pub(crate) fn tbs(der: &[u8]) -> Result<Self, X509Error> {
        check_len(der)?;
        let tbs = TbsCertificate::from_der(der).map_err(|_| X509Error::Malformed)?;
        Self::parts(&tbs)
    }

    fn parts(tbs: &TbsCertificate) -> Result<Self, X509Error> {
        let mut read = Self {
            is_v3: tbs.version() == Version::V3,
            serial: tbs.serial_number().as_bytes().to_vec(),
            not_before: timestamp(tbs.validity().not_before),
            not_after: timestamp(tbs.validity().not_after),
            subject_is_empty: tbs.subject().is_empty(),
            spki_der: tbs
                .subject_public_key_info()
                .to_der()
                .map_err(|_| X509Error::Malformed)?,
            names: None,
            constraints: None,
            usage: None,
            purposes: None,
            subject_key_id: None,
            unknown_critical: None,
        };
        let mut seen = Vec::new();
        for extension in tbs.extensions().map(Vec::as_slice).unwrap_or_default() {
            let oid = extension.extn_id;
            if seen.contains(&oid) {
                return Err(X509Error::Twice { oid });
            }
            seen.push(oid);
            read.take(extension)?;
        }
        Ok(read)
    }

    fn take(&mut self, extension: &Extension) -> Result<(), X509Error> {
        match extension.extn_id {
            ID_CE_SUBJECT_ALT_NAME => {
                let SubjectAltName(names) = value(extension)?;
                let uris = names.into_iter().filter_map(|name| match name {
                    GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
                    _ => None,
                });
                self.names = Some(Marked {
                    critical: extension.critical,
                    value: uris.collect(),
                });
            }
            ID_CE_BASIC_CONSTRAINTS => self.constraints = Some(marked(extension)?),
            ID_CE_KEY_USAGE => self.usage = Some(marked(extension)?),
            ID_CE_EXT_KEY_USAGE => {
                let ExtendedKeyUsage(purposes) = value(extension)?;
                self.purposes = Some(purposes);
            }
            ID_CE_SUBJECT_KEY_IDENTIFIER => {
                let SubjectKeyIdentifier(id) = value(extension)?;
                self.subject_key_id = Some(id.into_bytes().into());
            }
            ID_CE_AUTHORITY_KEY_IDENTIFIER | ID_CE_NAME_CONSTRAINTS => {}
            oid if extension.critical => self.unknown_critical = Some(oid),
            _ => {}
        }
        Ok(())
    }

    /// The single URI name (C023, C024); other kinds of names do not matter (C025).
    pub(crate) fn uri(&self) -> Result<&str, X509Error> {
        match self.names.as_ref().map(|names| names.value.as_slice()) {
            Some([uri]) => Ok(uri),
            names => Err(X509Error::UriNames {
                count: names.map_or(0, <[String]>::len),
            }),
        }
    }

    /// Whether cA is set; an absent extension means that it is not (RFC 5280 4.2.1.9).
    pub(crate) fn is_authority(&self) -> bool {
        self.constraints.as_ref().is_some_and(|c| c.value.ca)
    }
}

fn check_len(der: &[u8]) -> Result<(), X509Error> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(X509Error::TooLong { len: der.len() });
    }
    Ok(())
}

fn value<'a, T: Decode<'a>>(extension: &'a Extension) -> Result<T, X509Error> {
    T::from_der(extension.extn_value.as_bytes()).map_err(|_| X509Error::Malformed)
}

fn marked<'a, T: Decode<'a>>(extension: &'a Extension) -> Result<Marked<T>, X509Error> {
    Ok(Marked {
        critical: extension.critical,
        value: value(extension)?,
    })
}

fn timestamp(time: Time) -> Timestamp {
    since_epoch(time.to_unix_duration())
}

/// 99991231235959Z, which RFC 5280 4.1.2.5 uses for "never", is two days past jiff's end of time.
pub(crate) fn since_epoch(duration: Duration) -> Timestamp {
    i64::try_from(duration.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}
