//! What this end shows: a certificate chain and the key to its leaf.
//!
//! Must not know where they come from or when they are replaced.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// An X.509-SVID with its key, ready for handshakes. The key cannot be read back and is in no `Debug`.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
}

/// Why a chain and a key are no [`Identity`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// The chain is empty.
    #[error("the certificate chain is empty")]
    NoCertificate,
    /// The key is not PKCS#8 or of no kind that TLS signs with (ECDSA P-256, P-384, P-521, RSA, Ed25519).
    #[error("the private key is not a PKCS#8 key for TLS")]
    Key,
    /// The key is not the leaf's, or the leaf is no certificate.
    #[error("the private key does not belong to the certificate: {0}")]
    Mismatch(rustls::Error),
}

impl Identity {
    /// From a chain, leaf first, and the leaf's key (unencrypted PKCS#8, DER). The key is only borrowed: whoever holds
    /// the bytes wipes them.
    ///
    /// # Errors
    /// When one of both is unusable, or they do not belong together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        pkcs8: impl AsRef<[u8]>,
    ) -> Result<Self, IdentityError> {
        if chain.is_empty() {
            return Err(IdentityError::NoCertificate);
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_ref()));
        let key = any_supported_type(&key).map_err(|_| IdentityError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(IdentityError::Mismatch)?;
        Ok(Self {
            certified: Arc::new(certified),
        })
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} certificates)", self.certified.cert.len())
    }
}
