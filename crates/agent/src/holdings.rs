//! What instances hold: X.509-SVIDs by (instance, digest of its facts, entry, id). `Holdings` is what readers see;
//! `Book` is the one place that changes it and rings the bell of whoever watches an instance.
//!
//! Must not know how SVIDs are obtained, nor who reads.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use attesta_model::{Entry, EntryId, Instance, Match, Sharing};
use attesta_runtime::{Live, Writer, live};
use attesta_spiffe::SpiffeId;
use imbl::OrdMap;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    authorized::{Authorized, FactsDigest, Who},
    key::Pkcs8,
    leaf::Leaf,
    moments,
};

#[expect(
    clippy::disallowed_types,
    reason = "held for a few map operations, never across an await; readers take Live<Holdings>"
)]
type Lock<T> = std::sync::Mutex<T>;

/// One X.509-SVID with its key, which is wiped with the last reference.
pub(crate) struct Held {
    /// The entry's revision under which it was issued.
    pub(crate) revision: u64,
    /// For whom, to ask again.
    pub(crate) who: Arc<Who>,
    /// DER certificates, one after the other, the leaf first.
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Pkcs8,
    /// Lower-case hex, whole bytes; the credential's id.
    pub(crate) serial: String,
    /// Key id of the authority in the bundle that signed it.
    pub(crate) authority: Option<Vec<u8>>,
    pub(crate) expires_at: Timestamp,
    /// When it is to be replaced, drawn once.
    pub(crate) due_at: Timestamp,
}

impl Held {
    /// What came for a key just now. Its life is counted on this machine's clock from now, because a server's clock may
    /// be another; the span is the server's.
    pub(crate) fn new(
        who: Arc<Who>,
        revision: u64,
        chain: &[Vec<u8>],
        key: Pkcs8,
        leaf: Leaf,
        issued_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        Self {
            revision,
            who,
            chain: chain.concat(),
            key,
            serial: leaf.serial,
            authority: leaf.authority,
            expires_at: leaf.not_after,
            due_at: moments::due_at(
                now,
                moments::between(issued_at, leaf.not_after),
                moments::dice(),
            ),
        }
    }

    /// Whether it can still be served.
    pub(crate) fn is_valid(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }
}

/// Where an SVID is held: of which instance is said outside.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Place {
    pub(crate) digest: FactsDigest,
    pub(crate) entry: EntryId,
    pub(crate) id: SpiffeId,
}

/// The whole key of a holding.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct HoldingKey {
    pub(crate) instance: Instance,
    pub(crate) place: Place,
}

impl HoldingKey {
    /// Where what an entry gives an instance is held: by the node as a whole where the entry says so.
    pub(crate) fn of(who: &Who, entry: &Entry, id: &SpiffeId) -> Self {
        match entry.sharing() {
            Sharing::Instance => Self::own(who, entry, id),
            Sharing::Node => Self::own(&Who::node(), entry, id),
        }
    }

    /// Where an instance holds something for itself alone, whatever the entry shares: tokens are never shared.
    pub(crate) fn own(who: &Who, entry: &Entry, id: &SpiffeId) -> Self {
        let place = Place {
            digest: who.digest,
            entry: entry.id().clone(),
            id: id.clone(),
        };
        Self {
            instance: who.attested.instance.clone(),
            place,
        }
    }
}

/// Everything that is held.
#[derive(Clone, Default)]
pub(crate) struct Holdings {
    by_instance: OrdMap<Instance, OrdMap<Place, Arc<Held>>>,
    count: usize,
}

/// What an instance may see now.
pub(crate) struct Seen {
    /// What it holds, in the order of its matches.
    pub(crate) held: Vec<(Match, Arc<Held>)>,
    /// What it is entitled to and does not hold.
    pub(crate) missing: Vec<Match>,
}

/// Why a holding is to be replaced or dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// By an entry's current match.
    Replace(Arc<Entry>),
    /// Nothing gives it any more, or it has expired.
    Drop,
}

impl Holdings {
    pub(crate) fn get(&self, key: &HoldingKey) -> Option<&Arc<Held>> {
        self.by_instance.get(&key.instance)?.get(&key.place)
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// What this very instance with these very facts holds of its matches.
    pub(crate) fn seen_by(&self, who: &Who, matches: Vec<Match>, now: Timestamp) -> Seen {
        let own = self.by_instance.get(&who.attested.instance);
        let mut seen = Seen {
            held: Vec::with_capacity(matches.len()),
            missing: Vec::new(),
        };
        for one in matches {
            let key = HoldingKey::of(who, &one.entry, &one.id);
            let held = match one.entry.sharing() {
                Sharing::Instance => own.and_then(|own| own.get(&key.place)),
                Sharing::Node => self.get(&key),
            };
            match held {
                Some(held) if held.is_valid(now) => seen.held.push((one, Arc::clone(held))),
                _ => seen.missing.push(one),
            }
        }
        seen
    }

    /// What is to be replaced or dropped now: by time, because its entry changed or went, because what it was issued to
    /// matches no more, or because its authority is not believed any more.
    pub(crate) fn due(
        &self,
        authorized: &Authorized,
        now: Timestamp,
    ) -> Vec<(HoldingKey, Arc<Held>, Due)> {
        let mut all = Vec::new();
        for (instance, places) in &self.by_instance {
            for (place, held) in places {
                if let Some(why) = why_due(place, held, authorized, now) {
                    all.push((
                        HoldingKey {
                            instance: instance.clone(),
                            place: place.clone(),
                        },
                        Arc::clone(held),
                        why,
                    ));
                }
            }
        }
        all
    }

    fn put(&mut self, key: HoldingKey, held: Arc<Held>) {
        let mut places = self
            .by_instance
            .get(&key.instance)
            .cloned()
            .unwrap_or_default();
        if places.insert(key.place, held).is_none() {
            self.count += 1;
        }
        self.by_instance.insert(key.instance, places);
    }

    fn remove(&mut self, key: &HoldingKey) -> Option<Arc<Held>> {
        let mut places = self.by_instance.get(&key.instance).cloned()?;
        let held = places.remove(&key.place)?;
        self.count = self.count.saturating_sub(1);
        if places.is_empty() {
            self.by_instance.remove(&key.instance);
        } else {
            self.by_instance.insert(key.instance.clone(), places);
        }
        Some(held)
    }

    fn remove_instance(&mut self, instance: &Instance) -> Vec<String> {
        let Some(places) = self.by_instance.remove(instance) else {
            return Vec::new();
        };
        self.count = self.count.saturating_sub(places.len());
        places.values().map(|held| held.serial.clone()).collect()
    }
}

fn why_due(place: &Place, held: &Held, authorized: &Authorized, now: Timestamp) -> Option<Due> {
    if !authorized.is_synced() {
        // Nothing is known yet that could speak against it.
        return (!held.is_valid(now)).then_some(Due::Drop);
    }
    let entry = authorized
        .entry(&place.entry)
        .filter(|e| !e.is_expired(now));
    let same = entry.filter(|e| {
        let shared = e.sharing() == Sharing::Node && held.who.attested.instance == Instance::Node;
        let matching =
            e.sharing() == Sharing::Instance && e.selectors().all_in(&held.who.attested.selectors);
        (shared || matching)
            && e.spiffe_id()
                .expand(&held.who.attested.facts)
                .is_ok_and(|id| id == place.id)
    });
    let Some(entry) = same else {
        return Some(Due::Drop);
    };
    let sound = authorized
        .trust()
        .is_none_or(|trust| trust.is_sound(held.authority.as_deref()));
    let due = held.due_at <= now || held.revision != entry.revision() || !sound;
    due.then(|| Due::Replace(Arc::clone(entry)))
}

/// Changes `Holdings`, and tells who watches.
pub(crate) struct Book {
    inner: Lock<Inner>,
    live: Live<Holdings>,
    limit: usize,
}

struct Inner {
    writer: Writer<Holdings>,
    bells: HashMap<Instance, watch::Sender<u64>>,
}

/// Rings when what an instance sees may have changed.
pub(crate) struct Bell {
    heard: watch::Receiver<u64>,
    instance: Instance,
    book: Arc<Book>,
}

impl Book {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let (writer, live) = live(Holdings::default());
        Arc::new(Self {
            inner: Lock::new(Inner {
                writer,
                bells: HashMap::new(),
            }),
            live,
            limit,
        })
    }

    /// The readers' view.
    pub(crate) fn holdings(&self) -> Arc<Holdings> {
        self.live.load()
    }

    /// Whether nothing more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.live.load().len() >= self.limit
    }

    /// Holds what was issued.
    pub(crate) fn put(&self, all: Vec<(HoldingKey, Arc<Held>)>) {
        if all.is_empty() {
            return;
        }
        self.change(|holdings| {
            let touched = all.iter().map(|(key, _)| key.instance.clone()).collect();
            for (key, held) in all {
                holdings.put(key, held);
            }
            ((), touched)
        });
    }

    /// Drops holdings that are still these.
    pub(crate) fn drop_held(&self, all: &[(HoldingKey, Arc<Held>)]) {
        if all.is_empty() {
            return;
        }
        self.change(|holdings| {
            let mut touched = Vec::new();
            for (key, held) in all {
                if holdings.get(key).is_some_and(|now| Arc::ptr_eq(now, held)) {
                    holdings.remove(key);
                    touched.push(key.instance.clone());
                }
            }
            ((), touched)
        });
    }

    /// Drops everything of an instance and gives the ids of what it held.
    pub(crate) fn drop_instance(&self, instance: &Instance) -> Vec<String> {
        self.change(|holdings| (holdings.remove_instance(instance), vec![instance.clone()]))
    }

    /// Drops what an instance held under other facts than these: it is not that any more.
    pub(crate) fn drop_other_facts(&self, who: &Who) {
        let instance = &who.attested.instance;
        let holdings = self.holdings();
        let Some(places) = holdings.by_instance.get(instance) else {
            return;
        };
        let others: Vec<_> = places
            .iter()
            .filter(|(place, _)| place.digest != who.digest)
            .map(|(place, held)| {
                (
                    HoldingKey {
                        instance: instance.clone(),
                        place: place.clone(),
                    },
                    Arc::clone(held),
                )
            })
            .collect();
        self.drop_held(&others);
    }

    /// A bell for an instance; what rang before it was made is not heard.
    pub(crate) fn bell(self: &Arc<Self>, instance: &Instance) -> Bell {
        let heard = self
            .inner()
            .bells
            .entry(instance.clone())
            .or_insert_with(|| watch::Sender::new(0))
            .subscribe();
        Bell {
            heard,
            instance: instance.clone(),
            book: Arc::clone(self),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Holdings) -> (T, Vec<Instance>)) -> T {
        let inner = self.inner();
        let mut holdings = Holdings::clone(&inner.writer.load());
        let (out, touched) = change(&mut holdings);
        inner.writer.publish(holdings);
        if touched.contains(&Instance::Node) {
            // Everyone may share it.
            inner.bells.values().for_each(ring);
        } else {
            touched
                .iter()
                .filter_map(|instance| inner.bells.get(instance))
                .for_each(ring);
        }
        out
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Holdings are replaced whole, so they are whole whatever panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ring(bell: &watch::Sender<u64>) {
    bell.send_modify(|rung| *rung = rung.wrapping_add(1));
}

impl Bell {
    /// Waits until it rings.
    pub(crate) async fn rung(&mut self) {
        if self.heard.changed().await.is_err() {
            // The register keeps the other end while this one is alive; were it gone, nothing could ring.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let mut inner = self.book.inner();
        // This one is still counted.
        if inner
            .bells
            .get(&self.instance)
            .is_some_and(|bell| bell.receiver_count() <= 1)
        {
            inner.bells.remove(&self.instance);
        }
    }
}

/// The longest a rotation waits to look again, though nothing rang.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
pub(crate) mod tests;
