//! The ledger: the newest snapshot for readers, one thread for writers, receipts for whoever signs.
//!
//! A command is a pure function of a snapshot. Waiting commands are taken as one group: each runs on the snapshot that
//! the one before it left, all changes and records go to the backend in one transaction, and only when that is durable
//! is anyone answered. It must not know what a change means.

mod command;
mod group;
mod load;
mod reading;
#[cfg(test)]
mod tests;
mod writer;

use std::{sync::Arc, time::Duration};

use attesta_model::{
    Code, Denial, Once, OnceHolder, OnceKey, Plan, Reason, Record, Revision, Snapshot, Touched,
};
use attesta_runtime::{Clock, Live, live};
use attesta_spiffe::TrustDomain;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Backend, Failpoints, LedgerId, OpenError, OpenRecords, Position, Pruned, Receipt, RecordPage,
    RecordQuery, RecordRow, Retention,
};
use command::{Append, Command, Commit, Job, Message};
use reading::Readers;
use writer::Scribe;

/// The stack of the writer's thread: commands evaluate policies there, and Cedar asks for at least 2 MiB.
const STACK_BYTES: usize = 4 << 20;

/// The way in. Clones are handles of the same ledger.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    id: LedgerId,
    queue: mpsc::Sender<Message>,
    /// Resolves when the writer's thread has let go of the backend.
    ended: watch::Receiver<()>,
    snapshot: Live<Snapshot>,
    tail: Live<Option<Position>>,
    trouble: Live<Option<Trouble>>,
    readers: Readers,
    clock: Clock,
    deadline: Duration,
}

/// Who is told of a publication: the snapshot, and whom the commits of its group concern.
pub type OnCommit = Box<dyn Fn(&Arc<Snapshot>, &Touched) + Send>;

/// How a ledger is run.
pub struct LedgerOptions {
    /// Most commands that wait.
    pub queue: usize,
    /// How long one waits at most, in the queue and for its answer each.
    pub deadline: Duration,
    /// Called on the writer's thread after each publication, before anyone is answered. It must not block.
    pub on_commit: OnCommit,
    /// Where a crash test stops the process.
    pub failpoints: Failpoints,
    /// The ledger's name if it is new: 16 random bytes, drawn outside.
    pub new_id: [u8; 16],
}

impl LedgerOptions {
    /// 4096 commands, 5 seconds, nobody called, nothing armed.
    #[must_use]
    pub fn new(new_id: [u8; 16]) -> Self {
        Self {
            queue: 4096,
            deadline: Duration::from_secs(5),
            on_commit: Box::new(|_, _| ()),
            failpoints: Failpoints::none(),
            new_id,
        }
    }
}

/// A ledger, and what only its opening can tell.
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// The time of the newest record: a wall clock far behind it is wrong (DESIGN section 9, Time).
    pub newest_record: Option<Timestamp>,
}

/// Whether evidence was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// Never.
    No,
    /// By the holder who asks now: a lost answer may be given again for five minutes.
    ByYou {
        /// When.
        at: Timestamp,
    },
    /// By someone else.
    ByAnother {
        /// When.
        at: Timestamp,
    },
}

/// A command's answer, durable.
#[derive(Debug)]
pub struct Committed<T> {
    /// What the command prepared.
    pub value: T,
    /// One for each record, in the plan's order.
    pub receipts: Vec<Receipt>,
    /// The revision after it: its own, or the one it was decided on when it changed nothing.
    pub revision: Revision,
}

/// Why nothing can be written at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub since: Timestamp,
    /// What happened, and what to do.
    pub message: String,
}

/// The key under which evidence is remembered.
#[must_use]
pub fn once_key(once: &Once) -> OnceKey {
    match once {
        Once::Fresh { key, .. } => key.clone(),
        Once::Issued(hash) => OnceKey::new("issued", &hash.to_string()),
    }
}

impl Ledger {
    /// Opens what `backend` holds, or begins it, and starts the writer. Blocks while everything is loaded.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed.
    pub fn open(
        mut backend: Box<dyn Backend>,
        records: OpenRecords,
        trust_domain: &TrustDomain,
        clock: Clock,
        options: LedgerOptions,
    ) -> Result<Opened, OpenError> {
        let state = load::open(backend.as_mut(), trust_domain, clock.now(), options.new_id)?;
        let (publish, snapshot) = live(state.snapshot);
        let (tail_writer, tail) = live(state.last);
        let (trouble_writer, trouble) = live(None);
        let (queue, commands) = mpsc::channel(options.queue.max(1));
        let (end, ended) = watch::channel(());
        let scribe = Scribe {
            id: state.id,
            trust_domain: trust_domain.clone(),
            place: state.place,
            backend,
            queue: commands,
            clock: clock.clone(),
            current: publish.load(),
            rarity: state.rarity,
            publish,
            tail: tail_writer,
            trouble: trouble_writer,
            on_commit: options.on_commit,
            failpoints: options.failpoints,
            reaper: writer::reaper().map_err(OpenError::Thread)?,
        };
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // Dropped last, also when `run` panics: whoever waits for the end sees the backend released.
                let _end = end;
                scribe.run();
            })
            .map_err(OpenError::Thread)?;
        let inner = Inner {
            id: state.id,
            queue,
            ended,
            snapshot,
            tail,
            trouble,
            readers: Readers::new(records),
            clock,
            deadline: options.deadline,
        };
        Ok(Opened {
            ledger: Self(Arc::new(inner)),
            newest_record: state.newest_record,
        })
    }

    /// The ledger's name.
    #[must_use]
    pub fn id(&self) -> LedgerId {
        self.0.id
    }

    /// The newest published snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot.load()
    }

    /// Snapshots as they are published.
    #[must_use]
    pub fn live(&self) -> Live<Snapshot> {
        self.0.snapshot.clone()
    }

    /// Runs a command and makes what it wants durable. `once` names evidence of which the command must know whether it
    /// was used; the closure runs again when others changed what it saw, so it must be pure: time, ids and random bits
    /// are drawn before and captured.
    ///
    /// # Errors
    /// The command's own [`Denial`]; `TokenUnknown`, `TokenExpired` or `Replay` for its evidence; else Unavailable with
    /// reason `Ledger` or `Overloaded`: then nothing of it was done, or, when the answer came too late, the record says.
    pub async fn commit<T: Send + 'static>(
        &self,
        once: Option<(OnceKey, OnceHolder)>,
        f: impl FnMut(&Snapshot, Used) -> Result<Plan<T>, Denial> + Send + 'static,
    ) -> Result<Committed<T>, Denial> {
        let (reply, answer) = oneshot::channel();
        self.ask(Box::new(Commit::new(once, f, reply)), answer)
            .await
    }

    /// Appends records that change no state: issuance, refusals. Takes no head lock. One receipt for each, in order.
    ///
    /// # Errors
    /// Unavailable, as for [`Ledger::commit`].
    pub async fn append(&self, records: Vec<Record>) -> Result<Vec<Receipt>, Denial> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        // Encoded here, on the caller's core: the one writer has enough to do.
        self.ask(Box::new(Append::new(&records, reply)), answer)
            .await
    }

    /// One page of records, read beside the writer by at most four at a time.
    ///
    /// # Errors
    /// Unavailable when the records cannot be read, or not within the deadline.
    pub async fn query(&self, q: RecordQuery) -> Result<RecordPage, Denial> {
        match self
            .0
            .clock
            .timeout(self.0.deadline, self.0.readers.query(q))
            .await
        {
            Ok(page) => page,
            Err(_) => Err(unavailable("the records could not be read in time")
                .with_hint("ask for a shorter time, a subject or an id")),
        }
    }

    /// The newest position of this ledger's writer, as it moves: wakes whoever follows the records. Other servers'
    /// writers on the same database are not seen here; poll for those.
    #[must_use]
    pub fn tail(&self) -> Live<Option<Position>> {
        self.0.tail.clone()
    }

    /// Applies what other servers committed since, and answers the revision it came to. Nobody else writes to a ledger
    /// that one process owns.
    ///
    /// # Errors
    /// Unavailable.
    pub async fn catch_up(&self) -> Result<Revision, Denial> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::CatchUp(reply), answer).await
    }

    /// Drops what is older or more than `limits` allow, a bounded piece per call; [`Pruned::more`] says whether to
    /// call again. `note` makes the record of it from what goes, and is written in the same transaction.
    ///
    /// The caller must not call this while its clock is in doubt: a clock that is a month ahead would forget evidence
    /// that can still be shown.
    ///
    /// # Errors
    /// Unavailable; nothing was dropped.
    pub async fn prune(
        &self,
        limits: Retention,
        note: impl FnMut(&Pruned) -> Record + Send + 'static,
    ) -> Result<Pruned, Denial> {
        let (reply, answer) = oneshot::channel();
        self.send(
            Message::Prune {
                limits,
                note: Box::new(note),
                reply,
            },
            answer,
        )
        .await
    }

    /// Why nothing can be written at the moment; `None` when the last attempt succeeded.
    #[must_use]
    pub fn healthy(&self) -> Option<Trouble> {
        Option::clone(&self.0.trouble.load())
    }

    /// Refuses new commands, finishes those that wait, and returns when the backend is released.
    pub async fn close(self) {
        let readers = self
            .0
            .clock
            .timeout(self.0.deadline, self.0.readers.close());
        if readers.await.is_err() {
            tracing::warn!("a query of records outlives the ledger");
        }
        // A failed send means that the writer has ended already, which is what we wait for.
        if self.0.queue.send(Message::Close).await.is_err() {
            tracing::debug!("the ledger's writer had ended before it was closed");
        }
        let mut ended = self.0.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    async fn ask<A>(
        &self,
        command: Box<dyn Command>,
        answer: oneshot::Receiver<Result<A, Denial>>,
    ) -> Result<A, Denial> {
        let deadline = self.0.clock.boot().saturating_add(self.0.deadline);
        self.send(Message::Job(Job { deadline, command }), answer)
            .await
    }

    async fn send<A>(
        &self,
        message: Message,
        answer: oneshot::Receiver<Result<A, Denial>>,
    ) -> Result<A, Denial> {
        let Inner {
            clock,
            queue,
            deadline,
            ..
        } = &*self.0;
        // The common case costs no timer.
        if let Err(full) = queue.try_send(message) {
            match full {
                mpsc::error::TrySendError::Closed(_) => return Err(self.ended()),
                mpsc::error::TrySendError::Full(message) => {
                    match clock.timeout(*deadline, queue.send(message)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Err(self.ended()),
                        Err(_) => return Err(overloaded()),
                    }
                }
            }
        }
        // Twice: a command may wait for its whole deadline and still be run then.
        match clock.timeout(deadline.saturating_mul(2), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.ended()),
            Err(_) => Err(unavailable("the ledger did not answer in time")
                .with_hint("whether it was written, the records say; check the device")),
        }
    }

    /// The answer of a ledger that has no writer any more.
    fn ended(&self) -> Denial {
        unavailable(
            self.healthy()
                .map_or_else(|| "the ledger is closed".to_owned(), |t| t.message),
        )
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({})", self.0.id)
    }
}

fn unavailable(message: impl Into<String>) -> Denial {
    Denial::new(Code::Unavailable, Reason::Ledger, message)
}

fn overloaded() -> Denial {
    Denial::new(
        Code::Unavailable,
        Reason::Overloaded,
        "too many commands wait for the ledger",
    )
    .with_hint("try again later")
}

/// A record as the backend takes it, with what its receipt will say.
fn seal(record: &Record) -> (Arc<RecordRow>, Option<[u8; 32]>) {
    (
        Arc::new(RecordRow {
            index: record.index(),
            body: record.to_json(),
        }),
        record.digest,
    )
}
