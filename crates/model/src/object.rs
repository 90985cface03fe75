//! Objects are what state is made of; a change puts or deletes one. The store keeps their bodies without reading them.
//!
//! Bodies are JSON with a fixed key order, version first, integers only; written once and never re-encoded.

mod body;

use std::{fmt, sync::Arc};

use attesta_spiffe::{SpiffeId, TrustDomain};

use crate::{AuthorityKey, Entry, EntryId, JoinToken, KeyId, Node, TokenHash};

/// The kinds of objects, by the words of the store's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the type of its name")]
pub enum Kind {
    Authority,
    Entry,
    Node,
    Token,
}

impl Kind {
    /// All kinds, in the order in which they are loaded.
    pub const ALL: [Self; 4] = [Self::Authority, Self::Node, Self::Token, Self::Entry];

    /// The stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Entry => "entry",
            Self::Node => "node",
            Self::Token => "token",
        }
    }

    /// The kind by its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == word)
    }
}

/// One object's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the kind of its name")]
pub enum ObjectKey {
    Authority(KeyId),
    Entry(EntryId),
    Node(SpiffeId),
    Token(TokenHash),
}

impl ObjectKey {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Authority(_) => Kind::Authority,
            Self::Entry(_) => Kind::Entry,
            Self::Node(_) => Kind::Node,
            Self::Token(_) => Kind::Token,
        }
    }

    /// A key from a row.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(kind: Kind, key: &str) -> Result<Self, BodyError> {
        let bad = |why: String| BodyError {
            kind,
            key: crate::text::bounded(key, 128),
            why,
        };
        match kind {
            Kind::Authority => KeyId::parse(key)
                .map(Self::Authority)
                .map_err(|e| bad(e.to_owned())),
            Kind::Entry => EntryId::parse(key)
                .map(Self::Entry)
                .map_err(|e| bad(e.to_owned())),
            Kind::Node => SpiffeId::parse(key)
                .map(Self::Node)
                .map_err(|e| bad(e.to_string())),
            Kind::Token => {
                let mut hash = [0; 32];
                hex::decode_to_slice(key, &mut hash).map_err(|e| bad(e.to_string()))?;
                Ok(Self::Token(TokenHash(hash)))
            }
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(id) => id.fmt(f),
            Self::Entry(id) => id.fmt(f),
            Self::Node(id) => id.fmt(f),
            Self::Token(hash) => hash.fmt(f),
        }
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the type of its name")]
pub enum Object {
    Authority(Arc<AuthorityKey>),
    Entry(Arc<Entry>),
    Node(Arc<Node>),
    Token(Arc<JoinToken>),
}

/// A body that does not say what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {key:?}: {why}", kind.as_str())]
pub struct BodyError {
    /// Which kind.
    pub kind: Kind,
    /// Which object.
    pub key: String,
    /// What is wrong.
    pub why: String,
}

impl Object {
    /// Its name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Authority(a) => ObjectKey::Authority(a.id.clone()),
            Self::Entry(e) => ObjectKey::Entry(e.id().clone()),
            Self::Node(n) => ObjectKey::Node(n.id.clone()),
            Self::Token(t) => ObjectKey::Token(t.hash),
        }
    }

    /// Its body.
    #[must_use]
    pub fn to_body(&self) -> Vec<u8> {
        body::write(self)
    }

    /// An object from a row.
    ///
    /// # Errors
    /// [`BodyError`]: the row is of a newer version, truncated or altered.
    pub fn from_body(
        kind: Kind,
        key: &str,
        body: &[u8],
        trust_domain: &TrustDomain,
    ) -> Result<Self, BodyError> {
        body::read(kind, key, body, trust_domain).map_err(|why| BodyError {
            kind,
            key: crate::text::bounded(key, 128),
            why,
        })
    }
}

/// Put or delete one object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the two things that happen to an object")]
pub enum Change {
    Put(Object),
    Delete(ObjectKey),
}

impl Change {
    /// Which object.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Put(object) => object.key(),
            Self::Delete(key) => key.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{AuthorityState, EntrySpec, Fact, Facts, KeyAlgorithm, KeyKind, Parent, Sealed};

    fn round(object: Object) {
        let td = TrustDomain::parse("example.org").unwrap();
        let body = object.to_body();
        assert!(
            body.starts_with(b"{\"v\":1,"),
            "{}",
            String::from_utf8_lossy(&body)
        );
        let key = object.key().to_string();
        let back = Object::from_body(object.key().kind(), &key, &body, &td).unwrap();
        assert_eq!(back, object);
        assert_eq!(back.to_body(), body, "never re-encoded differently");
        for cut in [0, 1, body.len() / 2, body.len() - 1] {
            assert!(Object::from_body(object.key().kind(), &key, &body[..cut], &td).is_err());
        }
        let newer = String::from_utf8(body)
            .unwrap()
            .replacen("\"v\":1", "\"v\":9", 1);
        assert!(
            Object::from_body(object.key().kind(), &key, newer.as_bytes(), &td)
                .unwrap_err()
                .why
                .contains("newer")
        );
    }

    #[test]
    fn bodies_round() {
        let td = TrustDomain::parse("example.org").unwrap();
        let at = Timestamp::from_second(1_764_000_000).unwrap();
        let node = td.with_path("/spire/agent/x509pop/a").unwrap();
        let spec = EntrySpec {
            spiffe_id: "spiffe://example.org/u/{unix.uid}".into(),
            parent: Some(Parent::Id(node.clone())),
            selectors: vec!["unix:uid:1".into(), "unix:path:/bin/\"x\"".into()],
            dns_names: vec!["b.org".into(), "a.org".into()],
            labels: vec![("k".into(), "v".into())],
            hint: "h".into(),
            owner: "team".into(),
            created_at: at,
            expires_at: Some(at),
            priority: -3,
            ..EntrySpec::default()
        };
        round(Object::Entry(Arc::new(
            Entry::new(spec, EntryId::parse("e").unwrap(), &td).unwrap(),
        )));
        round(Object::Node(Arc::new(Node {
            id: node.clone(),
            attestor: "x509pop".into(),
            facts: Facts::new([Fact::new("x509pop", "subject:cn", ["a"]).unwrap()]).unwrap(),
            valid_from: at,
            banned: true,
            can_reattest: true,
            created_at: at,
            serial: "00".into(),
            expires_at: at,
        })));
        round(Object::Token(Arc::new(JoinToken {
            hash: TokenHash([7; 32]),
            expires_at: at,
        })));
        round(Object::Authority(Arc::new(AuthorityKey {
            id: KeyId::parse("abc").unwrap(),
            kind: KeyKind::X509,
            algorithm: KeyAlgorithm::EcP384,
            state: AuthorityState::Prepared,
            certificate: Some(vec![1, 2]),
            public_key: vec![3],
            sealed: Sealed(vec![4]),
            not_before: at,
            not_after: at,
            published_at: at,
            tainted: false,
        })));
    }
}
