//! SPIFFE IDs on SPIRE's wire: trust domain and path apart.

use attesta_model::FieldError;
use attesta_spiffe::{SpiffeId, TrustDomain};

use crate::proto::spire::api::types;

/// An id as SPIRE writes it.
#[must_use]
pub fn to_wire(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    }
}

/// The text of a wire id, unchecked: `spiffe://TRUST-DOMAIN/PATH`.
#[must_use]
pub fn text(id: &types::Spiffeid) -> String {
    format!("spiffe://{}{}", id.trust_domain, id.path)
}

/// Parses an id from the wire.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn from_wire(
    field: &'static str,
    id: Option<&types::Spiffeid>,
) -> Result<SpiffeId, FieldError> {
    let id = id.ok_or_else(|| FieldError::new(field, "", "is missing"))?;
    // SPIRE's paths begin with a slash; clients that leave it out are told, not repaired.
    if !id.path.is_empty() && !id.path.starts_with('/') {
        return Err(FieldError::new(
            field,
            &id.path,
            "has a path without its leading slash",
        ));
    }
    let text = text(id);
    let bad = |why: &dyn std::fmt::Display| FieldError::new(field, &text, why);
    // Each part is what it says: a trust domain with a slash in it would lend its rest to the path.
    TrustDomain::parse(&id.trust_domain).map_err(|e| bad(&e))?;
    let parsed = SpiffeId::parse(&text).map_err(|e| bad(&e))?;
    if parsed.trust_domain_name() == id.trust_domain && parsed.path() == id.path {
        Ok(parsed)
    } else {
        Err(bad(&"is not what its trust domain and its path say apart"))
    }
}
