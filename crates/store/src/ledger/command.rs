//! What waits in the queue: commands of any answer's type behind one trait, and the few other things the writer does.

use std::sync::Arc;

use attesta_model::{Change, Denial, Once, OnceHolder, OnceKey, Plan, Record, Revision, Snapshot};
use tokio::sync::oneshot;

use super::{Committed, Used, seal};
use crate::{Pruned, Receipt, RecordRow, Retention};

/// One thing for the writer to do.
pub(super) enum Message {
    Job(Job),
    CatchUp(oneshot::Sender<Result<Revision, Denial>>),
    Prune {
        limits: Retention,
        note: Box<dyn FnMut(&Pruned) -> Record + Send>,
        reply: oneshot::Sender<Result<Pruned, Denial>>,
    },
    Close,
}

/// A command, and how long it may wait (against the boot-time clock).
pub(super) struct Job {
    pub(super) deadline: std::time::Duration,
    pub(super) command: Box<dyn Command>,
}

/// What a command wants, without its value.
pub(super) struct Wish {
    pub(super) changes: Vec<Change>,
    pub(super) records: Vec<(Arc<RecordRow>, Option<[u8; 32]>)>,
    pub(super) once: Vec<(Once, OnceHolder)>,
}

pub(super) trait Command: Send {
    /// Evidence of which it wants to know whether it was used.
    fn once(&self) -> Option<&(OnceKey, OnceHolder)>;
    /// Runs it; again when what it saw has changed.
    fn run(&mut self, snapshot: &Snapshot, used: Used) -> Result<Wish, Denial>;
    /// Ends it.
    fn answer(self: Box<Self>, outcome: Result<(Vec<Receipt>, Revision), Denial>);
}

/// A command with changes.
pub(super) struct Commit<T, F> {
    once: Option<(OnceKey, OnceHolder)>,
    f: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<Committed<T>, Denial>>,
}

impl<T, F> Commit<T, F> {
    pub(super) fn new(
        once: Option<(OnceKey, OnceHolder)>,
        f: F,
        reply: oneshot::Sender<Result<Committed<T>, Denial>>,
    ) -> Self {
        Self {
            once,
            f,
            value: None,
            reply,
        }
    }
}

impl<T, F> Command for Commit<T, F>
where
    T: Send,
    F: FnMut(&Snapshot, Used) -> Result<Plan<T>, Denial> + Send,
{
    fn once(&self) -> Option<&(OnceKey, OnceHolder)> {
        self.once.as_ref()
    }

    fn run(&mut self, snapshot: &Snapshot, used: Used) -> Result<Wish, Denial> {
        // What an earlier run prepared rests on a snapshot that is no more.
        self.value = None;
        let plan = (self.f)(snapshot, used)?;
        self.value = Some(plan.value);
        Ok(Wish {
            changes: plan.changes,
            records: plan.records.iter().map(seal).collect(),
            once: plan.once,
        })
    }

    fn answer(self: Box<Self>, outcome: Result<(Vec<Receipt>, Revision), Denial>) {
        let Self {
            value, reply: to, ..
        } = *self;
        let answer = outcome.and_then(|(receipts, revision)| match value {
            Some(value) => Ok(Committed {
                value,
                receipts,
                revision,
            }),
            None => Err(super::unavailable("the command was not run")),
        });
        reply(to, answer);
    }
}

/// Records alone.
pub(super) struct Append {
    records: Vec<(Arc<RecordRow>, Option<[u8; 32]>)>,
    reply: oneshot::Sender<Result<Vec<Receipt>, Denial>>,
}

impl Append {
    pub(super) fn new(
        records: &[Record],
        reply: oneshot::Sender<Result<Vec<Receipt>, Denial>>,
    ) -> Self {
        Self {
            records: records.iter().map(seal).collect(),
            reply,
        }
    }
}

impl Command for Append {
    fn once(&self) -> Option<&(OnceKey, OnceHolder)> {
        None
    }

    fn run(&mut self, _: &Snapshot, _: Used) -> Result<Wish, Denial> {
        // Kept: the group may have to run again.
        Ok(Wish {
            changes: Vec::new(),
            records: self.records.clone(),
            once: Vec::new(),
        })
    }

    fn answer(self: Box<Self>, outcome: Result<(Vec<Receipt>, Revision), Denial>) {
        reply(self.reply, outcome.map(|(receipts, _)| receipts));
    }
}

/// Answers; whoever asked may have gone, and then what was written stays written.
pub(super) fn reply<A>(to: oneshot::Sender<A>, answer: A) {
    drop(to.send(answer));
}
