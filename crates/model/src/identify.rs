//! Who: from what was attested to the entries it is entitled to. Pure; both agent and server run it.

use std::sync::Arc;

use attesta_spiffe::SpiffeId;
use jiff::Timestamp;

use crate::{
    Attested, Code, Denial, Entry, Facts, IdPattern, Node, Parent, Reason, SelectorSet, Snapshot,
    limits,
};

/// An entry that matches, with the id it gives these facts.
#[derive(Clone, Debug)]
pub struct Match {
    /// By which entry.
    pub entry: Arc<Entry>,
    /// Who the caller is.
    pub id: SpiffeId,
}

/// An entry that came near, and what it lacked.
#[derive(Clone, Debug)]
pub struct Near {
    /// Which entry.
    pub entry: Arc<Entry>,
    /// The selectors that were not found.
    pub missing: Vec<String>,
}

impl Snapshot {
    /// Everyone for whom this node may vouch: itself, its aliases (entries below the server whose selectors are all the
    /// node's), and whatever entries below those are parents again. (SPIRE's node aliases and recursive parents.)
    #[must_use]
    pub fn parents_of(&self, node: &Node) -> Vec<Parent> {
        let mut parents = vec![Parent::Id(node.id.clone())];
        let selectors = node.selectors();
        let aliases = selectors
            .iter()
            .flat_map(|s| self.entries_filed(&Parent::Server, s))
            .filter(|e| e.selectors().all_in(&selectors));
        for alias in aliases {
            if let Some(id) = alias.spiffe_id().exact() {
                push_new(&mut parents, Parent::Id(id.clone()));
            }
        }
        if !self.has_nested_parents() {
            return parents;
        }
        // Breadth first, by levels, so that the depth is bounded; each parent once, so that a ring ends.
        let mut next = 0;
        for _ in 0..limits::PARENT_DEPTH {
            let level = parents.get(next..).unwrap_or_default().to_vec();
            if level.is_empty() {
                break;
            }
            next = parents.len();
            for parent in &level {
                for entry in self.entries_of(parent) {
                    if let Some(id) = entry.spiffe_id().exact()
                        && self.is_nested_parent(id)
                    {
                        push_new(&mut parents, Parent::Id(id.clone()));
                    }
                }
            }
        }
        parents
    }

    /// All entries for whose workloads this node may vouch.
    pub fn authorized<'a>(&'a self, parents: &'a [Parent]) -> impl Iterator<Item = &'a Arc<Entry>> {
        parents.iter().flat_map(|p| self.entries_of(p))
    }

    /// Whether this node may vouch for this entry's workloads.
    #[must_use]
    pub fn is_authorized(&self, parents: &[Parent], entry: &Entry) -> bool {
        parents.contains(entry.parent())
    }

    /// The entries whose selectors are all there, in the order of precedence. A template that refuses these facts is an
    /// `Err` beside the others: it denies itself only.
    #[must_use]
    pub fn identify(
        &self,
        parents: &[Parent],
        attested: &Attested,
        now: Timestamp,
    ) -> Vec<Result<Match, (Arc<Entry>, Denial)>> {
        let candidates = parents.iter().flat_map(|p| {
            attested
                .selectors
                .iter()
                .flat_map(move |s| self.entries_filed(p, s))
        });
        identify(
            candidates,
            &attested.selectors,
            &attested.facts,
            now,
            |id| self.is_privileged(id),
        )
    }

    /// The entries nearest to these selectors: fewest missing first, at most `most`. For `explain` and
    /// for refusals; it reads at most [`limits::NEAREST_SCAN`] entries.
    #[must_use]
    pub fn nearest(&self, parents: &[Parent], selectors: &SelectorSet, most: usize) -> Vec<Near> {
        let mut all: Vec<Near> = self
            .authorized(parents)
            .take(limits::NEAREST_SCAN)
            .map(|entry| Near {
                entry: Arc::clone(entry),
                missing: entry
                    .selectors()
                    .iter()
                    .filter(|s| !selectors.contains(s))
                    .map(str::to_owned)
                    .collect(),
            })
            .collect();
        all.sort_by(|a, b| {
            a.missing
                .len()
                .cmp(&b.missing.len())
                .then_with(|| a.entry.precedence(&b.entry))
        });
        all.truncate(most);
        all
    }
}

/// [`Snapshot::identify`] over candidates of the caller's: what an agent runs on the entries pushed to it.
pub fn identify<'a>(
    candidates: impl Iterator<Item = &'a Arc<Entry>>,
    selectors: &SelectorSet,
    facts: &Facts,
    now: Timestamp,
    privileged: impl Fn(&SpiffeId) -> bool,
) -> Vec<Result<Match, (Arc<Entry>, Denial)>> {
    let mut matching: Vec<Arc<Entry>> = candidates
        .filter(|e| !e.is_expired(now) && e.selectors().all_in(selectors))
        .map(Arc::clone)
        .collect();
    matching.sort_by(|a, b| a.precedence(b));
    matching.dedup_by(|a, b| a.id() == b.id());
    matching
        .into_iter()
        .map(|entry| {
            expand(&entry, facts, &privileged)
                .map(|id| Match {
                    entry: Arc::clone(&entry),
                    id,
                })
                .map_err(|denial| (entry, denial))
        })
        .collect()
}

/// The id an entry gives these facts; an expanded id passes every check of a written one.
fn expand(
    entry: &Entry,
    facts: &Facts,
    privileged: impl Fn(&SpiffeId) -> bool,
) -> Result<SpiffeId, Denial> {
    let id = entry.spiffe_id().expand(facts)?;
    if matches!(entry.spiffe_id(), IdPattern::Template(_)) && privileged(&id) {
        return Err(Denial::new(
            Code::PermissionDenied,
            Reason::Template,
            format!("the template expands to {id}, which carries admin or downstream rights"),
        )
        .with_rule(entry.id().to_string())
        .with_hint("rights are given by an entry with a plain SPIFFE ID"));
    }
    Ok(id)
}

fn push_new(parents: &mut Vec<Parent>, parent: Parent) {
    if !parents.contains(&parent) {
        parents.push(parent);
    }
}
