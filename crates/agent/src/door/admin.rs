//! The agent's own admin socket: what came of looking at a process, and which entries came near.
//!
//! Issues nothing. Must not be reachable for workloads: what entries exist is not for every local user.

use std::sync::Arc;

use attesta_attest::Peer;
use attesta_model::{Denial, Entry};
use attesta_wire::{
    fact::facts_to_wire,
    proto::attesta::{
        agent::v1::{ExplainPidRequest, ExplainPidResponse, Found, agent_admin_server::AgentAdmin},
        types::v1::Candidate,
    },
};
use tonic::{Request, Response, Status, async_trait};

use super::caller::Reception;
use crate::{
    authorized::{Authorized, Who},
    status::Board,
};

/// How many entries that do not match are shown, the nearest first.
const NEAREST: usize = 10;

/// Holds a process by its pid, for `explain`.
pub(crate) type HoldPid = fn(u32) -> Result<Peer, Status>;

/// The service.
pub(crate) struct AdminDoor {
    pub(crate) reception: Arc<Reception>,
    pub(crate) board: Board,
    pub(crate) hold: HoldPid,
}

#[async_trait]
impl AgentAdmin for AdminDoor {
    async fn explain(
        &self,
        request: Request<ExplainPidRequest>,
    ) -> Result<Response<ExplainPidResponse>, Status> {
        let pid = request.into_inner().pid;
        if pid == 0 {
            return Err(Status::invalid_argument("pid must be positive"));
        }
        let peer = (self.hold)(pid)?;
        let observed = self
            .reception
            .workloads
            .attest(&peer, self.reception.deadline)
            .await;
        // An admin may read which attestor failed, and why.
        let observed = observed.map_err(|e| Status::unavailable(e.to_string()))?;
        let stable = observed.digest_facts().clone();
        let facts = observed.facts.clone();
        let who = Who::new(
            attesta_model::Parent::Server,
            peer.instance(),
            observed.facts,
            &stable,
        );
        let known = self.reception.authorized.load();
        let mut explained = explain(&who, &known, self.reception.clock.now());
        explained.facts = facts_to_wire(&facts);
        for note in &observed.notes {
            explained
                .summary
                .push_str(&format!(" {} is missing: {}.", note.fact, note.why));
        }
        let status = self.board.live().load();
        if !status.server_reachable
            && let Some(error) = &status.last_error
        {
            explained
                .summary
                .push_str(&format!(" The server cannot be reached: {error}."));
        }
        Ok(Response::new(explained))
    }
}

/// What the agent makes of an instance.
fn explain(who: &Who, known: &Authorized, now: jiff::Timestamp) -> ExplainPidResponse {
    let (matches, denied) = known.identify(who, now);
    let selectors = &who.attested.selectors;
    let mut candidates: Vec<Candidate> = matches
        .iter()
        .map(|m| candidate(&m.entry, m.id.as_str(), true, Vec::new(), None))
        .collect();
    candidates.extend(denied.iter().map(|(entry, denial)| {
        candidate(
            entry,
            entry.spiffe_id().as_str(),
            true,
            Vec::new(),
            Some(denial),
        )
    }));
    let mut near: Vec<(&Arc<Entry>, Vec<String>)> = known
        .entries()
        .map(|entry| {
            (
                entry,
                entry
                    .selectors()
                    .iter()
                    .filter(|s| !selectors.contains(s))
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
            )
        })
        .filter(|(entry, missing)| {
            !missing.is_empty() || entry.is_expired(now) || entry.store_svid()
        })
        .collect();
    near.sort_by(|a, b| a.1.len().cmp(&b.1.len()).then_with(|| a.0.precedence(b.0)));
    candidates.extend(near.into_iter().take(NEAREST).map(|(entry, missing)| {
        let matching = missing.is_empty();
        let mut one = candidate(entry, entry.spiffe_id().as_str(), matching, missing, None);
        if matching {
            one.note = if entry.store_svid() {
                "is for SVID stores, not for workloads"
            } else {
                "has expired"
            }
            .to_owned();
        }
        one
    }));
    let summary = match (
        known.is_synced(),
        matches.len(),
        denied.len(),
        candidates.first(),
    ) {
        (false, ..) => "The agent does not know yet what this node may vouch for.".to_owned(),
        (true, 0, 0, None) => "The server has no entry for this node.".to_owned(),
        (true, 0, 0, Some(near)) if near.missing_selectors.is_empty() => format!(
            "No entry matches; the nearest, {}, {}.",
            near.entry_id, near.note
        ),
        (true, 0, 0, Some(near)) => format!(
            "No entry matches; the nearest, {}, also wants {}.",
            near.entry_id,
            near.missing_selectors.join(", ")
        ),
        (true, 0, refused, _) => {
            format!("{refused} entries match and their templates refuse these facts.")
        }
        (true, 1, ..) => {
            "1 entry matches; the server's policy decides when the process asks.".to_owned()
        }
        (true, n, ..) => {
            format!("{n} entries match; the server's policy decides when the process asks.")
        }
    };
    // A fact's namespace is the name of the attestor that found it.
    let found = |selector: &str| Found {
        selector: selector.to_owned(),
        attestor: selector.split(':').next().unwrap_or_default().to_owned(),
    };
    ExplainPidResponse {
        found: selectors.iter().map(found).collect(),
        candidates,
        summary,
        facts: Vec::new(),
    }
}

fn candidate(
    entry: &Entry,
    id: &str,
    matches: bool,
    missing: Vec<String>,
    denial: Option<&Denial>,
) -> Candidate {
    Candidate {
        entry_id: entry.id().to_string(),
        spiffe_id: id.to_owned(),
        matches,
        missing_selectors: missing,
        denial: denial
            .map(|d| format!("{:?}: {d}", d.code))
            .unwrap_or_default(),
        note: String::new(),
        parent_id: entry.parent().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorized::tests::{entry, who};

    #[test]
    fn the_nearest_entry_and_what_it_lacks_are_named() {
        let mut known = Authorized::default();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let said = |known: &Authorized| explain(&who(1, "1"), known, now);
        assert!(said(&known).summary.contains("does not know yet"));
        known.set_revision(1);
        assert_eq!(
            said(&known).summary,
            "The server has no entry for this node."
        );
        known.put(entry("far", &["unix:uid:2", "unix:gid:9"], |_| ()));
        known.put(entry("near", &["unix:uid:1", "unix:path:/bin/x"], |_| ()));
        let answer = said(&known);
        assert_eq!(
            answer.summary,
            "No entry matches; the nearest, near, also wants unix:path:/bin/x."
        );
        assert_eq!(answer.candidates.len(), 2);
        assert_eq!(
            answer
                .found
                .first()
                .map(|f| (f.selector.as_str(), f.attestor.as_str())),
            Some(("unix:gid:7", "unix"))
        );
        known.put(entry("tpl", &["unix:uid:1"], |e| {
            e.spiffe_id = "spiffe://example.org/u/{unix.user}".to_owned()
        }));
        let answer = said(&known);
        assert!(
            answer.summary.contains("templates refuse"),
            "{}",
            answer.summary
        );
        assert!(!answer.candidates[0].denial.is_empty());
        known.put(entry("good", &["unix:uid:1"], |_| ()));
        let answer = said(&known);
        assert!(answer.summary.starts_with("1 entry matches"));
        assert_eq!(
            (
                answer.candidates[0].entry_id.as_str(),
                answer.candidates[0].matches
            ),
            ("good", true)
        );
    }
}
