//! The one writer of what the server said: entries and bundle. A new bundle reaches TLS and the disk from here.
//!
//! Must not know by which RPC anything came.

use std::sync::{Arc, PoisonError};

use attesta_runtime::{Live, Writer, live};
use attesta_spiffe::Bundle;

use crate::{authorized::Authorized, identity::Kept, status::Board, trust::Trust};

#[expect(
    clippy::disallowed_types,
    reason = "serialises two writers of a Live; readers never take it, and nothing is awaited under it"
)]
type Lock<T> = std::sync::Mutex<T>;

/// See the module.
pub(crate) struct Standing {
    writer: Lock<Writer<Authorized>>,
    live: Live<Authorized>,
    /// What TLS checks the server against.
    bundle: Writer<Bundle>,
    kept: Kept,
    board: Board,
}

impl Standing {
    /// Starts with this bundle and without entries.
    pub(crate) fn new(bundle: Bundle, kept: Kept, board: Board) -> Arc<Self> {
        let (writer, live_authorized) =
            live(Authorized::trusting(Some(Trust::new(bundle.clone()))));
        let (bundle, _) = live(bundle);
        Arc::new(Self {
            writer: Lock::new(writer),
            live: live_authorized,
            bundle,
            kept,
            board,
        })
    }

    /// What is known now.
    pub(crate) fn live(&self) -> Live<Authorized> {
        self.live.clone()
    }

    /// The bundle alone, for TLS.
    pub(crate) fn bundle(&self) -> Live<Bundle> {
        self.bundle.reader()
    }

    /// Replaces what is known by a changed copy.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Authorized) -> T) -> T {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let old = writer.load();
        let mut new = Authorized::clone(&old);
        let out = change(&mut new);
        let entries = new.len();
        if let Some(trust) = new.trust()
            && !old.trust().is_some_and(|old| Arc::ptr_eq(old, trust))
        {
            self.bundle.publish(trust.bundle().clone());
            if let Err(e) = self.kept.save_bundle(trust.bundle()) {
                self.board.trouble(&e.to_string(), true);
            }
        }
        writer.publish(new);
        self.board.update(|status| status.entries = entries);
        out
    }
}
