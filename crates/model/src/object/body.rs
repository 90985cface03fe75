//! The bytes of each object. Keys stand in alphabetical order after the version; an absent key is the zero value,
//! so that a field can be added without raising the version.

use std::sync::Arc;

use attesta_spiffe::{SpiffeId, TrustDomain};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Kind, Object};
use crate::{
    AuthorityKey, AuthorityState, Entry, EntryId, EntrySpec, Fact, Facts, JoinToken, KeyAlgorithm,
    KeyId, KeyKind, Node, Parent, Sealed, Sharing, TokenHash, attested::IssuerId,
};

/// The version of every body written today.
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Version {
    v: u32,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct EntryBody {
    v: u32,
    #[serde(skip_serializing_if = "is_default")]
    admin: bool,
    created_at: i64,
    #[serde(skip_serializing_if = "is_default")]
    disable_x509_svid_prefetch: bool,
    #[serde(skip_serializing_if = "is_default")]
    dns_names: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    downstream: bool,
    #[serde(skip_serializing_if = "is_default")]
    expires_at: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    federates_with: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    hint: String,
    #[serde(skip_serializing_if = "is_default")]
    issuer: String,
    #[serde(skip_serializing_if = "is_default")]
    jwt_svid_include_jti: bool,
    #[serde(skip_serializing_if = "is_default")]
    jwt_svid_ttl: u64,
    #[serde(skip_serializing_if = "is_default")]
    labels: Vec<(String, String)>,
    #[serde(skip_serializing_if = "is_default")]
    node_shared: bool,
    #[serde(skip_serializing_if = "is_default")]
    owner: String,
    #[serde(skip_serializing_if = "is_default")]
    parent: String,
    #[serde(skip_serializing_if = "is_default")]
    priority: i32,
    #[serde(skip_serializing_if = "is_default")]
    purpose: String,
    #[serde(skip_serializing_if = "is_default")]
    revision: u64,
    selectors: Vec<String>,
    spiffe_id: String,
    #[serde(skip_serializing_if = "is_default")]
    store_svid: bool,
    #[serde(skip_serializing_if = "is_default")]
    x509_svid_ttl: u64,
}

#[derive(Serialize, Deserialize)]
struct NodeBody {
    v: u32,
    attestor: String,
    banned: bool,
    can_reattest: bool,
    created_at: i64,
    expires_at: i64,
    facts: Vec<(String, String, Vec<String>)>,
    serial: String,
    valid_from: i64,
}

#[derive(Serialize, Deserialize)]
struct TokenBody {
    v: u32,
    expires_at: i64,
}

#[derive(Serialize, Deserialize)]
struct AuthorityBody {
    v: u32,
    algorithm: String,
    #[serde(default, skip_serializing_if = "is_default")]
    certificate: String,
    kind: String,
    not_after: i64,
    not_before: i64,
    public_key: String,
    published_at: i64,
    sealed: String,
    state: String,
    tainted: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(super) fn write(object: &Object) -> Vec<u8> {
    let bytes = match object {
        Object::Entry(e) => serde_json::to_vec(&entry_body(e)),
        Object::Node(n) => serde_json::to_vec(&NodeBody {
            v: VERSION,
            attestor: n.attestor.clone(),
            banned: n.banned,
            can_reattest: n.can_reattest,
            created_at: n.created_at.as_millisecond(),
            expires_at: n.expires_at.as_millisecond(),
            facts: n
                .facts
                .iter()
                .map(|f| {
                    (
                        f.namespace().to_owned(),
                        f.key().to_owned(),
                        f.values().map(str::to_owned).collect(),
                    )
                })
                .collect(),
            serial: n.serial.clone(),
            valid_from: n.valid_from.as_millisecond(),
        }),
        Object::Token(t) => serde_json::to_vec(&TokenBody {
            v: VERSION,
            expires_at: t.expires_at.as_millisecond(),
        }),
        Object::Authority(a) => serde_json::to_vec(&AuthorityBody {
            v: VERSION,
            algorithm: a.algorithm.as_str().to_owned(),
            certificate: a.certificate.as_ref().map(hex::encode).unwrap_or_default(),
            kind: a.kind.as_str().to_owned(),
            not_after: a.not_after.as_millisecond(),
            not_before: a.not_before.as_millisecond(),
            public_key: hex::encode(&a.public_key),
            published_at: a.published_at.as_millisecond(),
            sealed: hex::encode(&a.sealed.0),
            state: a.state.as_str().to_owned(),
            tainted: a.tainted,
        }),
    };
    // Strings, integers, booleans and lists of them: serialisation of these types has no failing case.
    bytes.unwrap_or_default()
}

fn entry_body(e: &Entry) -> EntryBody {
    let spec = e.spec();
    let (parent, issuer) = match e.parent() {
        Parent::Server => (String::new(), String::new()),
        Parent::Id(id) => (id.to_string(), String::new()),
        Parent::Issuer(id) => (String::new(), id.as_str().to_owned()),
    };
    EntryBody {
        v: VERSION,
        admin: spec.admin,
        created_at: spec.created_at.as_second(),
        disable_x509_svid_prefetch: spec.disable_x509_svid_prefetch,
        dns_names: spec.dns_names,
        downstream: spec.downstream,
        expires_at: spec.expires_at.map(Timestamp::as_second),
        federates_with: spec.federates_with,
        hint: spec.hint,
        issuer,
        jwt_svid_include_jti: spec.jwt_svid_include_jti,
        jwt_svid_ttl: spec.jwt_svid_ttl.as_secs(),
        labels: spec.labels,
        node_shared: spec.sharing == Sharing::Node,
        owner: spec.owner,
        parent,
        priority: spec.priority,
        purpose: spec.purpose,
        revision: spec.revision,
        selectors: spec.selectors,
        spiffe_id: spec.spiffe_id,
        store_svid: spec.store_svid,
        x509_svid_ttl: spec.x509_svid_ttl.as_secs(),
    }
}

pub(super) fn read(
    kind: Kind,
    key: &str,
    body: &[u8],
    trust_domain: &TrustDomain,
) -> Result<Object, String> {
    match kind {
        Kind::Entry => read_entry(key, body, trust_domain).map(|e| Object::Entry(Arc::new(e))),
        Kind::Node => read_node(key, body).map(|n| Object::Node(Arc::new(n))),
        Kind::Token => read_token(key, body).map(|t| Object::Token(Arc::new(t))),
        Kind::Authority => read_authority(key, body).map(|a| Object::Authority(Arc::new(a))),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], version: impl Fn(&T) -> u32) -> Result<T, String> {
    let read: Result<T, _> = serde_json::from_slice(body);
    let v = match &read {
        Ok(read) => version(read),
        Err(e) => {
            serde_json::from_slice::<Version>(body)
                .map_err(|_| e.to_string())?
                .v
        }
    };
    if v != VERSION {
        return Err(format!(
            "is of version {v}, newer than this binary knows; start the version that wrote it, or restore a backup"
        ));
    }
    read.map_err(|e| e.to_string())
}

fn second(value: i64) -> Result<Timestamp, String> {
    Timestamp::from_second(value).map_err(|e| e.to_string())
}

fn milli(value: i64) -> Result<Timestamp, String> {
    Timestamp::from_millisecond(value).map_err(|e| e.to_string())
}

fn read_entry(key: &str, body: &[u8], trust_domain: &TrustDomain) -> Result<Entry, String> {
    let b: EntryBody = parse(body, |b: &EntryBody| b.v)?;
    let parent = if !b.issuer.is_empty() {
        Parent::Issuer(IssuerId::parse(&b.issuer)?)
    } else if b.parent.is_empty() {
        Parent::Server
    } else {
        Parent::Id(SpiffeId::parse(&b.parent).map_err(|e| e.to_string())?)
    };
    let spec = EntrySpec {
        id: None,
        spiffe_id: b.spiffe_id,
        parent: Some(parent),
        selectors: b.selectors,
        x509_svid_ttl: std::time::Duration::from_secs(b.x509_svid_ttl),
        jwt_svid_ttl: std::time::Duration::from_secs(b.jwt_svid_ttl),
        federates_with: b.federates_with,
        admin: b.admin,
        downstream: b.downstream,
        expires_at: b.expires_at.map(second).transpose()?,
        dns_names: b.dns_names,
        revision: b.revision,
        created_at: second(b.created_at)?,
        store_svid: b.store_svid,
        hint: b.hint,
        disable_x509_svid_prefetch: b.disable_x509_svid_prefetch,
        jwt_svid_include_jti: b.jwt_svid_include_jti,
        owner: b.owner,
        purpose: b.purpose,
        labels: b.labels,
        priority: b.priority,
        sharing: if b.node_shared {
            Sharing::Node
        } else {
            Sharing::Instance
        },
    };
    Entry::new(spec, EntryId::parse(key)?, trust_domain).map_err(|e| e.to_string())
}

fn read_node(key: &str, body: &[u8]) -> Result<Node, String> {
    let b: NodeBody = parse(body, |b: &NodeBody| b.v)?;
    let facts = b
        .facts
        .iter()
        .map(|(ns, key, values)| Fact::new(ns, key, values))
        .collect::<Result<Vec<_>, _>>()
        .and_then(Facts::new)
        .map_err(|e| e.to_string())?;
    Ok(Node {
        id: SpiffeId::parse(key).map_err(|e| e.to_string())?,
        attestor: b.attestor,
        facts,
        valid_from: milli(b.valid_from)?,
        banned: b.banned,
        can_reattest: b.can_reattest,
        created_at: milli(b.created_at)?,
        serial: b.serial,
        expires_at: milli(b.expires_at)?,
    })
}

fn read_token(key: &str, body: &[u8]) -> Result<JoinToken, String> {
    let b: TokenBody = parse(body, |b: &TokenBody| b.v)?;
    let mut hash = [0; 32];
    hex::decode_to_slice(key, &mut hash).map_err(|e| e.to_string())?;
    Ok(JoinToken {
        hash: TokenHash(hash),
        expires_at: milli(b.expires_at)?,
    })
}

fn read_authority(key: &str, body: &[u8]) -> Result<AuthorityKey, String> {
    let b: AuthorityBody = parse(body, |b: &AuthorityBody| b.v)?;
    let bytes = |text: &str| hex::decode(text).map_err(|e| e.to_string());
    Ok(AuthorityKey {
        id: KeyId::parse(key)?,
        kind: [KeyKind::X509, KeyKind::Jwt]
            .into_iter()
            .find(|k| k.as_str() == b.kind)
            .ok_or("has an unknown kind")?,
        algorithm: KeyAlgorithm::parse(&b.algorithm).ok_or("has an unknown algorithm")?,
        state: AuthorityState::parse(&b.state).ok_or("has an unknown state")?,
        certificate: if b.certificate.is_empty() {
            None
        } else {
            Some(bytes(&b.certificate)?)
        },
        public_key: bytes(&b.public_key)?,
        sealed: Sealed(bytes(&b.sealed)?),
        not_before: milli(b.not_before)?,
        not_after: milli(b.not_after)?,
        published_at: milli(b.published_at)?,
        tainted: b.tainted,
    })
}
