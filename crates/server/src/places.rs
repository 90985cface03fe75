//! How many connections there may be: in all, and per address for those who show no certificate. Whoever is over a bound
//! is closed; everyone else is served.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most connections of one address without a certificate: agents that attest, and whoever reads the bundle.
const STRANGERS: usize = 256;

/// The bounds, and who is counted.
#[derive(Clone)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    strangers: Arc<Strangers>,
}

#[derive(Default)]
struct Strangers {
    #[expect(
        clippy::disallowed_types,
        reason = "held for one count, never across IO or an await"
    )]
    counts: std::sync::Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place; given back with its drop.
pub(crate) struct Place {
    _all: OwnedSemaphorePermit,
    stranger: Option<(Arc<Strangers>, IpAddr)>,
}

impl Places {
    pub(crate) fn new(connections: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS))),
            strangers: Arc::default(),
        }
    }

    /// A place for someone who just connected from this address and is a stranger until a certificate says otherwise.
    pub(crate) fn take(&self, from: IpAddr) -> Option<Place> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut counts = self
            .strangers
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(from).or_insert(0);
        if *count >= STRANGERS {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place {
            _all: all,
            stranger: Some((Arc::clone(&self.strangers), from)),
        })
    }
}

impl Place {
    /// A certificate verified: it no longer counts against its address.
    pub(crate) fn known(&mut self) {
        if let Some((strangers, from)) = self.stranger.take() {
            strangers.leave(from);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.known();
    }
}

impl Strangers {
    fn leave(&self, from: IpAddr) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_of_strangers_leaves_room_for_others() {
        let places = Places::new(STRANGERS + 2);
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let mut held: Vec<Place> = (0..STRANGERS).map(|_| places.take(a).unwrap()).collect();
        assert!(places.take(a).is_none());
        held.push(places.take(b).unwrap());
        // One of them turns out to be an agent: another stranger may come.
        held[0].known();
        held.push(places.take(a).unwrap());
        assert!(places.take(b).is_none(), "there are no more in all");
        drop(held);
        assert!(places.take(a).is_some());
        assert!(
            places.strangers.counts.lock().unwrap().is_empty(),
            "nothing is left of those who went"
        );
    }
}
