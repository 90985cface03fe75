//! The trust domain's keys turn over: prepared, published, active, old, gone. Each step is asked for by a System actor.

use std::sync::Arc;

use attesta_authority::{Credential, Due, ring::authority_name};
use attesta_model::{
    Action, Actor, AuthorityKey, AuthorityState, Change, Code, Denial, KeyAlgorithm, KeyId,
    KeyKind, Object, ObjectKey, Plan, Reason, Record, Sealed,
};
use attesta_policy::{About, Want};
use jiff::SignedDuration;

use crate::core::Core;

/// Does everything that is due, and says what it did.
pub(crate) async fn turn(core: &Arc<Core>) -> Result<Vec<String>, Denial> {
    let mut did = Vec::new();
    // Each step moves an authority on or removes one, so a handful of rounds settles any state.
    for _ in 0..8 {
        let due = attesta_authority::lifecycle::due(
            &core.ledger.snapshot(),
            &core.wanted_keys,
            &core.lifetimes,
            core.clock.now(),
        );
        if due.is_empty() {
            break;
        }
        core.check_time()?;
        for step in due {
            did.push(match step {
                Due::Prepare {
                    kind,
                    algorithm,
                    first,
                } => prepare(core, kind, algorithm, first).await?,
                Due::Activate { prepared, active } => activate(core, prepared, active).await?,
                Due::Retire(id) => retire(core, id).await?,
            });
        }
    }
    Ok(did)
}

fn internal(why: impl std::fmt::Display) -> Denial {
    Denial::new(Code::Internal, Reason::Signing, why.to_string())
}

async fn prepare(
    core: &Arc<Core>,
    kind: KeyKind,
    algorithm: KeyAlgorithm,
    first: bool,
) -> Result<String, Denial> {
    let made = {
        let core = Arc::clone(core);
        // An RSA key takes a tenth of a second.
        tokio::task::spawn_blocking(move || {
            let name = |spki: &[u8]| authority_name(kind, spki).unwrap_or_else(|| unnamed(spki));
            core.keys
                .generate(&core.trust_domain, kind, algorithm, &name)
        })
        .await
        .map_err(internal)?
        .map_err(internal)?
    };
    let request = core.request(Actor::System("authorities"), Action::AuthorityPrepare)?;
    let lifetime = SignedDuration::try_from(core.lifetimes.authority).map_err(internal)?;
    let backdate = SignedDuration::from_secs(10);
    let mut authority = AuthorityKey {
        id: authority_name(kind, &made.public_key)
            .ok_or_else(|| internal("a new key has no name"))?,
        kind,
        algorithm,
        state: if first {
            AuthorityState::Active
        } else {
            AuthorityState::Prepared
        },
        certificate: None,
        public_key: made.public_key,
        sealed: Sealed(made.sealed.0),
        not_before: request.at.checked_sub(backdate).map_err(internal)?,
        not_after: whole_second(request.at.checked_add(lifetime).map_err(internal)?),
        published_at: request.at,
        tainted: false,
    };
    let (permit, mut record) = core.decide(
        &request,
        About::System {
            id: None,
            want: Want::Nothing,
        },
    )?;
    record.note = format!(
        "{} {} {}",
        kind.as_str(),
        algorithm.as_str(),
        authority.state.as_str()
    );
    record.key = Some(authority.id.clone());
    if kind == KeyKind::X509 {
        // Its certificate is a signature like any other: recorded first, then signed, then published.
        let signer = core
            .keys
            .open(&core.trust_domain, &authority)
            .map_err(internal)?;
        let ring = core.ring.load();
        let prepared =
            ring.prepare_authority(permit, &authority, signer, &core.drawn(request.at)?)?;
        let receipt = core.receipt(prepared.describe(record.clone())).await?;
        let Credential::X509(signed) = ring.sign(prepared, receipt).await? else {
            return Err(internal("an authority's certificate came out as a token"));
        };
        authority.certificate = Some(signed.certificate);
        record.note.push_str(" published");
    } else {
        drop(permit.spend());
    }
    let said = format!("prepared {} authority {}", kind.as_str(), authority.id);
    commit(
        core,
        vec![Change::Put(Object::Authority(Arc::new(authority)))],
        record,
    )
    .await?;
    Ok(said)
}

/// Never reached for keys of ours; a name that collides with nothing.
fn unnamed(spki: &[u8]) -> KeyId {
    let digits: String = spki.iter().take(32).map(|b| format!("{b:02x}")).collect();
    KeyId::parse(&format!("k{digits}")).unwrap_or_else(|_| unnamed(b""))
}

async fn activate(
    core: &Arc<Core>,
    prepared: KeyId,
    active: Option<KeyId>,
) -> Result<String, Denial> {
    let request = core.request(Actor::System("authorities"), Action::AuthorityActivate)?;
    let (permit, mut record) = core.decide(
        &request,
        About::System {
            id: None,
            want: Want::Nothing,
        },
    )?;
    let snapshot = core.ledger.snapshot();
    let with = |id: &KeyId, state| {
        snapshot
            .authorities()
            .find(|a| a.id == *id)
            .map(|a| {
                Change::Put(Object::Authority(Arc::new(AuthorityKey {
                    state,
                    ..a.as_ref().clone()
                })))
            })
            .ok_or_else(|| internal(format!("authority {id} is gone")))
    };
    let mut changes = vec![with(&prepared, AuthorityState::Active)?];
    if let Some(active) = &active {
        changes.push(with(active, AuthorityState::Old)?);
    }
    drop(permit.spend());
    record.key = Some(prepared.clone());
    commit(core, changes, record).await?;
    Ok(format!("activated authority {prepared}"))
}

async fn retire(core: &Arc<Core>, id: KeyId) -> Result<String, Denial> {
    let request = core.request(Actor::System("authorities"), Action::AuthorityRetire)?;
    let (permit, mut record) = core.decide(
        &request,
        About::System {
            id: None,
            want: Want::Nothing,
        },
    )?;
    drop(permit.spend());
    record.key = Some(id.clone());
    commit(
        core,
        vec![Change::Delete(ObjectKey::Authority(id.clone()))],
        record,
    )
    .await?;
    Ok(format!("retired authority {id}"))
}

async fn commit(core: &Core, changes: Vec<Change>, mut record: Record) -> Result<(), Denial> {
    record.changes = changes
        .iter()
        .map(|c| (c.key(), matches!(c, Change::Put(_))))
        .collect();
    // The digest belongs to the signature's own record.
    record.digest = None;
    core.ledger
        .commit(None, move |snapshot, _| {
            let mut record = record.clone();
            record.revision = snapshot.revision().0;
            let mut plan = Plan::answer(()).record(record);
            plan.changes.clone_from(&changes);
            Ok(plan)
        })
        .await
        .map(|_| ())
}

fn whole_second(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at)
}
