//! Bundle maps: bundles of several trust domains in one document (SPIFFE Trust Domain and Bundle
//! 5.1). Never merges two bundles.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{Bundle, BundleError, Document, check_len, to_vec};
use crate::id::TrustDomain;
use crate::json;

/// Bundles by trust domain, each name once (C121).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleMap(BTreeMap<TrustDomain, Bundle>);

impl BundleMap {
    /// A map without bundles.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a bundle in the place of its trust domain; what was there is returned.
    pub fn insert(&mut self, bundle: Bundle) -> Option<Bundle> {
        self.0.insert(bundle.trust_domain().clone(), bundle)
    }

    /// The bundle of this trust domain.
    #[must_use]
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        self.0.get(trust_domain)
    }

    /// All bundles, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Bundle> {
        self.0.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a document: `trust_domains` must be there and may be empty (C120), a name that
    /// comes twice is refused (C122), refresh hints of single bundles are ignored (C124).
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        const MEMBER: BundleError = BundleError::Member {
            member: "trust_domains",
        };
        check_len(json)?;
        let members = json::parse_object(json)?;
        let domains = members
            .get("trust_domains")
            .and_then(Value::as_object)
            .ok_or(MEMBER)?;
        let mut map = Self::new();
        for (name, document) in domains {
            let name = TrustDomain::parse(name)?;
            let document = document.as_object().ok_or(MEMBER)?;
            map.insert(Bundle::from_members(&name, document)?.without_hint());
        }
        Ok(map)
    }

    /// The document; single bundles carry no refresh hint in it (C123).
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct MapDocument<'a> {
            trust_domains: BTreeMap<&'a str, Document<'a>>,
        }
        let documents = self.0.iter().map(|(name, bundle)| {
            let mut document = bundle.document();
            document.spiffe_refresh_hint = None;
            (name.as_str(), document)
        });
        to_vec(&MapDocument {
            trust_domains: documents.collect(),
        })
    }
}
