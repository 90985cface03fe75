//! What the server lets this node vouch for: the entries and the bundle, as of one revision.
//!
//! Pure: how they arrive is `sync`'s. A value is never changed, only replaced; its maps share what did not change.

use std::sync::Arc;

use attesta_model::{
    Attested, Denial, Entry, EntryId, Facts, Instance, Match, Parent, Sharing, identify::identify,
};
use attesta_spiffe::SpiffeId;
use aws_lc_rs::digest::{SHA256, digest};
use imbl::OrdMap;
use jiff::Timestamp;

use crate::trust::Trust;

/// Entries and bundle. Starts with nothing, which is not the same as having been told of nothing: see `is_synced`.
#[derive(Clone, Default)]
pub(crate) struct Authorized {
    entries: OrdMap<EntryId, Filed>,
    /// The same, by the selector that fewest share.
    by_selector: OrdMap<Arc<str>, OrdMap<EntryId, Arc<Entry>>>,
    /// Those whose credential the whole node shares.
    shared: OrdMap<EntryId, Arc<Entry>>,
    trust: Option<Arc<Trust>>,
    revision: u64,
    synced: bool,
}

#[derive(Clone)]
struct Filed {
    entry: Arc<Entry>,
    under: Arc<str>,
}

/// SHA-256 over the facts of an instance that do not change by themselves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct FactsDigest([u8; 32]);

/// An instance as the agent saw it.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) attested: Attested,
    pub(crate) digest: FactsDigest,
}

impl FactsDigest {
    pub(crate) fn of(facts: &Facts) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &facts.canonical()).as_ref());
        Self(out)
    }
}

impl Who {
    /// An instance by all its facts, and those of them that make it the same again.
    pub(crate) fn new(node: Parent, instance: Instance, facts: Facts, stable: &Facts) -> Self {
        Self {
            digest: FactsDigest::of(stable),
            attested: Attested::new(node, facts, instance, None),
        }
    }

    /// The node as a whole, for what it shares.
    pub(crate) fn node() -> Self {
        Self::new(
            Parent::Server,
            Instance::Node,
            Facts::default(),
            &Facts::default(),
        )
    }
}

impl Authorized {
    /// With a bundle and no entries yet.
    pub(crate) fn trusting(trust: Option<Arc<Trust>>) -> Self {
        Self {
            trust,
            ..Self::default()
        }
    }

    /// Whether the server has said what this node may vouch for.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.as_ref()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.entries.get(id).map(|filed| &filed.entry)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values().map(|filed| &filed.entry)
    }

    /// The entries whose credential is fetched ahead and shared by the node.
    pub(crate) fn shared(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.shared.values()
    }

    /// Adds an entry, or replaces it by a newer one.
    pub(crate) fn put(&mut self, entry: Arc<Entry>) {
        self.remove(entry.id());
        let id = entry.id().clone();
        let size = |selector: &str| self.by_selector.get(selector).map_or(0, OrdMap::len);
        let under: Arc<str> = entry
            .selectors()
            .iter()
            .min_by_key(|s| size(s))
            .unwrap_or_default()
            .into();
        let mut bucket = self.by_selector.get(&under).cloned().unwrap_or_default();
        bucket.insert(id.clone(), Arc::clone(&entry));
        self.by_selector.insert(Arc::clone(&under), bucket);
        if entry.sharing() == Sharing::Node && !entry.store_svid() {
            self.shared.insert(id.clone(), Arc::clone(&entry));
        }
        self.entries.insert(id, Filed { entry, under });
    }

    /// Removes an entry, if it is there.
    pub(crate) fn remove(&mut self, id: &EntryId) {
        let Some(filed) = self.entries.remove(id) else {
            return;
        };
        self.shared.remove(id);
        if let Some(mut bucket) = self.by_selector.remove(&filed.under) {
            bucket.remove(id);
            if !bucket.is_empty() {
                self.by_selector.insert(filed.under, bucket);
            }
        }
    }

    /// Removes every entry.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.by_selector.clear();
        self.shared.clear();
    }

    /// Takes a bundle. One that shows the same keeps the old one's place, so that whoever compares by it sees no change.
    pub(crate) fn set_trust(&mut self, trust: Arc<Trust>) {
        if !self.trust.as_ref().is_some_and(|old| old.is_same(&trust)) {
            self.trust = Some(trust);
        }
    }

    /// The server has said everything up to this revision.
    pub(crate) fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
        self.synced = true;
    }

    /// SHA-256 over the set, as the server makes it.
    pub(crate) fn digest(&self) -> Vec<u8> {
        digest(&SHA256, &attesta_wire::entry::canonical(self.entries()))
            .as_ref()
            .to_vec()
    }

    /// The entries this instance is entitled to, in the order of precedence, and the templates that refused its facts.
    /// Those for SVID stores are not for workloads.
    pub(crate) fn identify(
        &self,
        who: &Who,
        now: Timestamp,
    ) -> (Vec<Match>, Vec<(Arc<Entry>, Denial)>) {
        let attested = &who.attested;
        let candidates = attested
            .selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(selector))
            .flat_map(OrdMap::values)
            .filter(|entry| !entry.store_svid());
        // Rights are the server's to look at; it decides anew.
        let nobody = |_: &SpiffeId| false;
        let mut matches = Vec::new();
        let mut denied = Vec::new();
        for found in identify(
            candidates,
            &attested.selectors,
            &attested.facts,
            now,
            nobody,
        ) {
            match found {
                Ok(found) => matches.push(found),
                Err(refused) => denied.push(refused),
            }
        }
        (matches, denied)
    }
}

/// Of identities with the same hint only the oldest entry's is shown (C184); those without a hint are all shown.
pub(crate) fn unique_hints(matches: Vec<Match>) -> Vec<Match> {
    let age = |entry: &Entry| (entry.created_at(), entry.id().clone());
    let mut keep = vec![true; matches.len()];
    for (i, one) in matches.iter().enumerate() {
        let hint = one.entry.hint();
        let older =
            |other: &Match| other.entry.hint() == hint && age(&other.entry) < age(&one.entry);
        if !hint.is_empty()
            && matches.iter().any(older)
            && let Some(kept) = keep.get_mut(i)
        {
            *kept = false;
        }
    }
    matches
        .into_iter()
        .zip(keep)
        .filter_map(|(one, kept)| kept.then_some(one))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use attesta_model::{EntrySpec, Fact};
    use attesta_spiffe::TrustDomain;

    use super::*;

    pub(crate) fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    pub(crate) fn entry(
        id: &str,
        selectors: &[&str],
        more: impl FnOnce(&mut EntrySpec),
    ) -> Arc<Entry> {
        let mut spec = EntrySpec {
            spiffe_id: format!("spiffe://example.org/{id}"),
            parent: Some(Parent::Server),
            selectors: selectors.iter().map(|s| (*s).to_owned()).collect(),
            ..EntrySpec::default()
        };
        more(&mut spec);
        Arc::new(Entry::new(spec, EntryId::parse(id).unwrap(), &domain()).unwrap())
    }

    pub(crate) fn who(pid: u32, uid: &str) -> Who {
        let facts = Facts::new([
            Fact::new("unix", "uid", [uid]).unwrap(),
            Fact::new("unix", "gid", ["7"]).unwrap(),
        ])
        .unwrap();
        Who::new(
            Parent::Server,
            Instance::process("b007", pid, 1).unwrap(),
            facts.clone(),
            &facts,
        )
    }

    fn ids(matches: &[Match]) -> Vec<String> {
        matches.iter().map(|m| m.entry.id().to_string()).collect()
    }

    #[test]
    fn entries_are_found_by_facts_and_forgotten_when_removed() {
        let mut all = Authorized::default();
        assert!(!all.is_synced());
        all.put(entry("a", &["unix:uid:1"], |_| ()));
        all.put(entry("b", &["unix:uid:1", "unix:gid:7"], |e| {
            e.priority = 1
        }));
        all.put(entry("c", &["unix:uid:1", "unix:gid:8"], |_| ()));
        all.put(entry("d", &["unix:uid:2"], |_| ()));
        all.put(entry("s", &["unix:uid:1"], |e| e.store_svid = true));
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(ids(&all.identify(&who(1, "1"), now).0), ["b", "a"]);
        assert_eq!(ids(&all.identify(&who(1, "2"), now).0), ["d"]);
        // Another selector set under the same id: found by the new one alone.
        all.put(entry("a", &["unix:uid:2"], |_| ()));
        assert_eq!(ids(&all.identify(&who(1, "1"), now).0), ["b"]);
        assert_eq!(ids(&all.identify(&who(1, "2"), now).0), ["a", "d"]);
        all.remove(&EntryId::parse("a").unwrap());
        all.remove(&EntryId::parse("d").unwrap());
        assert!(all.identify(&who(1, "2"), now).0.is_empty());
        assert_eq!(
            (
                all.len(),
                all.by_selector.values().map(OrdMap::len).sum::<usize>()
            ),
            (3, 3)
        );
        all.clear();
        assert!(all.identify(&who(1, "1"), now).0.is_empty());
    }

    #[test]
    fn a_template_denies_itself_only() {
        let mut all = Authorized::default();
        all.put(entry("a", &["unix:uid:1"], |e| {
            e.spiffe_id = "spiffe://example.org/u/{unix.user}".to_owned()
        }));
        all.put(entry("b", &["unix:uid:1"], |e| {
            e.spiffe_id = "spiffe://example.org/u/{unix.uid}".to_owned()
        }));
        let (matches, denied) = all.identify(&who(1, "1"), Timestamp::UNIX_EPOCH);
        assert_eq!(
            matches.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(),
            ["spiffe://example.org/u/1"]
        );
        assert_eq!(denied.len(), 1);
    }

    #[test]
    fn of_equal_hints_the_oldest_entry_is_shown() {
        let check = |entries: &[(&str, &str, i64, i32)], expect: &[&str]| {
            let mut all = Authorized::default();
            for (id, hint, created, priority) in entries {
                all.put(entry(id, &["unix:uid:1"], |e| {
                    e.hint = (*hint).to_owned();
                    e.created_at = Timestamp::from_second(*created).unwrap();
                    e.priority = *priority;
                }));
            }
            let (matches, _) = all.identify(&who(1, "1"), Timestamp::UNIX_EPOCH);
            assert_eq!(ids(&unique_hints(matches)), expect, "{entries:?}");
        };
        check(&[("a", "", 1, 0), ("b", "", 1, 0)], &["a", "b"]);
        check(
            &[("a", "x", 2, 0), ("b", "x", 1, 0), ("c", "", 3, 0)],
            &["b", "c"],
        );
        check(&[("a", "x", 1, 0), ("b", "x", 1, 9)], &["a"]);
        check(
            &[("a", "x", 1, 0), ("b", "y", 1, 9), ("c", "x", 0, 0)],
            &["b", "c"],
        );
    }
}
