//! A node: what an attested agent is to us; and the token by which one may join.

use attesta_spiffe::SpiffeId;
use jiff::Timestamp;

use crate::{Facts, SelectorSet};

/// An attested node. Renewals do not change it (DESIGN section 4): they are records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `spiffe://td/spire/agent/<attestor>/<suffix>`.
    pub id: SpiffeId,
    /// The node attestor's name.
    pub attestor: String,
    /// What was proven of it.
    pub facts: Facts,
    /// Certificates whose serial's time lies before this are refused. Raised by ban, evict and re-attestation.
    pub valid_from: Timestamp,
    /// Refused until deleted.
    pub banned: bool,
    /// Whether it may attest again with the same evidence.
    pub can_reattest: bool,
    /// When it first attested.
    pub created_at: Timestamp,
    /// The certificate of its latest attestation: its serial, and when that ends.
    pub serial: String,
    /// When the certificate of its latest attestation ends.
    pub expires_at: Timestamp,
}

impl Node {
    /// Its facts as selectors.
    #[must_use]
    pub fn selectors(&self) -> SelectorSet {
        self.facts.selectors()
    }
}

/// The SHA-256 of a token's text: bearer tokens are stored as hashes only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl std::fmt::Display for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Leave to join once (SPIRE's join token).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// The hash of the token.
    pub hash: TokenHash,
    /// When it is worthless.
    pub expires_at: Timestamp,
}
