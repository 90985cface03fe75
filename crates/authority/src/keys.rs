//! Where private keys live: a seam. Sealed in the ledger under the key-encryption key today; a device may answer later,
//! which is why signing is async.

use std::{future::Future, pin::Pin, sync::Arc};

use attesta_model::{AuthorityKey, KeyAlgorithm, KeyId, KeyKind, Sealed};
use attesta_spiffe::TrustDomain;
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use zeroize::Zeroizing;

use crate::{Kek, draw::NoRandomness, kek::Unsealable};

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The seal does not open.
    #[error("authority {0}: {1}")]
    Sealed(KeyId, Unsealable),
    /// What was under the seal is no key of its algorithm.
    #[error("authority {0}: the opened key is malformed")]
    Malformed(KeyId),
    /// Randomness failed.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The library or device refused.
    #[error("the key could not be {0}")]
    Refused(&'static str),
}

/// A new key pair, its private half already out of reach.
#[derive(Debug)]
pub struct Generated {
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// The private key, sealed for its place.
    pub sealed: Sealed,
}

/// What a signature is awaited as.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, SignError>> + Send + 'a>>;

/// A key that signs. X.509 keys answer in DER, JWT keys in the fixed form of RFC 7518 section 3.4.
pub trait Signer: Send + Sync {
    /// Signs these bytes.
    fn sign<'a>(&'a self, bytes: &'a [u8]) -> Signing<'a>;
}

/// Makes and opens keys.
pub trait Keys: Send + Sync {
    /// A new key pair for an authority of this name. Slow for RSA: call it on a blocking thread.
    ///
    /// # Errors
    /// [`SignError`].
    fn generate(
        &self,
        trust_domain: &TrustDomain,
        kind: KeyKind,
        algorithm: KeyAlgorithm,
        id: &dyn Fn(&[u8]) -> KeyId,
    ) -> Result<Generated, SignError>;

    /// The signer of an authority.
    ///
    /// # Errors
    /// [`SignError`]: the wrong key-encryption key stops the start, and no new authority is made in its place.
    fn open(
        &self,
        trust_domain: &TrustDomain,
        authority: &AuthorityKey,
    ) -> Result<Arc<dyn Signer>, SignError>;
}

/// Keys sealed in the ledger.
pub struct SealedKeys(Kek);

impl SealedKeys {
    /// Under this key-encryption key.
    #[must_use]
    pub fn new(kek: Kek) -> Self {
        Self(kek)
    }
}

/// What a box is bound to: it cannot be moved to another authority, kind or trust domain.
fn context(
    trust_domain: &TrustDomain,
    kind: KeyKind,
    algorithm: KeyAlgorithm,
    id: &KeyId,
) -> Vec<u8> {
    format!(
        "attesta/authority/1\n{trust_domain}\n{}\n{}\n{id}",
        kind.as_str(),
        algorithm.as_str()
    )
    .into_bytes()
}

fn ecdsa(kind: KeyKind, algorithm: KeyAlgorithm) -> Option<&'static EcdsaSigningAlgorithm> {
    match (kind, algorithm) {
        (KeyKind::X509, KeyAlgorithm::EcP256) => Some(&ECDSA_P256_SHA256_ASN1_SIGNING),
        (KeyKind::X509, KeyAlgorithm::EcP384) => Some(&ECDSA_P384_SHA384_ASN1_SIGNING),
        (KeyKind::Jwt, KeyAlgorithm::EcP256) => Some(&ECDSA_P256_SHA256_FIXED_SIGNING),
        (KeyKind::Jwt, KeyAlgorithm::EcP384) => Some(&ECDSA_P384_SHA384_FIXED_SIGNING),
        (_, KeyAlgorithm::Rsa2048) => None,
    }
}

impl Keys for SealedKeys {
    fn generate(
        &self,
        trust_domain: &TrustDomain,
        kind: KeyKind,
        algorithm: KeyAlgorithm,
        id: &dyn Fn(&[u8]) -> KeyId,
    ) -> Result<Generated, SignError> {
        let (private, public) = match ecdsa(kind, algorithm) {
            Some(signing) => {
                let pair =
                    EcdsaKeyPair::generate(signing).map_err(|_| SignError::Refused("generated"))?;
                let private = pair
                    .to_pkcs8v1()
                    .map_err(|_| SignError::Refused("encoded"))?;
                (
                    Zeroizing::new(private.as_ref().to_vec()),
                    spki(pair.public_key())?,
                )
            }
            None => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048)
                    .map_err(|_| SignError::Refused("generated"))?;
                let private: Pkcs8V1Der<'_> =
                    pair.as_der().map_err(|_| SignError::Refused("encoded"))?;
                (
                    Zeroizing::new(private.as_ref().to_vec()),
                    spki(pair.public_key())?,
                )
            }
        };
        let sealed = self.0.seal(
            &context(trust_domain, kind, algorithm, &id(&public)),
            &private,
        )?;
        Ok(Generated {
            public_key: public,
            sealed: Sealed(sealed),
        })
    }

    fn open(
        &self,
        trust_domain: &TrustDomain,
        authority: &AuthorityKey,
    ) -> Result<Arc<dyn Signer>, SignError> {
        let context = context(
            trust_domain,
            authority.kind,
            authority.algorithm,
            &authority.id,
        );
        let private = self
            .0
            .open_sealed(&context, &authority.sealed.0)
            .map_err(|e| SignError::Sealed(authority.id.clone(), e))?;
        let malformed = || SignError::Malformed(authority.id.clone());
        let pair = match ecdsa(authority.kind, authority.algorithm) {
            Some(signing) => {
                let pair = EcdsaKeyPair::from_pkcs8(signing, &private).map_err(|_| malformed())?;
                (spki(pair.public_key())? == authority.public_key).then_some(Pair::Ecdsa(pair))
            }
            None => {
                let pair = RsaKeyPair::from_pkcs8(&private).map_err(|_| malformed())?;
                (spki(pair.public_key())? == authority.public_key).then_some(Pair::Rsa(pair))
            }
        };
        // The public half is what the bundle tells everyone: a pair that does not fit it would sign what nobody accepts.
        pair.map(|p| Arc::new(p) as Arc<dyn Signer>)
            .ok_or_else(malformed)
    }
}

fn spki<K: AsDer<PublicKeyX509Der<'static>>>(public: &K) -> Result<Vec<u8>, SignError> {
    public
        .as_der()
        .map(|d| d.as_ref().to_vec())
        .map_err(|_| SignError::Refused("encoded"))
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signer for Pair {
    fn sign<'a>(&'a self, bytes: &'a [u8]) -> Signing<'a> {
        let random = SystemRandom::new();
        let signature = match self {
            Self::Ecdsa(pair) => pair.sign(&random, bytes).map(|s| s.as_ref().to_vec()),
            Self::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut out)
                    .map(|()| out)
            }
        };
        Box::pin(std::future::ready(
            signature.map_err(|_| SignError::Refused("used")),
        ))
    }
}
