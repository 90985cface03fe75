//! What has expired goes: tokens nobody joined by, entries past their end, records past their retention. Never silently.

use std::sync::Arc;

use attesta_model::{
    Action, Actor, Change, CredentialId, Denial, ObjectKey, Outcome, Plan, Record,
};
use attesta_policy::{About, Want};
use attesta_spiffe::SpiffeId;
use attesta_store::{Order, RecordQuery};
use jiff::{SignedDuration, Timestamp};

use crate::core::Core;

/// Most objects of one commit.
const BATCH: usize = 500;

/// Drops what has expired; says what, where anything did.
pub(crate) async fn tick(core: &Arc<Core>) -> Result<Option<String>, Denial> {
    // A clock in doubt would forget what is still good.
    core.check_time()?;
    let mut said = Vec::new();
    let dropped = expired(core).await?;
    if dropped > 0 {
        said.push(format!("{dropped} expired tokens and entries"));
    }
    let mut records = 0u64;
    loop {
        let request = core.request(Actor::System("forget"), Action::Forget)?;
        let note = move |pruned: &attesta_store::Pruned| {
            let mut record = Record::new(&request, Outcome::Noted);
            let ranges: Vec<String> = pruned
                .records
                .iter()
                .map(|r| format!("{} {} to {}", r.writer, r.first, r.last))
                .collect();
            record.note = format!("records past their retention: {}", ranges.join(", "));
            record
        };
        let pruned = core.ledger.prune(core.retention, note).await?;
        records += pruned
            .records
            .iter()
            .map(|r| r.last.saturating_sub(r.first).saturating_add(1))
            .sum::<u64>();
        if !pruned.more {
            break;
        }
    }
    if records > 0 {
        said.push(format!("{records} records past their retention"));
    }
    Ok((!said.is_empty()).then(|| said.join(", ")))
}

async fn expired(core: &Arc<Core>) -> Result<usize, Denial> {
    let now = core.clock.now();
    let snapshot = core.ledger.snapshot();
    let tokens = snapshot
        .tokens()
        .filter(|t| t.expires_at <= now)
        .map(|t| ObjectKey::Token(t.hash));
    let entries = snapshot
        .entries_after(None)
        .filter(|e| e.is_expired(now))
        .map(|e| ObjectKey::Entry(e.id().clone()));
    let gone: Vec<ObjectKey> = tokens.chain(entries).take(BATCH).collect();
    if gone.is_empty() {
        return Ok(0);
    }
    let request = core.request(Actor::System("forget"), Action::Forget)?;
    let (permit, mut record) = core.decide(
        &request,
        About::System {
            id: None,
            want: Want::Nothing,
        },
    )?;
    drop(permit.spend());
    record.changes = gone.iter().map(|k| (k.clone(), false)).collect();
    let count = gone.len();
    core.ledger
        .commit(None, move |snapshot, _| {
            let mut record = record.clone();
            record.revision = snapshot.revision().0;
            let mut plan = Plan::answer(()).record(record);
            plan.changes = gone.iter().cloned().map(Change::Delete).collect();
            Ok(plan)
        })
        .await?;
    Ok(count)
}

/// Recalls, at the start, the newest certificates of nodes that renewed: they are records and no objects.
pub(crate) async fn recall(core: &Core) -> Result<(), Denial> {
    let now = core.clock.now();
    let longest = core.ring.load().limits().longest_x509;
    let from = SignedDuration::try_from(longest)
        .ok()
        .and_then(|d| now.checked_sub(d).ok())
        .unwrap_or(Timestamp::MIN);
    let mut query = RecordQuery {
        from: Some(from),
        kind: Some(Action::RenewNode.as_str().to_owned()),
        order: Order::Oldest,
        limit: 1000,
        ..RecordQuery::default()
    };
    loop {
        let page = core.ledger.query(query.clone()).await?;
        for record in &page.records {
            let Ok(body) = serde_json::from_slice::<serde_json::Value>(&record.body) else {
                continue;
            };
            let text = |key: &str| body.get(key).and_then(|v| v.as_str());
            let node = text("subject").and_then(|s| SpiffeId::parse(s).ok());
            let serial = text("credential").and_then(CredentialId::parse_serial);
            let until = body
                .get("expires_at")
                .and_then(serde_json::Value::as_i64)
                .and_then(|ms| Timestamp::from_millisecond(ms).ok());
            if let (Some(node), Some(serial), Some(until)) = (node, serial, until) {
                core.seen.certificate(&node, serial, until);
            }
        }
        match page.next {
            None => return Ok(()),
            next => query.after = next,
        }
    }
}
