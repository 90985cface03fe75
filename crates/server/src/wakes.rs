//! Who is woken by a commit: only the push streams of nodes it touches. Ten thousand idle streams cost a commit nothing.

use std::{collections::HashMap, sync::Arc};

use attesta_model::{Parent, SelectorSet, Snapshot, Touched};
use attesta_spiffe::SpiffeId;
use tokio::sync::Notify;

/// Streams by the parents whose entries they show.
#[derive(Default)]
pub(crate) struct Wakes {
    #[expect(
        clippy::disallowed_types,
        reason = "held for a look-up, never across IO or an await; the writer thread and a stream's opening meet here"
    )]
    streams: std::sync::Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    by_parent: HashMap<Parent, Vec<u64>>,
    all: HashMap<u64, Stream>,
    next: u64,
}

struct Stream {
    notify: Arc<Notify>,
    parents: Vec<Parent>,
    node: SpiffeId,
    selectors: SelectorSet,
}

/// A stream's registration; it ends with its drop.
pub(crate) struct Registered {
    wakes: Arc<Wakes>,
    id: u64,
    notify: Arc<Notify>,
}

impl Registered {
    /// Waits for a commit that touches this stream. One that came before the call is not lost.
    pub(crate) async fn touched(&self) {
        self.notify.notified().await;
    }

    /// Replaces the parents whose entries this stream shows.
    pub(crate) fn shows(&self, parents: Vec<Parent>) {
        self.wakes.with(|s| {
            s.forget_parents(self.id);
            s.set_parents(self.id, parents);
        });
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.wakes.with(|s| {
            s.forget_parents(self.id);
            s.all.remove(&self.id);
        });
    }
}

impl Wakes {
    /// Registers a stream of a node.
    pub(crate) fn register(
        self: &Arc<Self>,
        node: SpiffeId,
        selectors: SelectorSet,
        parents: Vec<Parent>,
    ) -> Registered {
        let notify = Arc::new(Notify::new());
        let id = self.with(|s| {
            s.next += 1;
            let id = s.next;
            s.all.insert(
                id,
                Stream {
                    notify: Arc::clone(&notify),
                    parents: Vec::new(),
                    node,
                    selectors,
                },
            );
            s.set_parents(id, parents);
            id
        });
        Registered {
            wakes: Arc::clone(self),
            id,
            notify,
        }
    }

    /// Wakes whom a commit touches.
    pub(crate) fn commit(&self, snapshot: &Snapshot, touched: &Touched) {
        self.with(|s| {
            if touched.bundle {
                s.all.values().for_each(|stream| stream.notify.notify_one());
                return;
            }
            for parent in &touched.parents {
                s.by_parent
                    .get(parent)
                    .into_iter()
                    .flatten()
                    .filter_map(|id| s.all.get(id))
                    .for_each(|stream| stream.notify.notify_one());
            }
            // An alias decides which nodes stand under it: those that fit it now, and those that stood under it before
            // (they are registered for the server's entries by having been fitted).
            if touched.parents.contains(&Parent::Server) {
                for stream in s.all.values() {
                    let fits = stream.selectors.iter().any(|sel| {
                        snapshot
                            .entries_filed(&Parent::Server, sel)
                            .next()
                            .is_some()
                    });
                    if fits || stream.parents.len() > 1 {
                        stream.notify.notify_one();
                    }
                }
            }
            if !touched.nodes.is_empty() {
                s.all
                    .values()
                    .filter(|stream| touched.nodes.contains(&stream.node))
                    .for_each(|stream| stream.notify.notify_one());
            }
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut Streams) -> T) -> T {
        let mut guard = self
            .streams
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        f(&mut guard)
    }
}

impl Streams {
    fn forget_parents(&mut self, id: u64) {
        let Some(stream) = self.all.get_mut(&id) else {
            return;
        };
        for parent in std::mem::take(&mut stream.parents) {
            if let Some(ids) = self.by_parent.get_mut(&parent) {
                ids.retain(|i| *i != id);
                if ids.is_empty() {
                    self.by_parent.remove(&parent);
                }
            }
        }
    }

    fn set_parents(&mut self, id: u64, parents: Vec<Parent>) {
        for parent in &parents {
            self.by_parent.entry(parent.clone()).or_default().push(id);
        }
        if let Some(stream) = self.all.get_mut(&id) {
            stream.parents = parents;
        }
    }
}
