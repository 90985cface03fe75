//! Shown, and believed: evidence becomes `Attested` in an attestor and nowhere else.

use std::{fmt, sync::Arc};

use attesta_spiffe::{SpiffeId, TrustDomain};
use jiff::Timestamp;

use crate::{EntryId, Facts, Instance, SelectorSet, TokenHash};

/// What a caller shows, unverified: the attestor's name and its payload.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The attestor that can read the payload: `join_token`.
    pub kind: String,
    /// The payload, as its attestor defines it. Never logged: a join token is a secret.
    pub payload: Vec<u8>,
}

/// Who vouches for a caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parent {
    /// The server itself: it vouches for nodes (SPIRE's `spiffe://td/spire/server`).
    Server,
    /// A node, or whatever an entry names; it need not exist yet.
    Id(SpiffeId),
    /// A configured token issuer, by an opaque id, never by its URL.
    Issuer(IssuerId),
}

/// A configured token issuer's opaque name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerId(Arc<str>);

impl IssuerId {
    /// An issuer's name: 1 to 64 of `a-z 0-9 -`.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(name: &str) -> Result<Self, &'static str> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err("an issuer's name is 1 to 64 of a-z 0-9 -");
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Parent {
    /// The parent an id names on SPIRE's wire: `/spire/server` is the server.
    #[must_use]
    pub fn from_id(id: &SpiffeId) -> Self {
        if id.path() == SERVER_PATH {
            Self::Server
        } else {
            Self::Id(id.clone())
        }
    }

    /// The id that names this parent on SPIRE's wire; an issuer has none.
    #[must_use]
    pub fn to_id(&self, trust_domain: &TrustDomain) -> Option<SpiffeId> {
        match self {
            Self::Server => trust_domain.with_path(SERVER_PATH).ok(),
            Self::Id(id) => Some(id.clone()),
            Self::Issuer(_) => None,
        }
    }
}

/// The path of the server's own id.
pub const SERVER_PATH: &str = "/spire/server";
/// The prefix below which agents live; see [`crate::node`].
pub const AGENT_PREFIX: &str = "/spire/agent/";

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("server"),
            Self::Id(id) => write!(f, "{id}"),
            Self::Issuer(id) => write!(f, "issuer:{}", id.as_str()),
        }
    }
}

/// A key that makes evidence usable once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnceKey(String);

impl OnceKey {
    /// A key in a namespace of its own, so that two kinds of evidence can never collide.
    #[must_use]
    pub fn new(kind: &str, key: &str) -> Self {
        Self(format!("{kind}:{key}"))
    }

    /// The key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Evidence that is good for one use (DESIGN section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Once {
    /// Any evidence with a key of its own, such as a token's `jti`; kept until it has expired.
    Fresh {
        /// What must not come twice.
        key: OnceKey,
        /// When the evidence itself is worthless.
        expires_at: Timestamp,
    },
    /// Evidence that we issued: an object of the snapshot, found by its hash and deleted by use.
    Issued(TokenHash),
}

/// Believed: facts, the one instance they are about, and the parent who vouches.
#[derive(Clone, Debug)]
pub struct Attested {
    /// Who vouches.
    pub parent: Parent,
    /// What is proven.
    pub facts: Facts,
    /// The facts as selectors, rendered once.
    pub selectors: SelectorSet,
    /// What the credential is bound to.
    pub instance: Instance,
    /// Whether the evidence was good for one use.
    pub once: Option<Once>,
}

impl Attested {
    /// An attestor's verdict.
    #[must_use]
    pub fn new(parent: Parent, facts: Facts, instance: Instance, once: Option<Once>) -> Self {
        let selectors = facts.selectors();
        Self {
            parent,
            facts,
            selectors,
            instance,
            once,
        }
    }
}

/// By what a caller asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// By its facts; the entry must match them.
    Facts,
    /// By an entry's id, SPIRE's way: an untemplated entry authorised for this node.
    Entry(EntryId),
}
