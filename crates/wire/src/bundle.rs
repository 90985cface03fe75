//! The trust bundle on SPIRE's wire.

use std::time::Duration;

use attesta_model::{AuthorityState, FieldError, KeyKind, Snapshot};
use attesta_spiffe::{Bundle, BundleError, JwtKey, TrustDomain, X509Authority};
use jiff::Timestamp;

use crate::proto::spire::api::types;

/// The bundle a snapshot publishes, as SPIRE writes it. Old authorities stay in it until nothing they signed is alive.
#[must_use]
pub fn to_wire(
    snapshot: &Snapshot,
    refresh_hint: Duration,
    mask: Option<&types::BundleMask>,
) -> types::Bundle {
    let want = |pick: fn(&types::BundleMask) -> bool| mask.is_none_or(pick);
    let mut bundle = types::Bundle {
        trust_domain: snapshot.trust_domain().as_str().to_owned(),
        ..Default::default()
    };
    let mut authorities: Vec<_> = snapshot.authorities().collect();
    // The one that signs first: verifiers that try in order succeed at once.
    authorities.sort_by_key(|a| {
        (
            a.state != AuthorityState::Active,
            std::cmp::Reverse(a.not_after),
        )
    });
    for a in authorities {
        match a.kind {
            KeyKind::X509 if want(|m| m.x509_authorities) => {
                bundle.x509_authorities.push(types::X509Certificate {
                    asn1: a.certificate.clone().unwrap_or_default(),
                    tainted: a.tainted,
                })
            }
            KeyKind::Jwt if want(|m| m.jwt_authorities) => {
                bundle.jwt_authorities.push(types::JwtKey {
                    public_key: a.public_key.clone(),
                    key_id: a.id.as_str().to_owned(),
                    expires_at: a.not_after.as_second(),
                    tainted: a.tainted,
                })
            }
            _ => {}
        }
    }
    if want(|m| m.refresh_hint) {
        bundle.refresh_hint = i64::try_from(refresh_hint.as_secs()).unwrap_or(i64::MAX);
    }
    if want(|m| m.sequence_number) {
        bundle.sequence_number = snapshot.bundle_revision().0;
    }
    bundle
}

/// A bundle from SPIRE's wire.
///
/// # Errors
/// Names what is malformed.
pub fn from_wire(bundle: &types::Bundle) -> Result<Bundle, FieldError> {
    TrustDomain::from_name_or_id(&bundle.trust_domain)
        .map_err(|e| FieldError::new("trust_domain", &bundle.trust_domain, e))?;
    parse(bundle).map_err(|e| FieldError::new("bundle", "", e))
}

/// [`from_wire`] with the bundle's own error.
///
/// # Errors
/// What is malformed.
pub fn parse(bundle: &types::Bundle) -> Result<Bundle, BundleError> {
    let trust_domain = TrustDomain::from_name_or_id(&bundle.trust_domain)?;
    let x509 = bundle
        .x509_authorities
        .iter()
        .enumerate()
        .map(|(index, a)| {
            X509Authority::from_der(&a.asn1)
                .map_err(|error| BundleError::Authority { index, error })
        });
    let jwt = bundle.jwt_authorities.iter().map(|key| {
        let expires_at = (key.expires_at != 0)
            .then(|| Timestamp::from_second(key.expires_at).ok())
            .flatten();
        JwtKey::new(&key.key_id, &key.public_key, expires_at)
    });
    let hint = u64::try_from(bundle.refresh_hint)
        .ok()
        .filter(|s| *s > 0)
        .map(Duration::from_secs);
    Bundle::new(
        trust_domain,
        x509.collect::<Result<_, _>>()?,
        jwt.collect::<Result<_, _>>()?,
        bundle.sequence_number,
        hint,
    )
}
