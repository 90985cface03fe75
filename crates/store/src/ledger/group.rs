//! A group of commands on its way into one transaction: the working copy, what was collected, and who gets what.

use std::collections::{BTreeSet, HashMap};

use attesta_model::{
    Change, Code, Denial, EntryId, Once, OnceHolder, OnceKey, Rarity, Reason, Revision, Snapshot,
    Touched,
};
use jiff::Timestamp;

use super::{
    Used,
    command::{Command, Wish},
    once_key,
};
use crate::{Backend, BackendError, Batch, ChangedRow, Head, OnceRow};

/// What one command gets when the group is durable: its records' places in the batch, and its revision.
pub(super) struct Span {
    pub(super) records: std::ops::Range<usize>,
    pub(super) revision: Revision,
}

/// See the module.
pub(super) struct Group {
    pub(super) work: Snapshot,
    pub(super) batch: Batch,
    pub(super) digests: Vec<Option<[u8; 32]>>,
    pub(super) touched: Touched,
    pending: HashMap<OnceKey, (OnceHolder, Timestamp)>,
    entries: BTreeSet<EntryId>,
}

/// Why a command did not get into the group.
pub(super) enum Out {
    Denied(Denial),
    Failed(BackendError),
}

impl From<Denial> for Out {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl Group {
    pub(super) fn on(current: &Snapshot) -> Self {
        Self {
            work: current.clone(),
            batch: Batch {
                base: current.revision(),
                ..Batch::default()
            },
            digests: Vec::new(),
            touched: Touched::default(),
            pending: HashMap::new(),
            entries: BTreeSet::new(),
        }
    }

    /// Runs one command on what the one before it left. Nothing of a refused one stays.
    pub(super) fn run(
        &mut self,
        command: &mut dyn Command,
        backend: &mut dyn Backend,
        rarity: &mut Rarity,
        now: Timestamp,
    ) -> Result<Span, Out> {
        let asked = command.once().cloned();
        let used = match &asked {
            Some((key, holder)) => self.used(key, *holder, backend)?,
            None => Used::No,
        };
        let mut unused = if used == Used::No {
            asked.map(|(key, _)| key)
        } else {
            None
        };
        let mut wish = command.run(&self.work, used)?;
        if let Some((key, holder)) = self.clash(&wish, unused.as_ref(), backend)? {
            if used != Used::No {
                return Err(replay(&key).into());
            }
            // It did not know: it is told, and may decide otherwise.
            let used = self.used(&key, holder, backend)?;
            unused = None;
            wish = command.run(&self.work, used)?;
            if let Some((key, _)) = self.clash(&wish, unused.as_ref(), backend)? {
                return Err(replay(&key).into());
            }
        }
        let once = self.check(&wish, now)?;
        Ok(self.take(wish, once, rarity))
    }

    fn used(
        &self,
        key: &OnceKey,
        holder: OnceHolder,
        backend: &mut dyn Backend,
    ) -> Result<Used, Out> {
        let found = match self.pending.get(key) {
            Some(found) => Some(*found),
            None => backend
                .used(key)
                .map_err(Out::Failed)?
                .map(|u| (u.holder, u.at)),
        };
        Ok(match found {
            None => Used::No,
            Some((by, at)) if by == holder => Used::ByYou { at },
            Some((_, at)) => Used::ByAnother { at },
        })
    }

    /// The first evidence of the plan that was used before; `unused` was looked up already.
    fn clash(
        &self,
        wish: &Wish,
        unused: Option<&OnceKey>,
        backend: &mut dyn Backend,
    ) -> Result<Option<(OnceKey, OnceHolder)>, Out> {
        for (once, holder) in &wish.once {
            let key = once_key(once);
            if Some(&key) != unused && self.used(&key, *holder, backend)? != Used::No {
                return Ok(Some((key, *holder)));
            }
        }
        Ok(None)
    }

    /// Checks the plan's evidence, and says how long each must be remembered.
    fn check(&self, wish: &Wish, now: Timestamp) -> Result<Vec<OnceRow>, Denial> {
        let mut rows: Vec<OnceRow> = Vec::with_capacity(wish.once.len());
        for (once, holder) in &wish.once {
            if wish.records.is_empty() {
                return Err(Denial::new(
                    Code::Internal,
                    Reason::Ledger,
                    "a plan uses evidence and records nothing",
                ));
            }
            let expires_at = match once {
                Once::Fresh { expires_at, .. } => *expires_at,
                Once::Issued(hash) => {
                    let Some(token) = self.work.token(hash) else {
                        return Err(Denial::new(
                            Code::PermissionDenied,
                            Reason::TokenUnknown,
                            "this token was not issued here, or is used up",
                        ));
                    };
                    if token.expires_at <= now {
                        let message = format!("this token expired at {}", token.expires_at);
                        return Err(Denial::new(
                            Code::PermissionDenied,
                            Reason::TokenExpired,
                            message,
                        ));
                    }
                    let key = attesta_model::ObjectKey::Token(*hash);
                    if !wish
                        .changes
                        .iter()
                        .any(|c| matches!(c, Change::Delete(k) if *k == key))
                    {
                        return Err(Denial::new(
                            Code::Internal,
                            Reason::Ledger,
                            "a plan uses a token and does not delete it",
                        ));
                    }
                    token.expires_at
                }
            };
            let key = once_key(once);
            if rows.iter().any(|r| r.key == key) {
                return Err(replay(&key));
            }
            rows.push(OnceRow {
                key,
                expires_at,
                holder: *holder,
                at: now,
                record: self.batch.records.len(),
            });
        }
        Ok(rows)
    }

    /// Takes a checked plan in. From here on nothing can refuse it but the backend, and that the whole group.
    fn take(&mut self, wish: Wish, once: Vec<OnceRow>, rarity: &mut Rarity) -> Span {
        if !wish.changes.is_empty() {
            let revision = self.work.revision().next();
            for change in &wish.changes {
                let key = change.key();
                let body = match change {
                    Change::Put(object) => Some(object.to_body()),
                    Change::Delete(_) => None,
                };
                self.batch.changes.push(ChangedRow {
                    kind: key.kind(),
                    key: key.to_string(),
                    revision,
                    body,
                });
                if let attesta_model::ObjectKey::Entry(id) = key {
                    self.entries.insert(id);
                }
            }
            merge(
                &mut self.touched,
                self.work.apply(&wish.changes, revision, rarity),
            );
            self.batch.head = Head {
                revision,
                bundle_revision: self.work.bundle_revision(),
            };
        }
        for row in once {
            self.pending.insert(row.key.clone(), (row.holder, row.at));
            self.batch.once.push(row);
        }
        let first = self.batch.records.len();
        for (row, digest) in wish.records {
            self.batch.records.push(row);
            self.digests.push(digest);
        }
        Span {
            records: first..self.batch.records.len(),
            revision: self.work.revision(),
        }
    }

    /// Takes back what the working copy added to the counts that are kept beside the snapshots.
    pub(super) fn undo(&self, current: &Snapshot, rarity: &mut Rarity) {
        for id in &self.entries {
            for selector in self
                .work
                .entry(id)
                .iter()
                .flat_map(|e| e.selectors().iter())
            {
                rarity.sub(selector);
            }
            for selector in current.entry(id).iter().flat_map(|e| e.selectors().iter()) {
                rarity.add(selector);
            }
        }
    }
}

/// Adds what one commit touched to what others did.
pub(super) fn merge(all: &mut Touched, one: Touched) {
    all.parents.extend(one.parents);
    all.parents.sort_unstable();
    all.parents.dedup();
    all.nodes.extend(one.nodes);
    all.nodes.sort_unstable();
    all.nodes.dedup();
    all.bundle |= one.bundle;
}

fn replay(key: &OnceKey) -> Denial {
    // The key's kind is ours; the rest came from outside, may be long, and may be what makes a token guessable.
    let kind = key.as_str().split(':').next().unwrap_or_default();
    Denial::new(
        Code::PermissionDenied,
        Reason::Replay,
        format!("this evidence ({kind}) was used before"),
    )
}
