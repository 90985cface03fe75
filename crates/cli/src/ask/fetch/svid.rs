//! What a Workload API's message says, checked before anyone uses it.
//!
//! Pure: the present is an argument.

use attesta_spiffe::{Bundle, SpiffeId, VerifiedX509, X509Authority, verify_chain};
use attesta_tls::{CertificateDer, Identity};
use attesta_wire::proto::workload::X509svidResponse;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::output::shown;

/// One X.509-SVID, verified against the bundle that came with it, and its key with it.
pub(super) struct Svid {
    pub(super) hint: String,
    pub(super) verified: VerifiedX509,
    /// The leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, DER.
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) bundle: Bundle,
}

impl Svid {
    pub(super) fn id(&self) -> &SpiffeId {
        self.verified.id()
    }
}

/// Reads a message whole. A later identity with the hint of an earlier one is left out (C185).
///
/// # Errors
/// What is missing or does not verify (C181 to C183); then nothing of the message is to be used.
pub(super) fn read(message: X509svidResponse, now: Timestamp) -> Result<Vec<Svid>, String> {
    if message.svids.is_empty() {
        return Err("it has no SVID".to_owned());
    }
    let mut out: Vec<Svid> = Vec::with_capacity(message.svids.len());
    for mut svid in message.svids {
        // Taken at once, so that it is wiped whatever happens.
        let key = Zeroizing::new(std::mem::take(&mut svid.x509_svid_key));
        let name = shown(&svid.spiffe_id);
        let wrong = |why: String| format!("{name}: {why}");
        let id = SpiffeId::parse(&svid.spiffe_id).map_err(|e| wrong(e.to_string()))?;
        let chain: Vec<_> = certificates(&svid.x509_svid)
            .ok_or_else(|| wrong("its chain is not a list of certificates".to_owned()))?
            .into_iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        let bundle = bundle(&id, &svid.bundle).map_err(wrong)?;
        let verified = verify_chain(&chain, &bundle, now).map_err(|e| wrong(e.to_string()))?;
        if *verified.id() != id {
            return Err(wrong(format!(
                "its certificate is that of {}",
                verified.id()
            )));
        }
        Identity::new(chain.clone(), key.as_slice()).map_err(|e| wrong(e.to_string()))?;
        if !svid.hint.is_empty() && out.iter().any(|s| s.hint == svid.hint) {
            continue;
        }
        out.push(Svid {
            hint: svid.hint,
            verified,
            chain,
            key,
            bundle,
        });
    }
    Ok(out)
}

fn bundle(id: &SpiffeId, der: &[u8]) -> Result<Bundle, String> {
    let mut authorities: Vec<X509Authority> = Vec::new();
    for der in certificates(der).ok_or("its bundle is not a list of certificates")? {
        let authority = X509Authority::from_der(der).map_err(|e| format!("its bundle: {e}"))?;
        if !authorities.contains(&authority) {
            authorities.push(authority);
        }
    }
    Bundle::new(id.trust_domain(), authorities, Vec::new(), 0, None)
        .map_err(|e| format!("its bundle: {e}"))
}

/// Splits concatenated DER (C183): each begins with a SEQUENCE of definite length. Nothing where that does not come out
/// even, or there is none.
fn certificates(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (&tag, after) = rest.split_first()?;
        let (&first, after) = after.split_first()?;
        if tag != 0x30 {
            return None;
        }
        let (header, length) = if first < 0x80 {
            (2, usize::from(first))
        } else {
            // Longer than four bytes of length is no certificate; 0x80 is indefinite, which DER does not have.
            let n = usize::from(first & 0x7f);
            if n == 0 || n > 4 {
                return None;
            }
            (
                2 + n,
                after
                    .get(..n)?
                    .iter()
                    .fold(0usize, |length, b| (length << 8) | usize::from(*b)),
            )
        };
        let (one, others) = rest.split_at_checked(header.checked_add(length)?)?;
        out.push(one);
        rest = others;
    }
    (!out.is_empty()).then_some(out)
}

/// A JWT-SVID; its claims are read for display, and proven by nobody but whom it is shown to.
pub(super) struct Token {
    pub(super) id: SpiffeId,
    pub(super) hint: String,
    pub(super) token: Zeroizing<String>,
    pub(super) jti: String,
    pub(super) issued_at: Option<Timestamp>,
    pub(super) expires_at: Option<Timestamp>,
}

impl Token {
    /// # Errors
    /// What is missing (C181).
    pub(super) fn read(id: &str, token: Zeroizing<String>, hint: String) -> Result<Self, String> {
        let id = SpiffeId::parse(id).map_err(|e| format!("{}: {e}", shown(id)))?;
        let claims = claims(&token).ok_or_else(|| format!("{id}: its token is no JWT"))?;
        if claims.get("sub").and_then(Value::as_str) != Some(id.as_str()) {
            return Err(format!("{id}: its token is another's"));
        }
        let time = |name| {
            claims
                .get(name)
                .and_then(Value::as_i64)
                .and_then(|s| Timestamp::from_second(s).ok())
        };
        let jti = claims
            .get("jti")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        Ok(Self {
            id,
            hint,
            jti,
            issued_at: time("iat"),
            expires_at: time("exp"),
            token,
        })
    }
}

fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (Some(_), Some(body), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?)
        .ok()
        .filter(Value::is_object)
}

#[cfg(test)]
mod tests;
