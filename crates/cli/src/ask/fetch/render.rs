//! Identities for people, and for programs: the keys are stable. No private key is ever here.
//!
//! Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    pem,
    svid::{Svid, Token},
};
use crate::output::{Block, moment};

/// X.509-SVIDs as JSON, the default identity first.
pub(super) fn x509_json(svids: &[&Svid]) -> Value {
    let one = |s: &&Svid| {
        json!({
            "spiffe_id": s.id().as_str(),
            "hint": s.hint,
            "serial_number": s.verified.serial_hex(),
            "not_before": s.verified.not_before().to_string(),
            "expires_at": s.verified.not_after().to_string(),
            "x509_svid": s.chain.iter().map(|c| pem::encode("CERTIFICATE", c)).collect::<String>(),
            "bundle": bundle(s),
        })
    };
    json!({ "svids": svids.iter().map(one).collect::<Vec<_>>() })
}

/// The authorities of an identity's trust domain as PEM.
pub(super) fn bundle(svid: &Svid) -> String {
    svid.bundle
        .x509_authorities()
        .iter()
        .map(|a| pem::encode("CERTIFICATE", a.der()))
        .collect()
}

/// One X.509-SVID as lines.
pub(super) fn x509(svid: &Svid, now: Timestamp) -> Block {
    let mut b = Block::default();
    b.line("SPIFFE ID", svid.id().as_str())
        .some("Hint", &svid.hint)
        .line("Serial number", svid.verified.serial_hex())
        .line("Expiration time", moment(svid.verified.not_after(), now))
        .line(
            "Certificates",
            format!(
                "{} in the chain, {} in the bundle",
                svid.chain.len(),
                svid.bundle.x509_authorities().len()
            ),
        );
    b
}

/// JWT-SVIDs as JSON, the default identity first. The tokens are what was asked for.
pub(super) fn jwt_json(tokens: &[Token]) -> Value {
    let one = |t: &Token| {
        json!({
            "spiffe_id": t.id.as_str(),
            "hint": t.hint,
            "token": t.token.as_str(),
            "jti": t.jti,
            "issued_at": t.issued_at.map(|at| at.to_string()),
            "expires_at": t.expires_at.map(|at| at.to_string()),
        })
    };
    json!({ "svids": tokens.iter().map(one).collect::<Vec<_>>() })
}

/// One JWT-SVID as lines.
pub(super) fn jwt(token: &Token, now: Timestamp) -> Block {
    let mut b = Block::default();
    b.line("SPIFFE ID", token.id.as_str())
        .some("Hint", &token.hint)
        .some("Token ID", &token.jti)
        .some(
            "Expiration time",
            token
                .expires_at
                .map(|at| moment(at, now))
                .unwrap_or_default(),
        );
    // Not a `line`: a long token must not be cut.
    b.whole("Token", &token.token);
    b
}
