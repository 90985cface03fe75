//! All state at one count of commits. Persistent: a commit shares all it does not touch, so its cost does not grow with
//! the number of entries, and readers keep what they loaded.
//!
//! `apply` is the only function through which state moves; the indexes are kept there.

use std::{cmp::Ordering, ops::Bound, sync::Arc};

use attesta_spiffe::{SpiffeId, TrustDomain};
use imbl::{OrdMap, OrdSet};

use crate::{
    AuthorityKey, Change, Entry, EntryId, JoinToken, KeyId, Node, Object, ObjectKey, Parent,
    Revision, TokenHash,
};

mod rarity;

pub use rarity::Rarity;

/// See the module.
#[derive(Clone)]
pub struct Snapshot {
    trust_domain: TrustDomain,
    revision: Revision,
    bundle_revision: Revision,
    placed: OrdSet<Placed>,
    entries: OrdMap<EntryId, Arc<Entry>>,
    nodes: OrdMap<SpiffeId, Arc<Node>>,
    tokens: OrdMap<TokenHash, Arc<JoinToken>>,
    authorities: OrdMap<KeyId, Arc<AuthorityKey>>,
    /// Parents that are no agents: without any, nothing is reachable but through the node and its aliases.
    nested: OrdMap<SpiffeId, u32>,
    /// Ids that carry rights; no template may expand to one.
    privileged: OrdMap<SpiffeId, Rights>,
}

/// How many entries give an id a right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rights {
    admin: u32,
    downstream: u32,
}

/// An entry in its place: by parent, then by the one selector under which it is found, then by SPIFFE ID, then by name.
#[derive(Clone)]
struct Placed(Arc<Entry>);

impl Placed {
    fn place(&self) -> (&Parent, &str, &str, &EntryId) {
        (
            self.0.parent(),
            self.0.filed(),
            self.0.spiffe_id().as_str(),
            self.0.id(),
        )
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}
impl Eq for Placed {}
impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Placed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

/// A place to begin reading at; it lies before every entry that it is equal to.
struct Place<'a>(&'a Parent, &'a str, &'a str);

impl equivalent::Equivalent<Placed> for Place<'_> {
    fn equivalent(&self, _: &Placed) -> bool {
        false
    }
}

impl equivalent::Comparable<Placed> for Place<'_> {
    fn compare(&self, other: &Placed) -> Ordering {
        let (parent, filed, id, _) = other.place();
        (self.0, self.1, self.2)
            .cmp(&(parent, filed, id))
            .then(Ordering::Less)
    }
}

/// Whom a commit concerns: whose push streams wake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Parents whose entries changed.
    pub parents: Vec<Parent>,
    /// Nodes that changed.
    pub nodes: Vec<SpiffeId>,
    /// Whether the bundle changed.
    pub bundle: bool,
}

impl Snapshot {
    /// Nothing yet.
    #[must_use]
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            revision: Revision(0),
            bundle_revision: Revision(0),
            placed: OrdSet::new(),
            entries: OrdMap::new(),
            nodes: OrdMap::new(),
            tokens: OrdMap::new(),
            authorities: OrdMap::new(),
            nested: OrdMap::new(),
            privileged: OrdMap::new(),
        }
    }

    /// Moves state to `revision`. What is put replaces what has its key; a delete of nothing is nothing.
    pub fn apply(
        &mut self,
        changes: &[Change],
        revision: Revision,
        rarity: &mut Rarity,
    ) -> Touched {
        let mut touched = Touched::default();
        for change in changes {
            match change {
                Change::Put(Object::Entry(entry)) => {
                    self.remove_entry(entry.id(), rarity, &mut touched);
                    self.insert_entry(Arc::clone(entry), rarity, &mut touched);
                }
                Change::Put(Object::Node(node)) => {
                    touched.nodes.push(node.id.clone());
                    self.nodes.insert(node.id.clone(), Arc::clone(node));
                }
                Change::Put(Object::Token(token)) => {
                    self.tokens.insert(token.hash, Arc::clone(token));
                }
                Change::Put(Object::Authority(authority)) => {
                    touched.bundle = true;
                    self.authorities
                        .insert(authority.id.clone(), Arc::clone(authority));
                }
                Change::Delete(ObjectKey::Entry(id)) => self.remove_entry(id, rarity, &mut touched),
                Change::Delete(ObjectKey::Node(id)) => {
                    touched.nodes.push(id.clone());
                    self.nodes.remove(id);
                }
                Change::Delete(ObjectKey::Token(hash)) => {
                    self.tokens.remove(hash);
                }
                Change::Delete(ObjectKey::Authority(id)) => {
                    touched.bundle = true;
                    self.authorities.remove(id);
                }
            }
        }
        self.revision = revision;
        if touched.bundle {
            self.bundle_revision = revision;
        }
        touched.parents.sort_unstable();
        touched.parents.dedup();
        touched
    }

    fn insert_entry(&mut self, entry: Arc<Entry>, rarity: &mut Rarity, touched: &mut Touched) {
        for selector in entry.selectors().iter() {
            rarity.add(selector);
        }
        let entry = Arc::new(Arc::unwrap_or_clone(entry).filed_by(|s| rarity.estimate(s)));
        if let Parent::Id(parent) = entry.parent()
            && !parent.path().starts_with(crate::attested::AGENT_PREFIX)
        {
            *self.nested.entry(parent.clone()).or_insert(0) += 1;
        }
        if let Some(id) = entry.spiffe_id().exact()
            && (entry.admin() || entry.downstream())
        {
            let rights = self.privileged.entry(id.clone()).or_default();
            rights.admin += u32::from(entry.admin());
            rights.downstream += u32::from(entry.downstream());
        }
        touched.parents.push(entry.parent().clone());
        self.placed.insert(Placed(Arc::clone(&entry)));
        self.entries.insert(entry.id().clone(), entry);
    }

    fn remove_entry(&mut self, id: &EntryId, rarity: &mut Rarity, touched: &mut Touched) {
        let Some(entry) = self.entries.remove(id) else {
            return;
        };
        for selector in entry.selectors().iter() {
            rarity.sub(selector);
        }
        if let Parent::Id(parent) = entry.parent()
            && let Some(count) = self.nested.get_mut(parent)
        {
            *count -= 1;
            if *count == 0 {
                self.nested.remove(parent);
            }
        }
        if let Some(id) = entry.spiffe_id().exact()
            && let Some(rights) = self.privileged.get_mut(id)
        {
            rights.admin -= u32::from(entry.admin());
            rights.downstream -= u32::from(entry.downstream());
            if *rights == Rights::default() {
                self.privileged.remove(id);
            }
        }
        touched.parents.push(entry.parent().clone());
        self.placed.remove(&Placed(entry));
    }

    /// The trust domain, for ever.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The count of commits.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision of the last change of the bundle: its sequence number (C107, C108).
    #[must_use]
    pub fn bundle_revision(&self) -> Revision {
        self.bundle_revision
    }

    /// Sets what a load knows and `apply` cannot: the revision of the last change of the bundle.
    #[must_use]
    pub fn with_bundle_revision(mut self, revision: Revision) -> Self {
        self.bundle_revision = revision;
        self
    }

    /// An entry by its name.
    #[must_use]
    pub fn entry(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    /// How many entries there are.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Entries in the order of their ids, after one.
    pub fn entries_after(&self, after: Option<&EntryId>) -> impl Iterator<Item = &Arc<Entry>> {
        let start = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.clone()));
        self.entries
            .range((start, Bound::Unbounded))
            .map(|(_, e)| e)
    }

    /// All entries of one parent.
    pub fn entries_of<'a>(&'a self, parent: &'a Parent) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.from(Place(parent, "", ""))
            .take_while(move |e| e.parent() == parent)
    }

    /// A parent's entries filed under one selector.
    pub fn entries_filed<'a>(
        &'a self,
        parent: &'a Parent,
        selector: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.from(Place(parent, selector, ""))
            .take_while(move |e| e.parent() == parent && e.filed() == selector)
    }

    fn from<'a>(&'a self, place: Place<'a>) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.placed
            .range((Bound::Included(place), Bound::<Place<'a>>::Unbounded))
            .map(|p| &p.0)
    }

    /// The entry with this SPIFFE ID, parent and set of selectors, if there is one: there is never a second.
    #[must_use]
    pub fn similar(&self, entry: &Entry) -> Option<&Arc<Entry>> {
        // It may be filed under any of its selectors: what was rare when it came need not be rare now.
        for selector in entry.selectors().iter() {
            let place = Place(entry.parent(), selector, entry.spiffe_id().as_str());
            for Placed(e) in self
                .placed
                .range((Bound::Included(place), Bound::<Place<'_>>::Unbounded))
            {
                if e.parent() != entry.parent()
                    || e.filed() != selector
                    || e.spiffe_id() != entry.spiffe_id()
                {
                    break;
                }
                if e.selectors() == entry.selectors() {
                    return Some(e);
                }
            }
        }
        None
    }

    /// A node by its id.
    #[must_use]
    pub fn node(&self, id: &SpiffeId) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    /// Nodes in the order of their ids, after one.
    pub fn nodes_after(&self, after: Option<&SpiffeId>) -> impl Iterator<Item = &Arc<Node>> {
        let start = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.clone()));
        self.nodes.range((start, Bound::Unbounded)).map(|(_, n)| n)
    }

    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// A join token by its hash.
    #[must_use]
    pub fn token(&self, hash: &TokenHash) -> Option<&Arc<JoinToken>> {
        self.tokens.get(hash)
    }

    /// All join tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<JoinToken>> {
        self.tokens.values()
    }

    /// All authorities.
    pub fn authorities(&self) -> impl Iterator<Item = &Arc<AuthorityKey>> {
        self.authorities.values()
    }

    /// Whether some entry gives this id admin rights.
    #[must_use]
    pub fn is_admin(&self, id: &SpiffeId) -> bool {
        self.privileged.get(id).is_some_and(|r| r.admin > 0)
    }

    /// Whether some entry gives this id any right; no template may expand to it.
    #[must_use]
    pub fn is_privileged(&self, id: &SpiffeId) -> bool {
        self.privileged.contains_key(id)
    }

    /// Whether this id is some entry's parent without being an agent's.
    #[must_use]
    pub fn is_nested_parent(&self, id: &SpiffeId) -> bool {
        self.nested.contains_key(id)
    }

    /// Whether any entry has a parent that is no agent.
    #[must_use]
    pub fn has_nested_parents(&self) -> bool {
        !self.nested.is_empty()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Snapshot({} at {}: {} entries, {} nodes)",
            self.trust_domain,
            self.revision,
            self.entries.len(),
            self.nodes.len()
        )
    }
}

#[cfg(test)]
mod tests;
