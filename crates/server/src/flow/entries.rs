//! Entries are made, changed and deleted: a batch is one commit, each item has its own answer, and nothing is half applied.

use std::{collections::HashMap, sync::Arc};

use attesta_authority::draw;
use attesta_model::{
    Action, Change, Code, Denial, Entry, EntryId, EntrySpec, Object, ObjectKey, Parent, Plan,
    Reason, Record, Request, Selectors, Snapshot,
};
use attesta_policy::About;

use crate::{caller::Caller, core::Core};

/// Most items of one batch.
pub(crate) const BATCH: usize = 1000;

/// An item's answer: the entry as it now is, or why not; with "already exists" comes the one that does (SPIRE's way).
pub(crate) type Answer = Result<Arc<Entry>, Refused>;

/// Why an item was refused.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) denial: Denial,
    pub(crate) existing: Option<Arc<Entry>>,
}

impl From<Denial> for Refused {
    fn from(denial: Denial) -> Self {
        Self {
            denial,
            existing: None,
        }
    }
}

/// How an update finds what it writes.
pub(crate) type Update = Box<dyn Fn(EntrySpec) -> EntrySpec + Send>;

/// What may be touched: SPIRE's API never changes what it cannot show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Spire,
    All,
}

impl Reach {
    fn sees(self, entry: &Entry) -> bool {
        self == Self::All || attesta_wire::entry::is_spires(entry)
    }
}

fn too_many(n: usize) -> Result<(), Denial> {
    if n > BATCH {
        return Err(Denial::field(
            "entries",
            format!("{n} items in one call; at most {BATCH} are taken"),
        ));
    }
    Ok(())
}

/// Creates entries.
pub(crate) async fn create(
    core: &Arc<Core>,
    caller: &Caller,
    specs: Vec<Result<EntrySpec, Denial>>,
) -> Result<Vec<Answer>, Denial> {
    too_many(specs.len())?;
    let request = core.request(caller.actor(), Action::EntryCreate)?;
    // Drawn together and sorted: the order of a batch is the order of its ids, and so of its workloads' identities.
    let mut ids = specs
        .iter()
        .map(|_| draw::uuid(request.at))
        .collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable();
    let mut drafts = Vec::with_capacity(specs.len());
    for (spec, fresh) in specs.into_iter().zip(ids) {
        drafts.push(match spec {
            Err(denial) => Err(denial),
            Ok(mut spec) => {
                spec.created_at = request.at;
                spec.revision = 0;
                let id = match spec.id.take() {
                    Some(id) => id,
                    None => EntryId::Uuid(fresh.into_bytes()),
                };
                check_federation(&spec)
                    .and_then(|()| Entry::new(spec, id, &core.trust_domain).map_err(Denial::from))
                    .map(Arc::new)
            }
        });
    }
    let batch = Batch {
        core: Arc::clone(core),
        request,
        decisions: core.request_ids(drafts.len())?,
    };
    let committed = core
        .ledger
        .commit(None, move |snapshot, _| {
            let mut plan = Plan::answer(Vec::with_capacity(drafts.len()));
            let mut fresh: HashMap<Similar, Arc<Entry>> = HashMap::new();
            for (i, draft) in drafts.iter().enumerate() {
                let answer = match draft {
                    Err(denial) => Err(Refused::from(denial.clone())),
                    Ok(entry) => batch.create(i, entry, snapshot, &fresh, &mut plan),
                };
                if let Ok(entry) = &answer {
                    fresh.insert(similar(entry), Arc::clone(entry));
                }
                plan.value.push(answer);
            }
            Ok(plan)
        })
        .await?;
    Ok(committed.value)
}

/// Changes entries by id.
pub(crate) async fn update(
    core: &Arc<Core>,
    caller: &Caller,
    updates: Vec<Result<(EntryId, Update), Denial>>,
    reach: Reach,
) -> Result<Vec<Answer>, Denial> {
    too_many(updates.len())?;
    let request = core.request(caller.actor(), Action::EntryUpdate)?;
    let batch = Batch {
        core: Arc::clone(core),
        request,
        decisions: core.request_ids(updates.len())?,
    };
    let committed = core
        .ledger
        .commit(None, move |snapshot, _| {
            let mut plan = Plan::answer(Vec::with_capacity(updates.len()));
            let mut fresh: HashMap<EntryId, Arc<Entry>> = HashMap::new();
            for (i, item) in updates.iter().enumerate() {
                let answer = match item {
                    Err(denial) => Err(Refused::from(denial.clone())),
                    Ok((id, change)) => {
                        let old = fresh
                            .get(id)
                            .or_else(|| snapshot.entry(id))
                            .filter(|e| reach.sees(e));
                        match old {
                            None => Err(Denial::not_found("entry not found").into()),
                            Some(old) => batch.update(i, old, change, snapshot, &mut plan),
                        }
                    }
                };
                if let Ok(entry) = &answer {
                    fresh.insert(entry.id().clone(), Arc::clone(entry));
                }
                plan.value.push(answer);
            }
            Ok(plan)
        })
        .await?;
    Ok(committed.value)
}

/// Deletes entries by id.
pub(crate) async fn delete(
    core: &Arc<Core>,
    caller: &Caller,
    ids: Vec<Result<EntryId, Denial>>,
    reach: Reach,
) -> Result<Vec<Answer>, Denial> {
    too_many(ids.len())?;
    let request = core.request(caller.actor(), Action::EntryDelete)?;
    let batch = Batch {
        core: Arc::clone(core),
        request,
        decisions: core.request_ids(ids.len())?,
    };
    let committed = core
        .ledger
        .commit(None, move |snapshot, _| {
            let mut plan = Plan::answer(Vec::with_capacity(ids.len()));
            let mut gone: Vec<EntryId> = Vec::new();
            for (i, id) in ids.iter().enumerate() {
                let answer = match id {
                    Err(denial) => Err(Refused::from(denial.clone())),
                    Ok(id) => match snapshot
                        .entry(id)
                        .filter(|e| reach.sees(e) && !gone.contains(id))
                    {
                        None => Err(Denial::not_found("entry not found").into()),
                        Some(entry) => {
                            let change = Change::Delete(ObjectKey::Entry(id.clone()));
                            batch
                                .decide(
                                    i,
                                    About::Entry {
                                        entry,
                                        before: None,
                                    },
                                    entry,
                                    change,
                                    snapshot,
                                    &mut plan,
                                )
                                .map(|()| {
                                    gone.push(id.clone());
                                    Arc::clone(entry)
                                })
                        }
                    },
                };
                plan.value.push(answer);
            }
            Ok(plan)
        })
        .await?;
    Ok(committed.value)
}

/// Foreign bundles must be there before an entry names them; none can be held yet.
fn check_federation(spec: &EntrySpec) -> Result<(), Denial> {
    match spec.federates_with.first() {
        None => Ok(()),
        Some(name) => Err(Denial::new(
            Code::FailedPrecondition,
            Reason::NotFound,
            format!(
                "no bundle of trust domain {:?} is held",
                attesta_model::text::bounded(name, 255)
            ),
        )
        .with_attribute("federates_with")),
    }
}

type Similar = (Parent, String, Selectors);

fn similar(entry: &Entry) -> Similar {
    (
        entry.parent().clone(),
        entry.spiffe_id().as_str().to_owned(),
        entry.selectors().clone(),
    )
}

struct Batch {
    core: Arc<Core>,
    request: Request,
    decisions: Vec<attesta_model::DecisionId>,
}

impl Batch {
    fn create(
        &self,
        i: usize,
        entry: &Arc<Entry>,
        snapshot: &Snapshot,
        fresh: &HashMap<Similar, Arc<Entry>>,
        plan: &mut Plan<Vec<Answer>>,
    ) -> Answer {
        if let Some(existing) = fresh
            .get(&similar(entry))
            .or_else(|| snapshot.similar(entry))
        {
            return Err(exists("similar entry already exists", existing));
        }
        if let Some(existing) = snapshot
            .entry(entry.id())
            .or_else(|| fresh.values().find(|e| e.id() == entry.id()))
        {
            return Err(exists("entry with this id already exists", existing));
        }
        let change = Change::Put(Object::Entry(Arc::clone(entry)));
        self.decide(
            i,
            About::Entry {
                entry,
                before: None,
            },
            entry,
            change,
            snapshot,
            plan,
        )?;
        Ok(Arc::clone(entry))
    }

    fn update(
        &self,
        i: usize,
        old: &Arc<Entry>,
        change: &Update,
        snapshot: &Snapshot,
        plan: &mut Plan<Vec<Answer>>,
    ) -> Answer {
        let mut spec = change(old.spec());
        spec.revision = old.revision().saturating_add(1);
        spec.created_at = old.created_at();
        check_federation(&spec)?;
        let entry = Arc::new(
            Entry::new(spec, old.id().clone(), &self.core.trust_domain).map_err(Denial::from)?,
        );
        if let Some(existing) = snapshot.similar(&entry).filter(|e| e.id() != entry.id()) {
            return Err(exists("similar entry already exists", existing));
        }
        let change = Change::Put(Object::Entry(Arc::clone(&entry)));
        self.decide(
            i,
            About::Entry {
                entry: &entry,
                before: Some(old),
            },
            &entry,
            change,
            snapshot,
            plan,
        )?;
        Ok(entry)
    }

    /// Decides one item and adds its change and record; a refusal is recorded as well.
    fn decide(
        &self,
        i: usize,
        about: About<'_>,
        entry: &Entry,
        change: Change,
        snapshot: &Snapshot,
        plan: &mut Plan<Vec<Answer>>,
    ) -> Result<(), Refused> {
        let mut request = self.request.clone();
        if let Some(decision) = self.decisions.get(i) {
            request.decision = *decision;
        }
        let complete = |mut record: Record| {
            record.subject = entry.spiffe_id().exact().cloned();
            record.entry = Some(entry.id().clone());
            record.parent = Some(entry.parent().to_string());
            record.revision = snapshot.revision().0;
            record
        };
        match self.core.decide(&request, about) {
            Ok((permit, record)) => {
                drop(permit.spend());
                let mut record = complete(record);
                record.changes = vec![(change.key(), matches!(change, Change::Put(_)))];
                plan.records.push(record);
                plan.changes.push(change);
                Ok(())
            }
            Err(denial) => {
                plan.records
                    .push(complete(Record::denied(&request, &denial)));
                Err(denial.with_decision(request.decision).into())
            }
        }
    }
}

fn exists(message: &str, existing: &Arc<Entry>) -> Refused {
    Refused {
        denial: Denial::new(Code::AlreadyExists, Reason::AlreadyExists, message)
            .with_rule(existing.id().to_string()),
        existing: Some(Arc::clone(existing)),
    }
}
