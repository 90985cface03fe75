//! The trust domain's bundle as the doors need it: parsed, rendered once, and without what is tainted.
//!
//! Must not know where it comes from.

use std::{collections::BTreeSet, sync::Arc};

use attesta_model::FieldError;
use attesta_spiffe::{Bundle, TrustDomain, X509Authority};
use attesta_wire::proto::spire::api::types;

/// One bundle; never changed, only replaced.
#[derive(Debug)]
pub(crate) struct Trust {
    bundle: Bundle,
    /// All X.509 authorities, DER, one after the other.
    x509: Vec<u8>,
    /// The JWT keys as a JWK set.
    jwks: Vec<u8>,
    /// Key ids of the X.509 authorities that are not tainted.
    sound: BTreeSet<Vec<u8>>,
    tainted_jwt: BTreeSet<String>,
}

impl Trust {
    /// From a bundle in which nothing is tainted: one that was kept, or given to start with.
    pub(crate) fn new(bundle: Bundle) -> Arc<Self> {
        Arc::new(Self::of(bundle, &BTreeSet::new(), BTreeSet::new()))
    }

    /// From the server.
    pub(crate) fn from_wire(
        wire: &types::Bundle,
        own: &TrustDomain,
    ) -> Result<Arc<Self>, FieldError> {
        let bundle = attesta_wire::bundle::from_wire(wire)?;
        if bundle.trust_domain() != own {
            return Err(FieldError::new(
                "trust_domain",
                bundle.trust_domain().as_str(),
                format!("is not {own}"),
            ));
        }
        let tainted: BTreeSet<&[u8]> = wire
            .x509_authorities
            .iter()
            .filter(|a| a.tainted)
            .map(|a| a.asn1.as_slice())
            .collect();
        let jwt = wire
            .jwt_authorities
            .iter()
            .filter(|k| k.tainted)
            .map(|k| k.key_id.clone())
            .collect();
        Ok(Arc::new(Self::of(bundle, &tainted, jwt)))
    }

    fn of(bundle: Bundle, tainted: &BTreeSet<&[u8]>, tainted_jwt: BTreeSet<String>) -> Self {
        let authorities = bundle.x509_authorities();
        Self {
            x509: authorities
                .iter()
                .flat_map(X509Authority::der)
                .copied()
                .collect(),
            jwks: bundle.jwks_json(),
            sound: authorities
                .iter()
                .filter(|a| !tainted.contains(a.der()))
                .filter_map(|a| a.subject_key_id().map(<[u8]>::to_vec))
                .collect(),
            tainted_jwt,
            bundle,
        }
    }

    /// The bundle, tainted authorities included: what they signed is still valid.
    pub(crate) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(crate) fn x509(&self) -> &[u8] {
        &self.x509
    }

    pub(crate) fn jwks(&self) -> &[u8] {
        &self.jwks
    }

    /// Whether what this authority signed may be kept. An authority that names no key is believed: nothing says against.
    pub(crate) fn is_sound(&self, authority: Option<&[u8]>) -> bool {
        authority.is_none_or(|key| self.sound.contains(key))
    }

    /// Whether tokens of this key may be served from a cache.
    pub(crate) fn is_sound_jwt(&self, key_id: &str) -> bool {
        !self.tainted_jwt.contains(key_id) && self.bundle.jwt_key(key_id).is_some()
    }

    /// Whether the doors would show the same of both.
    pub(crate) fn shows_same(&self, other: &Self) -> bool {
        self.x509 == other.x509 && self.jwks == other.jwks
    }

    /// Whether nothing at all differs.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.shows_same(other)
            && self.sound == other.sound
            && self.tainted_jwt == other.tainted_jwt
            && self.bundle.sequence() == other.bundle.sequence()
    }
}
