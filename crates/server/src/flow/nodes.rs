//! Nodes are banned and evicted; tokens to join by are made.

use std::{sync::Arc, time::Duration};

use attesta_authority::draw;
use attesta_model::{
    Action, Change, Code, Denial, Entry, EntryId, EntrySpec, FieldError, JoinToken, Node, Object,
    ObjectKey, Parent, Plan, Reason, Record, Request, Snapshot, TokenHash,
};
use attesta_policy::About;
use attesta_spiffe::SpiffeId;
use attesta_store::Committed;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};

use crate::{caller::Caller, core::Core};

/// The clock skew allowed between servers: what a ban retires is everything another server may have issued meanwhile.
const SKEW: SignedDuration = SignedDuration::from_secs(60);
/// Longest life of a join token.
pub(crate) const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bans a node until it is deleted.
pub(crate) async fn ban(core: &Arc<Core>, caller: &Caller, id: SpiffeId) -> Result<(), Denial> {
    let request = core.request(caller.actor(), Action::NodeBan)?;
    target(core, request, id, |node, at| {
        let banned = Node {
            banned: true,
            valid_from: at.checked_add(SKEW).unwrap_or(at).max(node.valid_from),
            ..node.clone()
        };
        vec![Change::Put(Object::Node(Arc::new(banned)))]
    })
    .await
}

/// Evicts a node: it must attest again. What a join token's alias gave goes with it.
pub(crate) async fn evict(core: &Arc<Core>, caller: &Caller, id: SpiffeId) -> Result<(), Denial> {
    let request = core.request(caller.actor(), Action::NodeEvict)?;
    let gone = id.clone();
    target(core, request, id, |node, _| {
        vec![Change::Delete(ObjectKey::Node(node.id.clone()))]
    })
    .await?;
    core.seen.forget(&gone);
    Ok(())
}

async fn target(
    core: &Arc<Core>,
    request: Request,
    id: SpiffeId,
    change: fn(&Node, Timestamp) -> Vec<Change>,
) -> Result<(), Denial> {
    let decider = Arc::clone(core);
    let committed: Committed<Result<(), Denial>> = core
        .ledger
        .commit(None, move |snapshot, _| {
            let Some(node) = snapshot.node(&id) else {
                return Err(Denial::not_found("agent not found").with_attribute(id.as_str()));
            };
            let complete = |mut record: Record| {
                record.subject = Some(id.clone());
                record.revision = snapshot.revision().0;
                record
            };
            match decider.decide(&request, About::Target(id.as_str())) {
                Err(denial) => Ok(Plan::answer(Err(denial.clone()))
                    .record(complete(Record::denied(&request, &denial)))),
                Ok((permit, record)) => {
                    let mut record = complete(record);
                    drop(permit.spend());
                    let mut changes = change(node, request.at);
                    if request.action == Action::NodeEvict {
                        changes.extend(alias_of(snapshot, node));
                    }
                    record.changes = changes
                        .iter()
                        .map(|c| (c.key(), matches!(c, Change::Put(_))))
                        .collect();
                    let mut plan = Plan::answer(Ok(())).record(record);
                    plan.changes = changes;
                    Ok(plan)
                }
            }
        })
        .await?;
    committed.value
}

/// The alias entry that came with a node's join token.
fn alias_of(snapshot: &Snapshot, node: &Node) -> Vec<Change> {
    if node.attestor != "join_token" {
        return Vec::new();
    }
    let selector = alias_selector(&node.id);
    snapshot
        .entries_of(&Parent::Id(node.id.clone()))
        .filter(|e| e.selectors().iter().eq(std::iter::once(selector.as_str())))
        .map(|e| Change::Delete(ObjectKey::Entry(e.id().clone())))
        .collect()
}

fn alias_selector(node: &SpiffeId) -> String {
    format!("spiffe_id:{node}")
}

/// A new token, shown once.
pub(crate) struct Token {
    pub(crate) value: String,
    pub(crate) expires_at: Timestamp,
}

/// Makes a join token; with `alias`, workloads below that id belong to the node that joins.
pub(crate) async fn create_token(
    core: &Arc<Core>,
    caller: &Caller,
    ttl: Duration,
    value: Option<String>,
    alias: Option<SpiffeId>,
) -> Result<Token, Denial> {
    if ttl.is_zero() {
        return Err(Denial::field(
            "ttl",
            "ttl is required, you must provide one",
        ));
    }
    if ttl > TOKEN_TTL_MAX {
        return Err(FieldError::new(
            "ttl",
            ttl.as_secs().to_string(),
            "is longer than 30 days; a token that lies about for long is a secret that leaks",
        )
        .into());
    }
    let request = core.request(caller.actor(), Action::TokenCreate)?;
    let value = match value {
        Some(v) => check_token(&v).map(|()| v)?,
        None => uuid::Builder::from_random_bytes(draw::bytes()?)
            .into_uuid()
            .hyphenated()
            .to_string(),
    };
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, value.as_bytes()).as_ref());
    let hash = TokenHash(hash);
    let node = core
        .trust_domain
        .with_path(&format!("/spire/agent/join_token/{value}"))
        .map_err(|_| Denial::field("token", "a token is 1 to 255 of A-Z a-z 0-9 - _ ."))?;
    let ttl = SignedDuration::try_from(ttl).map_err(|e| Denial::field("ttl", e.to_string()))?;
    let expires_at = request
        .at
        .checked_add(ttl)
        .map_err(|e| Denial::field("ttl", e.to_string()))?;
    let token = Arc::new(JoinToken { hash, expires_at });
    let alias = match alias {
        None => None,
        Some(id) => {
            let spec = EntrySpec {
                spiffe_id: id.to_string(),
                parent: Some(Parent::Id(node.clone())),
                selectors: vec![alias_selector(&node)],
                created_at: request.at,
                ..EntrySpec::default()
            };
            let entry = EntryId::Uuid(draw::uuid(request.at)?.into_bytes());
            Some(Arc::new(Entry::new(spec, entry, &core.trust_domain)?))
        }
    };
    let decider = Arc::clone(core);
    let committed = core
        .ledger
        .commit(None, move |snapshot, _| {
            if snapshot.token(&hash).is_some() || snapshot.node(&node).is_some() {
                return Err(Denial::new(
                    Code::AlreadyExists,
                    Reason::AlreadyExists,
                    "this token already exists or was used",
                ));
            }
            // The record names the token by its hash: its text is the secret.
            let name = hash.to_string();
            match decider.decide(&request, About::Target(&name)) {
                Err(denial) => {
                    Ok(Plan::answer(Err(denial.clone())).record(Record::denied(&request, &denial)))
                }
                Ok((permit, mut record)) => {
                    drop(permit.spend());
                    record.revision = snapshot.revision().0;
                    record.expires_at = Some(expires_at);
                    let mut changes = vec![Change::Put(Object::Token(Arc::clone(&token)))];
                    changes.extend(
                        alias
                            .iter()
                            .map(|e| Change::Put(Object::Entry(Arc::clone(e)))),
                    );
                    record.changes = changes.iter().map(|c| (c.key(), true)).collect();
                    let mut plan = Plan::answer(Ok(())).record(record);
                    plan.changes = changes;
                    Ok(plan)
                }
            }
        })
        .await?;
    committed.value?;
    Ok(Token { value, expires_at })
}

fn check_token(value: &str) -> Result<(), Denial> {
    if value.len() > 255 {
        return Err(Denial::field("token", "token is longer than 255 bytes"));
    }
    attesta_spiffe::check_segment(value)
        .map_err(|_| Denial::field("token", "a token is 1 to 255 of A-Z a-z 0-9 - _ ."))
}
