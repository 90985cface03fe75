//! SPIFFE's nouns, valid by construction: identifiers, bundles, X.509- and JWT-SVIDs.
//!
//! Pure: no IO, no clock (time is an argument), no randomness, and nothing of the product that
//! uses it. Check numbers (C001 and on) name the requirements of the SPIFFE standards that a rule
//! or a test covers.

#[cfg(test)]
mod differential;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod testing;

mod certificate;
mod json;
mod text;

pub mod bundle;
pub mod id;
pub mod jwtsvid;
pub mod key;
pub mod x509authority;
pub mod x509svid;

pub use bundle::{Bundle, BundleError, BundleMap, JwtKey};
pub use id::{IdError, MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, TrustDomain, check_segment};
pub use json::JsonError;
pub use jwtsvid::{JwtAlgorithm, JwtError, JwtSvid, UnverifiedJwt, lint_jwt};
pub use key::{KeyError, KeyType};
pub use x509authority::X509Authority;
pub use x509svid::{
    VerifiedX509, X509Error, leaf_id, lint_authority, lint_authority_tbs, lint_leaf, lint_leaf_tbs,
    verify_chain,
};
