//! A disk that can be full, and one that says "written" before it has synchronised.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use attesta_model::{OnceKey, Revision};
use jiff::Timestamp;

use crate::{
    Appended, Backend, BackendError, Batch, Fault, Loaded, Memory, OpenRecords, Pruned, RecordRow,
    Retention, Row, Since, Use, WriterName,
};

/// Rows in memory, of which only the copy `durable` survives a crash.
pub(super) struct Faulty {
    live: Memory,
    durable: Arc<Durable>,
}

struct Durable {
    full: AtomicBool,
    honest: AtomicBool,
    images: mpsc::SyncSender<Memory>,
}

/// The test's hand on it.
pub(super) struct Switch {
    live: Memory,
    durable: Arc<Durable>,
    images: mpsc::Receiver<Memory>,
}

impl Faulty {
    pub(super) fn over(live: Memory) -> (Self, Switch) {
        let (send, images) = mpsc::sync_channel(1024);
        send.send(live.fork()).unwrap();
        let durable = Arc::new(Durable {
            full: false.into(),
            honest: true.into(),
            images: send,
        });
        let switch = Switch {
            live: live.beside(WriterName::local()),
            durable: Arc::clone(&durable),
            images,
        };
        (Self { live, durable }, switch)
    }
}

impl Switch {
    pub(super) fn full(&self, full: bool) {
        self.durable.full.store(full, Ordering::Release);
    }

    pub(super) fn honest(&self, honest: bool) {
        self.durable.honest.store(honest, Ordering::Release);
    }

    pub(super) fn records(&self) -> OpenRecords {
        self.live.records()
    }

    /// What is left after the power is cut now.
    pub(super) fn crash(&self) -> Memory {
        self.images.try_iter().last().unwrap()
    }
}

impl Backend for Faulty {
    fn load(&mut self, each: &mut dyn FnMut(Row<'_>)) -> Result<Loaded, BackendError> {
        self.live.load(each)
    }

    fn used(&mut self, key: &OnceKey) -> Result<Option<Use>, BackendError> {
        self.live.used(key)
    }

    fn append(&mut self, batch: &Batch) -> Result<Appended, BackendError> {
        if self.durable.full.load(Ordering::Acquire) {
            return Err(Fault::Full.at(&"faulty".into()));
        }
        let appended = self.live.append(batch);
        if self.durable.honest.load(Ordering::Acquire) {
            self.durable.images.send(self.live.fork()).unwrap();
        }
        appended
    }

    fn since(&mut self, revision: Revision) -> Result<Since, BackendError> {
        self.live.since(revision)
    }

    fn prune(
        &mut self,
        limits: &Retention,
        now: Timestamp,
        note: &mut dyn FnMut(&Pruned) -> Arc<RecordRow>,
    ) -> Result<Pruned, BackendError> {
        self.live.prune(limits, now, note)
    }
}
