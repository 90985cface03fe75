//! JWT-SVIDs: what a validator accepts, and what an issuer may sign. Knows no private key, makes
//! no token, and remembers none.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::bundle::Bundle;
use crate::id::{IdError, SpiffeId};
use crate::json::{self, JsonError};
use crate::key::KeyType;
use crate::text::shown;

/// The longest token, in bytes.
pub const MAX_JWT_BYTES: usize = 32 * 1024;

/// The most values that `aud` may have.
pub const MAX_AUDIENCES: usize = 32;

/// How far the clocks of issuer and validator may differ (C068).
pub const LEEWAY: Duration = Duration::from_secs(10);

/// Why a token is not a valid JWT-SVID, or must not become one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JwtError {
    /// Longer than [`MAX_JWT_BYTES`].
    #[error("a token has at most {MAX_JWT_BYTES} bytes, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not three parts with dots between (C054, C055).
    #[error("the token is not in JWS compact serialization")]
    NotCompact,
    /// A part is not base64url without padding.
    #[error("the token's {part} is not base64url")]
    Base64 {
        /// Which part.
        part: &'static str,
    },
    /// A part is not a JSON object, or has a member twice.
    #[error("the token's {part} is {error}")]
    Json {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        error: JsonError,
    },
    /// An algorithm outside the allowed nine (C057, C058), or none.
    #[error("the token's algorithm is not one of RS, PS or ES with 256, 384 or 512")]
    Algorithm,
    /// No `kid`. The standard leaves it optional (C059), every implementation asks for it.
    #[error("the token's header has no kid")]
    NoKeyId,
    /// `typ` other than JWT or JOSE (C060).
    #[error("the token's typ is neither JWT nor JOSE")]
    Type,
    /// `crit` names extensions, of which we know none (RFC 7515 4.1.11).
    #[error("the token's header has critical extensions")]
    Critical,
    /// A header member that an issuer must not write (C056).
    #[error("the token's header has the member {name}, allowed are alg, kid, typ")]
    HeaderMember {
        /// The member, escaped and cut.
        name: String,
    },
    /// A claim is missing (C061, C063, C067).
    #[error("the token has no {claim}")]
    Missing {
        /// The claim's name.
        claim: &'static str,
    },
    /// A claim of the wrong shape. Dates are whole seconds.
    #[error("the token's {claim} is malformed")]
    Claim {
        /// The claim's name.
        claim: &'static str,
    },
    /// `sub` is not a SPIFFE ID (C061).
    #[error("the token's subject is not a SPIFFE ID: {0}")]
    Subject(#[from] IdError),
    /// Issued for another ID than the one that it should be for.
    #[error("the token's subject is not the expected SPIFFE ID")]
    OtherSubject,
    /// The subject is of another trust domain than the bundle.
    #[error("the token's subject does not belong to the bundle's trust domain")]
    OtherTrustDomain,
    /// The bundle has no such key, or it has expired (C073).
    #[error("the trust bundle has no valid JWT key {key_id}")]
    UnknownKey {
        /// The key id, escaped and cut.
        key_id: String,
    },
    /// The key is of a kind that the algorithm does not use.
    #[error("the token's algorithm does not fit its key")]
    KeyMismatch,
    /// The signature does not verify.
    #[error("the token's signature does not verify")]
    Signature,
    /// None of the validator's audiences is the token's (C064).
    #[error("the token is for another audience")]
    Audience,
    /// Past `exp` (C068).
    #[error("the token expired at {at}")]
    Expired {
        /// Its end.
        at: Timestamp,
    },
    /// Before `nbf` (RFC 7519 4.1.5).
    #[error("the token is not valid before {at}")]
    NotYetValid {
        /// Its start.
        at: Timestamp,
    },
}

/// The nine algorithms of JWT-SVIDs (C057); nothing else can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JwtAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
}

impl JwtAlgorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
    ];

    /// The algorithm of this exact name (RFC 7518 3.1).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|alg| alg.as_str() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// The kind of key it takes.
    #[must_use]
    pub const fn key_type(self) -> KeyType {
        match self {
            Self::Es256 => KeyType::EcP256,
            Self::Es384 => KeyType::EcP384,
            Self::Es512 => KeyType::EcP521,
            _ => KeyType::Rsa,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &ECDSA_P521_SHA512_FIXED,
            Self::Ps256 => &RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &RSA_PSS_2048_8192_SHA512,
        }
    }
}

/// A token that has the shape of a JWT-SVID, and whose every word is still only a claim.
pub struct UnverifiedJwt<'a> {
    signing_input: &'a str,
    signature: Vec<u8>,
    header: Header,
    claims: Claims,
}

/// Without the token itself, which is a bearer's secret.
impl fmt::Debug for UnverifiedJwt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnverifiedJwt({})", self.claims.id)
    }
}

impl<'a> UnverifiedJwt<'a> {
    /// Takes a token apart: compact serialization only (C054, C055), an allowed algorithm
    /// (C058), `kid` (C059), `typ` (C060), a SPIFFE ID as `sub` (C061), `aud` (C063) and `exp`
    /// (C067). Unknown header members are passed over unless `crit` is among them.
    ///
    /// # Errors
    /// [`JwtError`], naming the check.
    pub fn parse(token: &'a str) -> Result<Self, JwtError> {
        check_len(token)?;
        let (signing_input, signature) = token.rsplit_once('.').ok_or(JwtError::NotCompact)?;
        let (header, claims) = parse_input(signing_input)?;
        Ok(Self {
            signing_input,
            signature: base64("signature", signature)?,
            header: Header::read(&header)?,
            claims: Claims::read(claims)?,
        })
    }

    /// Whose token it claims to be; good for finding the bundle to verify it with.
    #[must_use]
    pub fn unverified_subject(&self) -> &SpiffeId {
        &self.claims.id
    }

    /// Verifies the token with the bundle of its subject's trust domain, for a validator that
    /// goes by any of `audiences`, at `now`: key (C073), signature, audience (C064), `exp`
    /// (C068) and `nbf`, with [`LEEWAY`].
    ///
    /// # Errors
    /// [`JwtError`], naming the check; time and audience are judged only of authentic tokens.
    pub fn verify(
        self,
        bundle: &Bundle,
        audiences: &[&str],
        now: Timestamp,
    ) -> Result<JwtSvid, JwtError> {
        let Self { header, claims, .. } = self;
        if !claims.id.is_member_of(bundle.trust_domain()) {
            return Err(JwtError::OtherTrustDomain);
        }
        let key = bundle
            .jwt_key(&header.key_id)
            .filter(|key| key.expires_at().is_none_or(|end| now < end))
            .ok_or_else(|| JwtError::UnknownKey {
                key_id: shown(&header.key_id),
            })?;
        if key.key_type() != header.algorithm.key_type() {
            return Err(JwtError::KeyMismatch);
        }
        let message = self.signing_input.as_bytes();
        let algorithm = header.algorithm.verification();
        if !key.key().verifies(algorithm, message, &self.signature) {
            return Err(JwtError::Signature);
        }
        if !claims.audience.iter().any(|a| audiences.contains(&&**a)) {
            return Err(JwtError::Audience);
        }
        let at = claims.expires_at;
        if later(at) <= now {
            return Err(JwtError::Expired { at });
        }
        if let Some(at) = claims.not_before.filter(|at| later(now) < *at) {
            return Err(JwtError::NotYetValid { at });
        }
        Ok(JwtSvid {
            id: claims.id,
            audience: claims.audience,
            expires_at: claims.expires_at,
            issued_at: claims.issued_at,
            claims: claims.all,
            key_id: header.key_id,
        })
    }
}

/// The claims of a token that was verified; made only by [`UnverifiedJwt::verify`].
#[derive(Clone, Debug, PartialEq)]
pub struct JwtSvid {
    id: SpiffeId,
    audience: Vec<String>,
    expires_at: Timestamp,
    issued_at: Option<Timestamp>,
    claims: Map<String, Value>,
    key_id: String,
}

impl JwtSvid {
    /// Whose token it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// For whom it was made; at least one.
    #[must_use]
    pub fn audience(&self) -> &[String] {
        &self.audience
    }

    /// When it ends.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// When it was made, if it says so.
    #[must_use]
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.issued_at
    }

    /// All claims, those above included.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The id of the key that signed it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

/// Checks `header.claims` that are about to be signed for `expected`: no header member but
/// `alg`, `kid`, `typ` (C056 to C060), `sub` (C061), `aud` (C062), `exp` (C066).
///
/// # Errors
/// [`JwtError`], naming the check.
pub fn lint_jwt(signing_input: &str, expected: &SpiffeId) -> Result<(), JwtError> {
    check_len(signing_input)?;
    let (header, claims) = parse_input(signing_input)?;
    if let Some(name) = header
        .keys()
        .find(|name| !matches!(name.as_str(), "alg" | "kid" | "typ"))
    {
        return Err(JwtError::HeaderMember { name: shown(name) });
    }
    Header::read(&header)?;
    // Byte by byte: what we write has one spelling.
    let spelled = claims.get("sub").and_then(Value::as_str) == Some(expected.as_str());
    let claims = Claims::read(claims)?;
    if !spelled {
        return Err(JwtError::OtherSubject);
    }
    match claims.issued_at.or(claims.not_before) {
        Some(start) if start >= claims.expires_at => Err(JwtError::Claim { claim: "exp" }),
        _ => Ok(()),
    }
}

struct Header {
    algorithm: JwtAlgorithm,
    key_id: String,
}

impl Header {
    fn read(members: &Map<String, Value>) -> Result<Self, JwtError> {
        let algorithm = members
            .get("alg")
            .and_then(Value::as_str)
            .and_then(JwtAlgorithm::parse)
            .ok_or(JwtError::Algorithm)?;
        if members.contains_key("crit") {
            return Err(JwtError::Critical);
        }
        if let Some(kind) = members.get("typ")
            && !matches!(kind.as_str(), Some("JWT" | "JOSE"))
        {
            return Err(JwtError::Type);
        }
        let key_id = members
            .get("kid")
            .and_then(Value::as_str)
            .filter(|key_id| !key_id.is_empty())
            .ok_or(JwtError::NoKeyId)?
            .to_owned();
        Ok(Self { algorithm, key_id })
    }
}

struct Claims {
    id: SpiffeId,
    audience: Vec<String>,
    expires_at: Timestamp,
    issued_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    all: Map<String, Value>,
}

impl Claims {
    fn read(all: Map<String, Value>) -> Result<Self, JwtError> {
        let id = match all.get("sub") {
            None => return Err(JwtError::Missing { claim: "sub" }),
            Some(Value::String(id)) => SpiffeId::parse(id)?,
            Some(_) => return Err(JwtError::Claim { claim: "sub" }),
        };
        Ok(Self {
            id,
            audience: audience(all.get("aud"))?,
            expires_at: date(&all, "exp")?.ok_or(JwtError::Missing { claim: "exp" })?,
            issued_at: date(&all, "iat")?,
            not_before: date(&all, "nbf")?,
            all,
        })
    }
}

fn check_len(token: &str) -> Result<(), JwtError> {
    if token.len() > MAX_JWT_BYTES {
        return Err(JwtError::TooLong { len: token.len() });
    }
    Ok(())
}

type Members = Map<String, Value>;

fn parse_input(signing_input: &str) -> Result<(Members, Members), JwtError> {
    let (header, claims) = signing_input
        .split_once('.')
        .filter(|(_, claims)| !claims.contains('.'))
        .ok_or(JwtError::NotCompact)?;
    Ok((object("header", header)?, object("claims", claims)?))
}

fn object(part: &'static str, text: &str) -> Result<Members, JwtError> {
    json::parse_object(&base64(part, text)?).map_err(|error| JwtError::Json { part, error })
}

fn base64(part: &'static str, text: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| JwtError::Base64 { part })
}

/// One string, or a list of them (RFC 7519 4.1.3).
fn audience(value: Option<&Value>) -> Result<Vec<String>, JwtError> {
    const CLAIM: &str = "aud";
    let list = match value {
        None => return Err(JwtError::Missing { claim: CLAIM }),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) if all.len() <= MAX_AUDIENCES => all
            .iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or(JwtError::Claim { claim: CLAIM })?,
        Some(_) => return Err(JwtError::Claim { claim: CLAIM }),
    };
    if list.is_empty() {
        return Err(JwtError::Missing { claim: CLAIM });
    }
    Ok(list)
}

/// Whole seconds since the epoch. RFC 7519 also has fractions; no issuer of JWT-SVIDs writes
/// them, and one reading is safer than two.
fn date(claims: &Members, claim: &'static str) -> Result<Option<Timestamp>, JwtError> {
    claims
        .get(claim)
        .map(|value| {
            value
                .as_i64()
                .filter(|seconds| *seconds >= 0)
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .ok_or(JwtError::Claim { claim })
        })
        .transpose()
}

fn later(time: Timestamp) -> Timestamp {
    SignedDuration::try_from(LEEWAY)
        .ok()
        .and_then(|leeway| time.checked_add(leeway).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
