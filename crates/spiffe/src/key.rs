//! Public keys as trust bundles carry them: a SubjectPublicKeyInfo on one side, the members of a
//! JWK on the other. Knows no purpose a key may have, and never sees a private one.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5912::{
    ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1, SECP_521_R_1,
};
use const_oid::db::rfc8410::ID_ED_25519;
use der::asn1::{AnyRef, BitStringRef, UintRef};
use der::{Decode, Encode, Sequence};
use serde_json::{Map, Value};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use thiserror::Error;

/// The smallest RSA modulus, in bits (RFC 7518 3.3).
pub const MIN_RSA_BITS: usize = 2048;

/// The largest RSA modulus, in bits: what the crypto library verifies with.
pub const MAX_RSA_BITS: usize = 8192;

/// The kinds of keys that bundles may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// NIST P-256.
    EcP256,
    /// NIST P-384.
    EcP384,
    /// NIST P-521.
    EcP521,
    /// RSA, from [`MIN_RSA_BITS`] to [`MAX_RSA_BITS`].
    Rsa,
    /// Ed25519; signs certificates only, no JWT-SVID (C057).
    Ed25519,
}

impl KeyType {
    const EC: [Self; 3] = [Self::EcP256, Self::EcP384, Self::EcP521];

    /// The curve's name in a JWK (RFC 7518 6.2.1.1, RFC 8037 2), its OID, and the bytes of one
    /// coordinate.
    const fn curve(self) -> Option<(&'static str, ObjectIdentifier, usize)> {
        match self {
            Self::EcP256 => Some(("P-256", SECP_256_R_1, 32)),
            Self::EcP384 => Some(("P-384", SECP_384_R_1, 48)),
            Self::EcP521 => Some(("P-521", SECP_521_R_1, 66)),
            Self::Ed25519 => Some(("Ed25519", ID_ED_25519, 32)),
            Self::Rsa => None,
        }
    }
}

/// Why bytes or JWK members are not a public key that we take.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not a SubjectPublicKeyInfo in DER.
    #[error("the public key is not a SubjectPublicKeyInfo in DER")]
    Malformed,
    /// An algorithm or curve outside [`KeyType`].
    #[error("the public key's algorithm is none of P-256, P-384, P-521, RSA, Ed25519")]
    Unsupported,
    /// A JWK without this member, or with a value that the key type does not allow there.
    #[error("the JWK's member {member} is missing or malformed")]
    Member {
        /// The member's name.
        member: &'static str,
    },
    /// The point is not on its curve, or the numbers are no RSA key.
    #[error("the public key's numbers are not a valid key")]
    Invalid,
    /// An RSA modulus outside the allowed sizes.
    #[error("an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, this one has {bits}")]
    RsaBits {
        /// The size of the modulus in bits.
        bits: usize,
    },
}

/// A checked public key.
#[derive(Clone)]
pub(crate) struct PublicKey(Arc<Parts>);

struct Parts {
    kind: KeyType,
    spki: Vec<u8>,
    numbers: Numbers,
    /// Parsed once; for RSA it serves only as the proof that the numbers are a key, since its
    /// algorithm is chosen by each token.
    parsed: ParsedPublicKey,
}

enum Numbers {
    Point { x: Vec<u8>, y: Option<Vec<u8>> },
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

#[derive(Sequence)]
struct RsaPublicKey<'a> {
    n: UintRef<'a>,
    e: UintRef<'a>,
}

/// The members of a JWK that hold the key, in base64url.
pub(crate) struct JwkNumbers {
    pub(crate) kty: &'static str,
    pub(crate) crv: Option<&'static str>,
    pub(crate) x: Option<String>,
    pub(crate) y: Option<String>,
    pub(crate) n: Option<String>,
    pub(crate) e: Option<String>,
}

impl PublicKey {
    pub(crate) fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| KeyError::Malformed)?;
        let bits = info
            .subject_public_key
            .as_bytes()
            .ok_or(KeyError::Malformed)?;
        let algorithm = &info.algorithm;
        let (kind, numbers) = if algorithm.oid == ID_EC_PUBLIC_KEY {
            let curve = algorithm
                .parameters_oid()
                .map_err(|_| KeyError::Unsupported)?;
            let kind = KeyType::EC
                .into_iter()
                .find(|kind| kind.curve().is_some_and(|(_, oid, _)| oid == curve))
                .ok_or(KeyError::Unsupported)?;
            (kind, uncompressed(kind, bits)?)
        } else if algorithm.oid == RSA_ENCRYPTION {
            if algorithm.parameters.is_some_and(|p| !p.is_null()) {
                return Err(KeyError::Malformed);
            }
            (KeyType::Rsa, rsa(bits)?)
        } else if algorithm.oid == ID_ED_25519 {
            if bits.len() != 32 || algorithm.parameters.is_some() {
                return Err(KeyError::Malformed);
            }
            let x = bits.to_vec();
            (KeyType::Ed25519, Numbers::Point { x, y: None })
        } else {
            return Err(KeyError::Unsupported);
        };
        let prover: &'static dyn VerificationAlgorithm = match kind {
            KeyType::EcP256 => &ECDSA_P256_SHA256_FIXED,
            KeyType::EcP384 => &ECDSA_P384_SHA384_FIXED,
            KeyType::EcP521 => &ECDSA_P521_SHA512_FIXED,
            KeyType::Rsa => &RSA_PKCS1_2048_8192_SHA256,
            KeyType::Ed25519 => &ED25519,
        };
        // The raw bits for points, since the library reads those in every version.
        let key_bytes = if kind == KeyType::Rsa { der } else { bits };
        let parsed = ParsedPublicKey::new(prover, key_bytes).map_err(|_| KeyError::Invalid)?;
        Ok(Self(Arc::new(Parts {
            kind,
            spki: der.to_vec(),
            numbers,
            parsed,
        })))
    }

    /// Reads `kty`, and `crv`, `x`, `y` or `n`, `e`. `None`: a `kty` or curve that we do not
    /// know, which RFC 7517 5 and the bundle standard (C114) tell us to pass over.
    pub(crate) fn from_jwk(members: &Map<String, Value>) -> Result<Option<Self>, KeyError> {
        let der = match members.get("kty").and_then(Value::as_str) {
            Some("EC") => {
                let crv = string(members, "crv")?;
                let Some((oid, size)) = KeyType::EC
                    .into_iter()
                    .filter_map(KeyType::curve)
                    .find_map(|(name, oid, size)| (name == crv).then_some((oid, size)))
                else {
                    return Ok(None);
                };
                let mut point = vec![4];
                for member in ["x", "y"] {
                    let number = number(members, member)?;
                    if number.len() != size {
                        return Err(KeyError::Member { member });
                    }
                    point.extend_from_slice(&number);
                }
                spki_der(ID_EC_PUBLIC_KEY, AnyRef::from(&oid), &point)?
            }
            Some("RSA") => {
                let (n, e) = (number(members, "n")?, number(members, "e")?);
                for (member, bytes) in [("n", &n), ("e", &e)] {
                    // RFC 7518 6.3.1.1: the fewest octets that hold the value.
                    if bytes.first().is_none_or(|first| *first == 0) {
                        return Err(KeyError::Member { member });
                    }
                }
                let key = RsaPublicKey {
                    n: UintRef::new(&n).map_err(|_| KeyError::Invalid)?,
                    e: UintRef::new(&e).map_err(|_| KeyError::Invalid)?,
                };
                let bits = key.to_der().map_err(|_| KeyError::Invalid)?;
                spki_der(RSA_ENCRYPTION, AnyRef::NULL, &bits)?
            }
            _ => return Ok(None),
        };
        Self::from_spki(&der).map(Some)
    }

    pub(crate) fn kind(&self) -> KeyType {
        self.0.kind
    }

    pub(crate) fn spki_der(&self) -> &[u8] {
        &self.0.spki
    }

    pub(crate) fn jwk_numbers(&self) -> JwkNumbers {
        let text = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
        let crv = self.0.kind.curve().map(|(name, _, _)| name);
        match &self.0.numbers {
            Numbers::Point { x, y } => JwkNumbers {
                kty: if y.is_some() { "EC" } else { "OKP" },
                crv,
                x: text(x),
                y: y.as_deref().and_then(text),
                n: None,
                e: None,
            },
            Numbers::Rsa { n, e } => JwkNumbers {
                kty: "RSA",
                crv: None,
                x: None,
                y: None,
                n: text(n),
                e: text(e),
            },
        }
    }

    /// Whether `signature` over `message` is this key's, under an algorithm of its own kind.
    pub(crate) fn verifies(
        &self,
        algorithm: &'static dyn VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        match self.0.kind {
            KeyType::Rsa => signature::UnparsedPublicKey::new(algorithm, &self.0.spki)
                .verify(message, signature)
                .is_ok(),
            // A curve has one algorithm, with which the key was parsed.
            _ => self.0.parsed.verify_sig(message, signature).is_ok(),
        }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.spki == other.0.spki
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?})", self.0.kind)
    }
}

fn uncompressed(kind: KeyType, bits: &[u8]) -> Result<Numbers, KeyError> {
    let (_, _, size) = kind.curve().ok_or(KeyError::Unsupported)?;
    let Some((4, point)) = bits.split_first() else {
        return Err(KeyError::Malformed);
    };
    match point.split_at_checked(size) {
        Some((x, y)) if y.len() == size => Ok(Numbers::Point {
            x: x.to_vec(),
            y: Some(y.to_vec()),
        }),
        _ => Err(KeyError::Malformed),
    }
}

fn rsa(bits: &[u8]) -> Result<Numbers, KeyError> {
    let key = RsaPublicKey::from_der(bits).map_err(|_| KeyError::Malformed)?;
    let (n, e) = (key.n.as_bytes(), key.e.as_bytes());
    let unused = n.first().map_or(0, |first| first.leading_zeros());
    let bits = (n.len() * 8).saturating_sub(usize::try_from(unused).unwrap_or(0));
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(KeyError::RsaBits { bits });
    }
    Ok(Numbers::Rsa {
        n: n.to_vec(),
        e: e.to_vec(),
    })
}

fn spki_der(
    oid: ObjectIdentifier,
    parameters: AnyRef<'_>,
    bits: &[u8],
) -> Result<Vec<u8>, KeyError> {
    SubjectPublicKeyInfoRef {
        algorithm: AlgorithmIdentifierRef {
            oid,
            parameters: Some(parameters),
        },
        subject_public_key: BitStringRef::from_bytes(bits).map_err(|_| KeyError::Invalid)?,
    }
    .to_der()
    .map_err(|_| KeyError::Invalid)
}

fn string<'a>(members: &'a Map<String, Value>, member: &'static str) -> Result<&'a str, KeyError> {
    members
        .get(member)
        .and_then(Value::as_str)
        .ok_or(KeyError::Member { member })
}

fn number(members: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, KeyError> {
    URL_SAFE_NO_PAD
        .decode(string(members, member)?)
        .map_err(|_| KeyError::Member { member })
}
