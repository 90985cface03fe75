//! Trust bundles: the public keys of one trust domain, and their document (SPIFFE Trust Domain
//! and Bundle). Knows no transport and no store, and merges nothing.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::certificate::X509Error;
use crate::id::TrustDomain;
use crate::json::{self, JsonError};
use crate::key::{KeyError, KeyType, PublicKey};
use crate::x509authority::X509Authority;

pub use map::BundleMap;

mod map;

/// The largest bundle document or bundle map that is read, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 4 * 1024 * 1024;

/// The longest key id, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 256;

const X509_USE: &str = "x509-svid";
const JWT_USE: &str = "jwt-svid";

/// Why something is not a bundle, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Larger than [`MAX_BUNDLE_BYTES`].
    #[error("a bundle document has at most {MAX_BUNDLE_BYTES} bytes, this one has {len}")]
    TooLong {
        /// Its size in bytes.
        len: usize,
    },
    /// Not a JSON object, or one with duplicate members.
    #[error("the bundle document is {0}")]
    Json(#[from] JsonError),
    /// A member is missing or has the wrong shape (C109, C111, C113, C120).
    #[error("the bundle document's {member} is missing or malformed")]
    Member {
        /// The member's name.
        member: &'static str,
    },
    /// An element of `keys` is no JSON object.
    #[error("key {index} of the bundle document is not an object")]
    Element {
        /// Its position, from 0.
        index: usize,
    },
    /// An X.509 authority that does not parse.
    #[error("key {index} of the bundle: {error}")]
    Authority {
        /// Its position, from 0.
        index: usize,
        /// What is wrong with it.
        error: X509Error,
    },
    /// An `x5c` whose first element is not base64 (RFC 7517 4.7).
    #[error("key {index} of the bundle document: x5c is not base64")]
    X5c {
        /// Its position, from 0.
        index: usize,
    },
    /// A JWT key that does not parse.
    #[error("key {index} of the bundle document: {error}")]
    Key {
        /// Its position, from 0.
        index: usize,
        /// What is wrong with it.
        error: KeyError,
    },
    /// A JWT key without an id, or with one longer than [`MAX_KEY_ID_BYTES`] (C072).
    #[error("a JWT key of the bundle has no usable key id")]
    KeyId,
    /// A JWT key that no JWT-SVID algorithm can use (C057).
    #[error("a JWT key is RSA or on P-256, P-384 or P-521")]
    KeyType,
    /// Two JWT keys with one id, so that a token would not say which.
    #[error("two JWT keys of the bundle have the same key id")]
    SameKeyId,
    /// One X.509 authority twice.
    #[error("an X.509 authority is in the bundle twice")]
    SameAuthority,
    /// A name in a bundle map that is no trust domain's.
    #[error("the bundle map has an invalid trust domain name: {0}")]
    Name(#[from] crate::id::IdError),
}

/// A public key that verifies JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtKey {
    key_id: String,
    key: PublicKey,
    expires_at: Option<Timestamp>,
}

impl JwtKey {
    /// A key from its id and the DER of its SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`BundleError::KeyId`], [`BundleError::KeyType`], or [`BundleError::Key`] with index 0.
    pub fn new(
        key_id: &str,
        spki_der: &[u8],
        expires_at: Option<Timestamp>,
    ) -> Result<Self, BundleError> {
        let key =
            PublicKey::from_spki(spki_der).map_err(|error| BundleError::Key { index: 0, error })?;
        Self::checked(key_id, key, expires_at)
    }

    fn checked(
        key_id: &str,
        key: PublicKey,
        expires_at: Option<Timestamp>,
    ) -> Result<Self, BundleError> {
        if key_id.is_empty() || key_id.len() > MAX_KEY_ID_BYTES {
            return Err(BundleError::KeyId);
        }
        if key.kind() == KeyType::Ed25519 {
            return Err(BundleError::KeyType);
        }
        Ok(Self {
            key_id: key_id.to_owned(),
            key,
            expires_at,
        })
    }

    /// The `kid` of the tokens it verifies.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The DER of its SubjectPublicKeyInfo.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.key.spki_der()
    }

    /// Its kind, which decides the algorithms.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        self.key.kind()
    }

    /// From when on it verifies nothing, where that is known; bundle documents do not say.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    pub(crate) fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// The public keys of one trust domain.
///
/// Without keys of a kind it trusts no SVID of that kind (C053, C115): an empty bundle revokes
/// everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: TrustDomain,
    x509_authorities: Vec<X509Authority>,
    jwt_keys: Vec<JwtKey>,
    sequence: u64,
    refresh_hint: Option<Duration>,
}

impl Bundle {
    /// A bundle of these parts. The refresh hint is cut to whole seconds (C111). Whoever calls
    /// this raises `sequence` with each change of content (C107, C108).
    ///
    /// # Errors
    /// [`BundleError::SameKeyId`], [`BundleError::SameAuthority`].
    pub fn new(
        trust_domain: TrustDomain,
        x509_authorities: Vec<X509Authority>,
        jwt_keys: Vec<JwtKey>,
        sequence: u64,
        refresh_hint: Option<Duration>,
    ) -> Result<Self, BundleError> {
        if has_twins(x509_authorities.iter().map(X509Authority::der)) {
            return Err(BundleError::SameAuthority);
        }
        if has_twins(jwt_keys.iter().map(|key| key.key_id.as_bytes())) {
            return Err(BundleError::SameKeyId);
        }
        Ok(Self {
            trust_domain,
            x509_authorities,
            jwt_keys,
            sequence,
            refresh_hint: refresh_hint.map(|hint| Duration::from_secs(hint.as_secs())),
        })
    }

    /// Reads a bundle document. Which domain it belongs to is for the caller to know: the
    /// document does not say.
    ///
    /// Passed over: unknown members (C105), elements with an unknown or missing `kty` or `use`
    /// (C114, C118), X.509 elements without `x5c` (C051), all but the first certificate of an
    /// `x5c` (C052), a certificate or JWT key of a kind we do not know. A key of a known kind
    /// that is broken, or JWT keys with one id, fail the whole: silence there would hide a fault
    /// of the publisher. A missing sequence number reads as 0.
    ///
    /// # Errors
    /// [`BundleError`], with the position of the key.
    pub fn parse(trust_domain: &TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        check_len(json)?;
        Self::from_members(trust_domain, &json::parse_object(json)?)
    }

    fn from_members(
        trust_domain: &TrustDomain,
        members: &Map<String, Value>,
    ) -> Result<Self, BundleError> {
        let keys = members
            .get("keys")
            .and_then(Value::as_array)
            .ok_or(BundleError::Member { member: "keys" })?;
        let mut x509_authorities: Vec<X509Authority> = Vec::new();
        let mut jwt_keys = Vec::new();
        for (index, element) in keys.iter().enumerate() {
            let element = element.as_object().ok_or(BundleError::Element { index })?;
            if !has_known_type(element) {
                continue;
            }
            match element.get("use").and_then(Value::as_str) {
                Some(X509_USE) => {
                    let authority = x509_authority(index, element)?;
                    // A publisher may repeat a certificate without meaning anything by it.
                    x509_authorities.extend(authority.filter(|a| !x509_authorities.contains(a)));
                }
                Some(JWT_USE) => jwt_keys.extend(jwt_key(index, element)?),
                _ => {}
            }
        }
        let sequence = number(members, "spiffe_sequence")?.unwrap_or(0);
        let refresh_hint = number(members, "spiffe_refresh_hint")?.map(Duration::from_secs);
        Self::new(
            trust_domain.clone(),
            x509_authorities,
            jwt_keys,
            sequence,
            refresh_hint,
        )
    }

    /// The SPIFFE bundle document (C047 to C049, C071, C072, C105 to C119).
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_vec(&self.document())
    }

    /// A plain JWK Set with the JWT keys alone, as the Workload API hands it out (C195, C196):
    /// without `use`, whose SPIFFE values that standard does not know.
    #[must_use]
    pub fn jwks_json(&self) -> Vec<u8> {
        to_vec(&Document {
            keys: self.jwt_keys.iter().map(|key| jwt_jwk(key, None)).collect(),
            spiffe_sequence: None,
            spiffe_refresh_hint: None,
        })
    }

    fn document(&self) -> Document<'_> {
        let x509 = self.x509_authorities.iter().map(|authority| {
            let mut jwk = Jwk::new(authority.key(), Some(X509_USE));
            jwk.x5c = Some([STANDARD.encode(authority.der())]);
            jwk
        });
        let jwt = self.jwt_keys.iter().map(|key| jwt_jwk(key, Some(JWT_USE)));
        Document {
            keys: x509.chain(jwt).collect(),
            spiffe_sequence: Some(self.sequence),
            spiffe_refresh_hint: self.refresh_hint.map(|hint| hint.as_secs()),
        }
    }

    /// Whose keys these are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities that X.509-SVIDs chain to.
    #[must_use]
    pub fn x509_authorities(&self) -> &[X509Authority] {
        &self.x509_authorities
    }

    /// The keys that verify JWT-SVIDs.
    #[must_use]
    pub fn jwt_keys(&self) -> &[JwtKey] {
        &self.jwt_keys
    }

    /// The JWT key with this id.
    #[must_use]
    pub fn jwt_key(&self, key_id: &str) -> Option<&JwtKey> {
        self.jwt_keys.iter().find(|key| key.key_id == key_id)
    }

    /// The sequence number; larger is newer.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How often to look for a newer one, in whole seconds; only a hint (C112).
    #[must_use]
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    fn without_hint(mut self) -> Self {
        self.refresh_hint = None;
        self
    }
}

#[derive(Serialize)]
struct Document<'a> {
    keys: Vec<Jwk<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Serialize)]
struct Jwk<'a> {
    kty: &'static str,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<[String; 1]>,
}

impl Jwk<'_> {
    fn new(key: &PublicKey, usage: Option<&'static str>) -> Self {
        let numbers = key.jwk_numbers();
        Self {
            kty: numbers.kty,
            usage,
            kid: None,
            crv: numbers.crv,
            x: numbers.x,
            y: numbers.y,
            n: numbers.n,
            e: numbers.e,
            x5c: None,
        }
    }
}

fn jwt_jwk<'a>(key: &'a JwtKey, usage: Option<&'static str>) -> Jwk<'a> {
    let mut jwk: Jwk<'a> = Jwk::new(&key.key, usage);
    jwk.kid = Some(&key.key_id);
    jwk
}

/// INVARIANT: strings, numbers and lists of them always serialize.
fn to_vec(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

fn check_len(json: &[u8]) -> Result<(), BundleError> {
    if json.len() > MAX_BUNDLE_BYTES {
        return Err(BundleError::TooLong { len: json.len() });
    }
    Ok(())
}

fn has_known_type(element: &Map<String, Value>) -> bool {
    let kty = element.get("kty").and_then(Value::as_str);
    matches!(kty, Some("EC" | "RSA" | "OKP"))
}

fn x509_authority(
    index: usize,
    element: &Map<String, Value>,
) -> Result<Option<X509Authority>, BundleError> {
    let first = match element.get("x5c") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(certificates)) => match certificates.first() {
            None => return Ok(None),
            Some(first) => first,
        },
        Some(_) => return Err(BundleError::X5c { index }),
    };
    let der = first
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok())
        .ok_or(BundleError::X5c { index })?;
    match X509Authority::from_der(&der) {
        Ok(authority) => Ok(Some(authority)),
        Err(X509Error::Key(KeyError::Unsupported)) => Ok(None),
        Err(error) => Err(BundleError::Authority { index, error }),
    }
}

fn jwt_key(index: usize, element: &Map<String, Value>) -> Result<Option<JwtKey>, BundleError> {
    let key = PublicKey::from_jwk(element).map_err(|error| BundleError::Key { index, error })?;
    let Some(key) = key else {
        return Ok(None);
    };
    let key_id = element
        .get("kid")
        .and_then(Value::as_str)
        .ok_or(BundleError::KeyId)?;
    JwtKey::checked(key_id, key, None).map(Some)
}

fn number(members: &Map<String, Value>, member: &'static str) -> Result<Option<u64>, BundleError> {
    match members.get(member) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .map(Some)
            .ok_or(BundleError::Member { member }),
    }
}

fn has_twins<'a>(items: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut items: Vec<&[u8]> = items.collect();
    let all = items.len();
    items.sort_unstable();
    items.dedup();
    items.len() < all
}

#[cfg(test)]
mod tests;
