//! A signing authority of the trust domain, as state: public parts, its life, and its sealed key.
//!
//! Keys belong to the trust domain, not to a process. This room never opens the seal.

use jiff::Timestamp;

/// What an authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl KeyKind {
    /// The stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }
}

/// Which keys we make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256; ES256.
    #[default]
    EcP256,
    /// ECDSA on P-384; ES384.
    EcP384,
    /// RSA with 2048 bits; RS256.
    Rsa2048,
}

impl KeyAlgorithm {
    /// The word of SPIRE's configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
        }
    }

    /// The algorithm by its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::EcP256, Self::EcP384, Self::Rsa2048]
            .into_iter()
            .find(|a| a.as_str() == word)
    }

    /// The JOSE name of its signatures (RFC 7518 section 3.1).
    #[must_use]
    pub fn jose(self) -> &'static str {
        match self {
            Self::EcP256 => "ES256",
            Self::EcP384 => "ES384",
            Self::Rsa2048 => "RS256",
        }
    }
}

/// An authority's name: the subject key id in hex for X.509, the `kid` for JWT.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// A key id: 1 to 128 of `A-Z a-z 0-9 - _`.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty()
            || text.len() > 128
            || !text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        {
            return Err("a key id is 1 to 128 of A-Z a-z 0-9 - _");
        }
        Ok(Self(text.to_owned()))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an authority stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthorityState {
    /// In the bundle, not yet signing.
    Prepared,
    /// The one that signs.
    Active,
    /// In the bundle until nothing it signed is alive.
    Old,
}

impl AuthorityState {
    /// The stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Old => "old",
        }
    }

    /// The state by its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Prepared, Self::Active, Self::Old]
            .into_iter()
            .find(|s| s.as_str() == word)
    }
}

/// A private key under the key-encryption key: nonce and ciphertext. Worthless without it, yet never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// One authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityKey {
    /// Its name.
    pub id: KeyId,
    /// What it signs.
    pub kind: KeyKind,
    /// With what.
    pub algorithm: KeyAlgorithm,
    /// Where it stands.
    pub state: AuthorityState,
    /// Self-signed certificate, DER; X.509 only.
    pub certificate: Option<Vec<u8>>,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// The private key, sealed.
    pub sealed: Sealed,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// When its bundle revision was committed: it may sign only when readers have had time to see it.
    pub published_at: Timestamp,
    /// Whether what it signed must be replaced now.
    pub tainted: bool,
}
