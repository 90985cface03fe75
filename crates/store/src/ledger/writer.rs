//! The one writer: a thread that owns the backend, takes what waits as one group, and publishes what is durable.

use std::sync::{Arc, mpsc};

use attesta_model::{Denial, Rarity, Revision, Snapshot, Touched};
use attesta_runtime::{Clock, Writer};
use attesta_spiffe::TrustDomain;
use tokio::sync::mpsc as queue;

use super::{
    Trouble,
    command::{Job, Message, reply},
    group::{Group, Out, Span},
    load, seal, unavailable,
};
use crate::{
    Appended, Backend, BackendError, Failpoints, LedgerId, Position, Pruned, Receipt, Retention,
    Since,
    failpoints::{AFTER_FSYNC, BEFORE_COMMIT},
};

/// Most commands of one group: a bound on how long the first of them waits for the last.
const GROUP_MAX: usize = 1024;
/// How often a group is run again because others were faster.
const RERUNS_MAX: u32 = 16;
/// From how many entries on an old snapshot goes to the reaper: whoever drops the last reference pays for all of it.
const LARGE: usize = 10_000;

/// See the module.
pub(super) struct Scribe {
    pub(super) id: LedgerId,
    pub(super) trust_domain: TrustDomain,
    pub(super) place: Arc<str>,
    pub(super) backend: Box<dyn Backend>,
    pub(super) queue: queue::Receiver<Message>,
    pub(super) clock: Clock,
    pub(super) current: Arc<Snapshot>,
    pub(super) rarity: Rarity,
    pub(super) publish: Writer<Snapshot>,
    pub(super) tail: Writer<Option<Position>>,
    pub(super) trouble: Writer<Option<Trouble>>,
    pub(super) on_commit: super::OnCommit,
    pub(super) failpoints: Failpoints,
    pub(super) reaper: mpsc::SyncSender<Arc<Snapshot>>,
}

/// A thread that only drops snapshots.
pub(super) fn reaper() -> std::io::Result<mpsc::SyncSender<Arc<Snapshot>>> {
    let (send, receive) = mpsc::sync_channel::<Arc<Snapshot>>(64);
    std::thread::Builder::new()
        .name("ledger-reaper".to_owned())
        .spawn(move || receive.into_iter().for_each(drop))?;
    Ok(send)
}

impl Scribe {
    /// Runs until it is closed or the last handle is gone.
    pub(super) fn run(mut self) {
        while let Some(message) = self.queue.blocking_recv() {
            let mut after = None;
            match message {
                Message::Job(job) => {
                    let mut jobs = vec![job];
                    while jobs.len() < GROUP_MAX
                        && let Ok(message) = self.queue.try_recv()
                    {
                        match message {
                            Message::Job(job) => jobs.push(job),
                            other => {
                                after = Some(other);
                                break;
                            }
                        }
                    }
                    self.turn(jobs);
                }
                other => after = Some(other),
            }
            match after {
                None | Some(Message::Job(_)) => {}
                Some(Message::CatchUp(to)) => {
                    let caught = self.catch_up().map(|()| self.current.revision());
                    reply(to, self.seen(caught));
                }
                Some(Message::Prune {
                    limits,
                    note,
                    reply: to,
                }) => {
                    let pruned = self.prune(&limits, note);
                    reply(to, self.seen(pruned));
                }
                // What waits is still done; what comes later finds the queue closed.
                Some(Message::Close) => self.queue.close(),
            }
        }
    }

    /// One group: run, write, publish, answer.
    fn turn(&mut self, mut jobs: Vec<Job>) {
        let boot = self.clock.boot();
        let mut late = Vec::new();
        jobs.retain_mut(|job| {
            let fits = boot <= job.deadline;
            if !fits {
                late.push(std::mem::replace(&mut job.command, Box::new(Nobody)));
            }
            fits
        });
        for command in late {
            command.answer(Err(super::overloaded()));
        }
        for _ in 0..RERUNS_MAX {
            let mut group = Group::on(&self.current);
            let spans = match self.prepare(&mut group, &mut jobs) {
                Ok(spans) => spans,
                Err(e) => return self.fail(&group, jobs, e),
            };
            if group.batch.is_empty() {
                return self.answer(jobs, spans, &group, None);
            }
            self.failpoints.hit(BEFORE_COMMIT);
            match self.backend.append(&group.batch) {
                Ok(Appended::Done(first)) => {
                    self.failpoints.hit(AFTER_FSYNC);
                    self.recovered();
                    return self.answer(jobs, spans, &group, first);
                }
                Ok(Appended::Conflict(_)) => {
                    group.undo(&self.current, &mut self.rarity);
                    drop(group);
                    if let Err(e) = self.catch_up() {
                        return self.fail_all(jobs, e);
                    }
                }
                // Another server was faster; the next run is told so.
                Ok(Appended::Used(_)) => group.undo(&self.current, &mut self.rarity),
                Err(e) => return self.fail(&group, jobs, e),
            }
        }
        deny(
            jobs,
            &unavailable("other servers changed the ledger too often").with_hint("try again"),
        );
    }

    fn prepare(
        &mut self,
        group: &mut Group,
        jobs: &mut [Job],
    ) -> Result<Vec<Result<Span, Denial>>, BackendError> {
        let now = self.clock.now();
        let mut spans = Vec::with_capacity(jobs.len());
        for job in jobs {
            spans.push(
                match group.run(
                    job.command.as_mut(),
                    self.backend.as_mut(),
                    &mut self.rarity,
                    now,
                ) {
                    Ok(span) => Ok(span),
                    Err(Out::Denied(denial)) => Err(denial),
                    Err(Out::Failed(e)) => return Err(e),
                },
            );
        }
        Ok(spans)
    }

    fn answer(
        &mut self,
        jobs: Vec<Job>,
        spans: Vec<Result<Span, Denial>>,
        group: &Group,
        first: Option<Position>,
    ) {
        if !group.batch.changes.is_empty() {
            self.publish(group.work.clone(), &group.touched);
        }
        if let Some(first) = &first {
            self.tail.publish(Some(
                first.plus(group.batch.records.len().saturating_sub(1)),
            ));
        }
        for (job, span) in jobs.into_iter().zip(spans) {
            let outcome = span.and_then(|span| match (&first, span.records.is_empty()) {
                (_, true) => Ok((Vec::new(), span.revision)),
                (Some(first), false) => {
                    Ok((self.receipts(first, &span, &group.digests), span.revision))
                }
                // A backend that wrote records and does not say where breaks its contract: no receipt.
                (None, false) => Err(unavailable("the backend did not say where the records are")),
            });
            job.command.answer(outcome);
        }
    }

    fn receipts(
        &self,
        first: &Position,
        span: &Span,
        digests: &[Option<[u8; 32]>],
    ) -> Vec<Receipt> {
        span.records
            .clone()
            .map(|i| Receipt::new(self.id, first.plus(i), digests.get(i).copied().flatten()))
            .collect()
    }

    fn publish(&mut self, next: Snapshot, touched: &Touched) {
        let next = Arc::new(next);
        let old = std::mem::replace(&mut self.current, Arc::clone(&next));
        self.publish.publish_arc(Arc::clone(&next));
        if old.entry_count() > LARGE {
            // A full reaper is no reason to wait: then it is dropped here.
            drop(self.reaper.try_send(old));
        }
        (self.on_commit)(&next, touched);
    }

    /// Applies what others committed.
    fn catch_up(&mut self) -> Result<(), BackendError> {
        match self.backend.since(self.current.revision())? {
            Since::Changes { head, .. } if head.revision == self.current.revision() => {}
            Since::Changes { rows, head } => {
                let changes = load::changes(&rows, &self.trust_domain)
                    .map_err(|e| crate::Fault::Body(e).at(&self.place))?;
                let mut work = Snapshot::clone(&self.current);
                let touched = work.apply(&changes, head.revision, &mut self.rarity);
                self.publish(work.with_bundle_revision(head.bundle_revision), &touched);
            }
            Since::Reload => {
                let (snapshot, rarity) = load::reload(self.backend.as_mut(), &self.trust_domain)?;
                let touched = everything(&self.current, &snapshot);
                self.rarity = rarity;
                self.publish(snapshot, &touched);
            }
        }
        Ok(())
    }

    fn prune(
        &mut self,
        limits: &Retention,
        mut note: Box<dyn FnMut(&Pruned) -> attesta_model::Record + Send>,
    ) -> Result<Pruned, BackendError> {
        let pruned = self
            .backend
            .prune(limits, self.clock.now(), &mut |pruned| {
                seal(&note(pruned)).0
            })?;
        if let Some(position) = &pruned.note {
            self.tail.publish(Some(position.clone()));
        }
        Ok(pruned)
    }

    fn fail(&mut self, group: &Group, jobs: Vec<Job>, e: BackendError) {
        group.undo(&self.current, &mut self.rarity);
        self.fail_all(jobs, e);
    }

    /// Everyone is refused, also those that were denied: they saw what their predecessors did not get.
    fn fail_all(&mut self, jobs: Vec<Job>, e: BackendError) {
        if let Err(denial) = self.seen::<Revision>(Err(e)) {
            deny(jobs, &denial);
        }
    }

    /// Remembers how the backend is, and makes a denial of its failure.
    fn seen<A>(&mut self, result: Result<A, BackendError>) -> Result<A, Denial> {
        match result {
            Ok(a) => {
                self.recovered();
                Ok(a)
            }
            Err(e) => {
                let denial = Denial::from(&e);
                if self.trouble.load().is_none() {
                    tracing::error!(error = %e, "the ledger cannot be written");
                    self.trouble.publish(Some(Trouble {
                        since: self.clock.now(),
                        message: denial.to_string(),
                    }));
                }
                Err(denial)
            }
        }
    }

    fn recovered(&mut self) {
        if let Some(trouble) = &*self.trouble.load() {
            tracing::info!(since = %trouble.since, "the ledger can be written again");
            self.trouble.publish(None);
        }
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        let message = if std::thread::panicking() {
            "the ledger's writer was stopped by a defect; restart the server"
        } else {
            "the ledger is closed"
        };
        self.trouble.publish(Some(Trouble {
            since: self.clock.now(),
            message: message.to_owned(),
        }));
    }
}

fn deny(jobs: Vec<Job>, denial: &Denial) {
    for job in jobs {
        job.command.answer(Err(denial.clone()));
    }
}

/// After a reload nobody knows what changed: everyone who was or is there.
fn everything(old: &Snapshot, new: &Snapshot) -> Touched {
    let mut touched = Touched {
        bundle: true,
        ..Touched::default()
    };
    for snapshot in [old, new] {
        touched
            .nodes
            .extend(snapshot.nodes_after(None).map(|n| n.id.clone()));
        for entry in snapshot.entries_after(None) {
            if touched.parents.last() != Some(entry.parent()) {
                touched.parents.push(entry.parent().clone());
            }
        }
    }
    super::group::merge(&mut touched, Touched::default());
    touched
}

/// Stands where a command was taken out.
struct Nobody;

impl super::command::Command for Nobody {
    fn once(&self) -> Option<&(attesta_model::OnceKey, attesta_model::OnceHolder)> {
        None
    }
    fn run(&mut self, _: &Snapshot, _: super::Used) -> Result<super::command::Wish, Denial> {
        Err(super::overloaded())
    }
    fn answer(self: Box<Self>, _: Result<(Vec<Receipt>, Revision), Denial>) {}
}
