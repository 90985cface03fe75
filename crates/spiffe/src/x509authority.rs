//! One X.509 authority of a trust domain: the certificate and what path building needs of it.
//! Does not know which bundle it is in.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, Der, TrustAnchor};

use crate::certificate::{Read, X509Error};
use crate::key::{KeyType, PublicKey};

/// A certificate that vouches for the leaves of a trust domain, parsed once; cheap to clone.
#[derive(Clone)]
pub struct X509Authority(Arc<Parts>);

struct Parts {
    der: Vec<u8>,
    anchor: TrustAnchor<'static>,
    key: PublicKey,
    subject_key_id: Option<Vec<u8>>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl X509Authority {
    /// Reads a certificate with cA set; whoever puts it in a bundle trusts it, so its own
    /// signature is not looked at (C050 is a SHOULD).
    ///
    /// # Errors
    /// [`X509Error`]: malformed, [`X509Error::NotAuthority`] (a leaf published by mistake would
    /// become able to sign, C049), or a key outside [`KeyType`].
    pub fn from_der(der: &[u8]) -> Result<Self, X509Error> {
        let read = Read::certificate(der)?;
        if !read.is_authority() {
            return Err(X509Error::NotAuthority);
        }
        let key = PublicKey::from_spki(&read.spki_der)?;
        let anchor = webpki::anchor_from_trusted_cert(&CertificateDer::from(der))
            .map_err(X509Error::Path)?
            .to_owned();
        Ok(Self(Arc::new(Parts {
            der: der.to_vec(),
            anchor,
            key,
            subject_key_id: read.subject_key_id,
            not_before: read.not_before,
            not_after: read.not_after,
        })))
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The subject key identifier, if the certificate names one; SPIRE names authorities by it.
    #[must_use]
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.0.subject_key_id.as_deref()
    }

    /// The subject, as the DER of a Name without its outer tag.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.0.anchor.subject
    }

    /// The public key, as the DER of a SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        self.0.key.spki_der()
    }

    /// The kind of its key.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        self.0.key.kind()
    }

    /// When it starts to be valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.0.not_before
    }

    /// The last second in which it is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.0.not_after
    }

    /// Whether it is valid at `now`; an authority that is not vouches for nothing.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        let second = now.as_second();
        (self.0.not_before.as_second()..=self.0.not_after.as_second()).contains(&second)
    }

    pub(crate) fn anchor(&self) -> TrustAnchor<'_> {
        let anchor = &self.0.anchor;
        TrustAnchor {
            subject: Der::from_slice(&anchor.subject),
            subject_public_key_info: Der::from_slice(&anchor.subject_public_key_info),
            name_constraints: anchor
                .name_constraints
                .as_ref()
                .map(|der| Der::from_slice(der)),
        }
    }

    pub(crate) fn key(&self) -> &PublicKey {
        &self.0.key
    }
}

impl PartialEq for X509Authority {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for X509Authority {}

impl fmt::Debug for X509Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Authority")
            .field("key", &self.0.key)
            .field("not_before", &self.0.not_before)
            .field("not_after", &self.0.not_after)
            .finish_non_exhaustive()
    }
}
