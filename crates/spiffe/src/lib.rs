//! SPIFFE's nouns, valid by construction: identifiers, bundles, X.509- and JWT-SVIDs.
//!
//! Pure: no IO, no clock (time is an argument), no randomness, and nothing of the product that
//! uses it. Check numbers (C001 and on) name the requirements of the SPIFFE standards that a rule
//! or a test covers.

pub mod id;

pub use id::{IdError, MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, TrustDomain, check_segment};
