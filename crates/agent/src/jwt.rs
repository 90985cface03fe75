//! JWT-SVIDs that may be served again: to the instance they were issued for, never past half their life.
//!
//! Must not know how tokens are obtained. Bounded; what would go stale first is pushed out first.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
};

use attesta_model::Instance;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::{authorized::Authorized, holdings::HoldingKey, moments};

/// Whose token for whom: the holding's key, and the audiences, sorted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TokenKey {
    pub(crate) holding: HoldingKey,
    pub(crate) audience: Vec<String>,
}

/// One JWT-SVID, wiped with the last reference.
pub(crate) struct Token {
    pub(crate) token: Zeroizing<String>,
    /// From here on it is not served any more, though it is still valid.
    stale_at: Timestamp,
    /// The entry's revision under which it was issued.
    revision: u64,
    key_id: String,
    /// Its `jti`; empty where it has none.
    pub(crate) credential: String,
}

#[derive(serde::Deserialize)]
struct Header {
    #[serde(default)]
    kid: String,
}

#[derive(serde::Deserialize)]
struct Claims {
    #[serde(default)]
    jti: String,
}

impl Token {
    /// A token that came just now; the span of its life is the server's, its beginning this machine's.
    pub(crate) fn new(
        token: String,
        revision: u64,
        issued_at: Timestamp,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        let mut parts = token.split('.');
        let kid = part(parts.next())
            .and_then(|b| serde_json::from_slice::<Header>(&b).ok())
            .map(|h| h.kid);
        let jti = part(parts.next())
            .and_then(|b| serde_json::from_slice::<Claims>(&b).ok())
            .map(|c| c.jti);
        Self {
            stale_at: moments::after(now, moments::between(issued_at, expires_at) / 2),
            revision,
            key_id: kid.unwrap_or_default(),
            credential: jti.unwrap_or_default(),
            token: Zeroizing::new(token),
        }
    }
}

fn part(text: Option<&str>) -> Option<Zeroizing<Vec<u8>>> {
    URL_SAFE_NO_PAD.decode(text?).ok().map(Zeroizing::new)
}

#[expect(
    clippy::disallowed_types,
    reason = "a cache, held for one look-up or insertion"
)]
type Lock<T> = std::sync::Mutex<T>;

/// The tokens that may be served again.
pub(crate) struct Tokens {
    all: Lock<HashMap<TokenKey, Arc<Token>>>,
    limit: usize,
}

impl Tokens {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            all: Lock::default(),
            limit,
        })
    }

    /// A token that is fresh enough, of the entry as it is now, by a key that is still believed.
    pub(crate) fn find(
        &self,
        key: &TokenKey,
        authorized: &Authorized,
        now: Timestamp,
    ) -> Option<Arc<Token>> {
        let entry = authorized.entry(&key.holding.place.entry)?;
        if entry.jwt_svid_include_jti() {
            return None;
        }
        let token = self.all().get(key).cloned()?;
        let sound = authorized
            .trust()
            .is_some_and(|trust| trust.is_sound_jwt(&token.key_id));
        (now < token.stale_at && token.revision == entry.revision() && sound).then_some(token)
    }

    /// Keeps a token.
    pub(crate) fn put(&self, key: TokenKey, token: Arc<Token>, now: Timestamp) {
        let mut all = self.all();
        if all.len() >= self.limit && !all.contains_key(&key) {
            all.retain(|_, token| now < token.stale_at);
            if all.len() >= self.limit {
                let first = all
                    .iter()
                    .min_by_key(|(_, token)| token.stale_at)
                    .map(|(key, _)| key.clone());
                first.and_then(|key| all.remove(&key));
            }
        }
        if self.limit > 0 {
            all.insert(key, token);
        }
    }

    /// Drops everything of an instance and gives the ids of what it held.
    pub(crate) fn drop_instance(&self, instance: &Instance) -> Vec<String> {
        let mut ids = Vec::new();
        self.all().retain(|key, token| {
            let stays = key.holding.instance != *instance;
            if !stays && !token.credential.is_empty() {
                ids.push(token.credential.clone());
            }
            stays
        });
        ids
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TokenKey, Arc<Token>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use attesta_spiffe::{Bundle, JwtKey};

    use super::*;
    use crate::{
        authorized::tests::{domain, entry, who},
        key::KeyPair,
        trust::Trust,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_000 + seconds).unwrap()
    }

    fn token(revision: u64, kid: &str, jti: &str) -> Arc<Token> {
        let part = |json: String| URL_SAFE_NO_PAD.encode(json);
        let text = format!(
            "{}.{}.c2ln",
            part(format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#)),
            part(format!(r#"{{"jti":"{jti}"}}"#))
        );
        // The server's clock is an hour ahead; its token lives for 100 s.
        Arc::new(Token::new(text, revision, at(3600), at(3700), at(0)))
    }

    fn authorized() -> Authorized {
        let key = KeyPair::generate(attesta_model::KeyAlgorithm::EcP256).unwrap();
        let keys = vec![JwtKey::new("k", key.spki(), None).unwrap()];
        let mut all = Authorized::trusting(Some(Trust::new(
            Bundle::new(domain(), vec![], keys, 1, None).unwrap(),
        )));
        all.put(entry("a", &["unix:uid:1"], |e| e.revision = 1));
        all.put(entry("j", &["unix:uid:1"], |e| {
            e.jwt_svid_include_jti = true
        }));
        all
    }

    fn key(entry_id: &str, pid: u32, audience: &str) -> TokenKey {
        let entry = entry(entry_id, &["unix:uid:1"], |_| ());
        let holding = HoldingKey::of(&who(pid, "1"), &entry, entry.spiffe_id().exact().unwrap());
        TokenKey {
            holding,
            audience: vec![audience.to_owned()],
        }
    }

    #[test]
    fn a_token_is_served_again_to_its_instance_for_half_its_life() {
        let (tokens, all) = (Tokens::new(10), authorized());
        tokens.put(key("a", 1, "x"), token(1, "k", "t1"), at(0));
        let found = |k: &TokenKey, now| tokens.find(k, &all, at(now)).map(|t| t.credential.clone());
        assert_eq!(found(&key("a", 1, "x"), 49).as_deref(), Some("t1"));
        assert_eq!(found(&key("a", 1, "x"), 50), None);
        assert_eq!(found(&key("a", 2, "x"), 0), None, "another process");
        assert_eq!(found(&key("a", 1, "y"), 0), None, "another audience");
        tokens.put(key("a", 1, "x"), token(0, "k", "t2"), at(0));
        assert_eq!(found(&key("a", 1, "x"), 0), None, "the entry changed");
        tokens.put(key("a", 1, "x"), token(1, "gone", "t3"), at(0));
        assert_eq!(found(&key("a", 1, "x"), 0), None, "its key is not believed");
        tokens.put(key("j", 1, "x"), token(0, "k", "t4"), at(0));
        assert_eq!(
            found(&key("j", 1, "x"), 0),
            None,
            "the entry wants a fresh one"
        );
        let mut ids = tokens.drop_instance(&who(1, "1").attested.instance);
        ids.sort();
        assert_eq!(ids, ["t3", "t4"]);
    }

    #[test]
    fn the_cache_is_bounded() {
        let tokens = Tokens::new(2);
        for pid in 1..=5 {
            tokens.put(key("a", pid, "x"), token(1, "k", "t"), at(0));
            assert!(tokens.all().len() <= 2);
        }
        let none = Tokens::new(0);
        none.put(key("a", 1, "x"), token(1, "k", "t"), at(0));
        assert!(none.all().is_empty());
    }
}
