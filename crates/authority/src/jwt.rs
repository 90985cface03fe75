//! The bytes of a token that will be signed: header and claims of a JWT-SVID (JWT-SVID section 2 and 3).

use attesta_model::{KeyAlgorithm, KeyId};
use attesta_spiffe::SpiffeId;
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Serialize;

/// Exactly the three header members a JWT-SVID may have (C056 to C060).
#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a [String],
    exp: i64,
    iat: i64,
    jti: &'a str,
    sub: &'a str,
}

/// What a token says.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) key: &'a KeyId,
    pub(crate) algorithm: KeyAlgorithm,
    pub(crate) subject: &'a SpiffeId,
    pub(crate) audience: &'a [String],
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) id: &'a str,
}

/// `base64url(header).base64url(claims)`: the signing input of RFC 7515 section 5.1.
pub(crate) fn encode(c: &Contents<'_>) -> Result<String, serde_json::Error> {
    let header = serde_json::to_vec(&Header {
        alg: c.algorithm.jose(),
        kid: c.key.as_str(),
        typ: "JWT",
    })?;
    let claims = serde_json::to_vec(&Claims {
        aud: c.audience,
        exp: c.expires_at.as_second(),
        iat: c.issued_at.as_second(),
        jti: c.id,
        sub: c.subject.as_str(),
    })?;
    let mut out = String::with_capacity((header.len() + claims.len()) * 4 / 3 + 96);
    URL_SAFE_NO_PAD.encode_string(header, &mut out);
    out.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut out);
    Ok(out)
}

/// The compact token: its input and the signature.
pub(crate) fn assemble(mut input: String, signature: &[u8]) -> String {
    input.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut input);
    input
}

/// A key's `kid`: the first half of the SHA-256 of its SubjectPublicKeyInfo, base64url, so that a key has one name.
#[must_use]
pub(crate) fn key_id(spki: &[u8]) -> String {
    let hash = digest(&SHA256, spki);
    URL_SAFE_NO_PAD.encode(hash.as_ref().get(..16).unwrap_or_default())
}
