//! Learns from the server what this node may vouch for: pushed where the server can push, else asked for, SPIRE's way.
//!
//! Must not know what entries are used for. The first sync follows attestation at once; nothing on that path sleeps.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use attesta_model::EntryId;
use attesta_runtime::{CancellationToken, Clock, ReadyGuard, Wake};
use attesta_spiffe::TrustDomain;
use attesta_wire::{
    entry::{from_agent, from_server},
    proto::{
        attesta::agent::v1::{WatchRequest, WatchResponse, agent_link_client::AgentLinkClient},
        spire::api::{
            server::{
                agent::v1::{PostStatusRequest, agent_client::AgentClient},
                bundle::v1::{GetBundleRequest, bundle_client::BundleClient},
                entry::v1::{
                    EntryRevision, GetAuthorizedEntriesRequest, SyncAuthorizedEntriesRequest,
                    SyncAuthorizedEntriesResponse, entry_client::EntryClient,
                },
            },
            types,
        },
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    authorized::Authorized,
    link::{Link, MAX_ANSWER, Session},
    moments::{Backoff, dice, jittered},
    standing::Standing,
    status::Board,
    trust::Trust,
};

/// Most entries asked for at once (SPIRE's page).
const PAGE: usize = 500;
/// A push stream that was silent for so long is opened anew: the server sends a digest every 5 minutes.
const SILENCE: Duration = Duration::from_secs(11 * 60);
/// The longest wait between two polls that fail (SPIRE's).
const LONGEST_WAIT: Duration = Duration::from_secs(8 * 60);
/// The longest wait before a push stream is opened again.
const LONGEST_PUSH_WAIT: Duration = Duration::from_secs(30);

/// What a SPIRE agent asks to be told of an entry; without the revision a server refuses.
const MASK: types::EntryMask = types::EntryMask {
    spiffe_id: true,
    parent_id: false,
    selectors: true,
    x509_svid_ttl: false,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: false,
    dns_names: false,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: false,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// Keeps the standing current: the task's state.
pub(crate) struct Sync {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) link: Arc<Link>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) board: Board,
    pub(crate) clock: Clock,
    pub(crate) interval: Duration,
    /// Woken to poll now.
    pub(crate) now: Wake,
    /// Woken when something arrived.
    pub(crate) arrived: Wake,
    /// Held until the first sync.
    pub(crate) unready: Option<ReadyGuard>,
}

/// How watching ended.
enum Watched {
    /// The server cannot push.
    Unable,
    /// The stream ended; whether anything had come on it.
    Ended { heard: bool },
    /// Another identity took this one's place.
    Replaced,
}

impl Sync {
    /// Syncs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut waits = Backoff::new(Duration::from_millis(200), LONGEST_PUSH_WAIT);
        loop {
            let session = self.link.session().await;
            match self.watch(&session).await {
                Watched::Unable => {
                    self.poll_while(&session).await;
                    waits.reset();
                }
                Watched::Replaced => waits.reset(),
                Watched::Ended { heard } => {
                    if heard {
                        waits.reset();
                    }
                    let wait = waits.wait();
                    tokio::select! {
                        () = self.clock.sleep(wait) => {}
                        () = self.link.replaced(&session) => {}
                    }
                }
            }
        }
    }

    /// Takes what is pushed.
    async fn watch(&mut self, session: &Session) -> Watched {
        if session.is_plain() {
            return Watched::Unable;
        }
        let since = self.standing.live().load().revision();
        let mut client =
            AgentLinkClient::new(session.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let mut pushed = match self.link.call(client.watch(WatchRequest { since })).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => {
                session.found_plain();
                return Watched::Unable;
            }
            Err(status) => {
                self.link.failed(session, &status);
                return Watched::Ended { heard: false };
            }
        };
        let mut heard = false;
        loop {
            let message = tokio::select! {
                message = self.clock.timeout(SILENCE, pushed.message()) => message,
                () = self.link.replaced(session) => return Watched::Replaced,
            };
            let message = match message {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) | Err(_) => return Watched::Ended { heard },
                Ok(Err(status)) if status.code() == Code::Unimplemented && !heard => {
                    session.found_plain();
                    return Watched::Unable;
                }
                Ok(Err(status)) => {
                    self.link.failed(session, &status);
                    return Watched::Ended { heard };
                }
            };
            let agrees = self.take(&message);
            if !agrees {
                tracing::warn!(
                    "the entries at hand are not those of the server; all are asked for again"
                );
                self.standing.change(|known| known.set_revision(0));
                return Watched::Ended { heard: false };
            }
            self.synced();
            if !heard {
                heard = true;
                self.greet(session).await;
            }
        }
    }

    /// Applies one push; false where the server's digest says that the result is not what it should be.
    fn take(&self, message: &WatchResponse) -> bool {
        let trust = message.bundle.as_ref().and_then(|wire| self.trust(wire));
        let mut unreadable = 0_usize;
        self.standing.change(|known| {
            if let Some(trust) = trust {
                known.set_trust(trust);
            }
            if message.full {
                known.clear();
            }
            for id in &message.removed {
                if let Ok(id) = EntryId::parse(id) {
                    known.remove(&id);
                }
            }
            for put in &message.put {
                match from_agent(put, &self.trust_domain) {
                    Ok(entry) => known.put(entry),
                    Err(e) => {
                        unreadable += 1;
                        tracing::warn!(entry = put.entry.as_ref().map_or("", |e| &e.id), error = %e, "an entry from the server is not understood");
                    }
                }
            }
            known.set_revision(message.revision);
            // With entries that are not understood the digests differ for ever.
            unreadable > 0 || message.digest.is_empty() || known.digest() == message.digest
        })
    }

    fn trust(&self, wire: &types::Bundle) -> Option<Arc<Trust>> {
        Trust::from_wire(wire, &self.trust_domain)
            .map_err(|e| {
                self.board
                    .trouble(&format!("the server's bundle: {e}"), true)
            })
            .ok()
    }

    fn synced(&mut self) {
        self.board.reached();
        self.unready = None;
        self.arrived.wake();
    }

    /// Tells the server which version this is; of no consequence when it fails.
    async fn greet(&self, session: &Session) {
        let status = PostStatusRequest {
            current_bundle_serial: self
                .standing
                .live()
                .load()
                .trust()
                .map_or(0, |trust| trust.bundle().sequence()),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if let Err(e) = self
            .link
            .call(AgentClient::new(session.channel.clone()).post_status(status))
            .await
        {
            tracing::debug!(error = %e, "the server does not take the agent's version");
        }
    }

    /// Asks again and again, until another identity takes this one's place.
    async fn poll_while(&mut self, session: &Session) {
        let longest = LONGEST_WAIT.min(self.interval.saturating_mul(48));
        let mut backoff = Backoff::new(self.interval, longest.max(self.interval));
        let mut greeted = false;
        loop {
            let wait = match self.poll(session).await {
                Ok(()) => {
                    self.synced();
                    backoff.reset();
                    if !greeted {
                        greeted = true;
                        self.greet(session).await;
                    }
                    jittered(self.interval, dice())
                }
                Err(status) => {
                    self.link.failed(session, &status);
                    backoff.wait()
                }
            };
            tokio::select! {
                () = self.clock.sleep(wait) => {}
                () = self.now.woken() => {}
                () = self.link.replaced(session) => return,
            }
        }
    }

    async fn poll(&self, session: &Session) -> Result<(), Status> {
        let before = self.standing.live().load();
        let entries = match self.link.call(self.differences(session, &before)).await {
            Err(status) if status.code() == Code::Unimplemented => {
                self.link.call(self.everything(session)).await?
            }
            answer => answer?,
        };
        let mut bundles = BundleClient::new(session.channel.clone());
        let bundle = self
            .link
            .call(bundles.get_bundle(GetBundleRequest { output_mask: None }))
            .await?;
        let trust = self.trust(&bundle.into_inner());
        self.standing.change(|known| {
            if let Some(trust) = trust {
                known.set_trust(trust);
            }
            entries.apply(known, &self.trust_domain);
        });
        Ok(())
    }

    async fn everything(&self, session: &Session) -> Result<Polled, Status> {
        let mut client =
            EntryClient::new(session.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let answer = client
            .get_authorized_entries(GetAuthorizedEntriesRequest {
                output_mask: Some(MASK),
            })
            .await?;
        Ok(Polled {
            put: answer.into_inner().entries,
            keep: None,
        })
    }

    /// SPIRE's sync: whole entries where there are few, else revisions, and then what changed by id.
    async fn differences(&self, session: &Session, before: &Authorized) -> Result<Polled, Status> {
        let mut client =
            EntryClient::new(session.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let (ask, asked) = mpsc::channel(1);
        let gone = |_| Status::internal("the server ended the sync");
        ask.send(SyncAuthorizedEntriesRequest {
            output_mask: Some(MASK),
            ids: Vec::new(),
        })
        .await
        .map_err(gone)?;
        let mut answers = client
            .sync_authorized_entries(ReceiverStream::new(asked))
            .await?
            .into_inner();
        let first = pages(&mut answers).await?;
        if first.entry_revisions.is_empty() {
            return Ok(Polled {
                put: first.entries,
                keep: None,
            });
        }
        let stale: Vec<String> = first
            .entry_revisions
            .iter()
            .filter(|r| is_stale(r, before))
            .map(|r| r.id.clone())
            .collect();
        let keep = first
            .entry_revisions
            .into_iter()
            .map(|r| (r.id, ()))
            .collect();
        let mut put = Vec::with_capacity(stale.len());
        for ids in stale.chunks(PAGE) {
            ask.send(SyncAuthorizedEntriesRequest {
                output_mask: None,
                ids: ids.to_vec(),
            })
            .await
            .map_err(gone)?;
            put.extend(pages(&mut answers).await?.entries);
        }
        Ok(Polled {
            put,
            keep: Some(keep),
        })
    }
}

/// What a poll brought.
struct Polled {
    put: Vec<types::Entry>,
    /// The ids of all there are; absent where `put` is all there is.
    keep: Option<BTreeMap<String, ()>>,
}

impl Polled {
    fn apply(self, known: &mut Authorized, trust_domain: &TrustDomain) {
        let keep = self
            .keep
            .unwrap_or_else(|| self.put.iter().map(|e| (e.id.clone(), ())).collect());
        let gone: Vec<EntryId> = known
            .entries()
            .map(|e| e.id())
            .filter(|id| !keep.contains_key(&id.to_string()))
            .cloned()
            .collect();
        for id in &gone {
            known.remove(id);
        }
        for entry in &self.put {
            match from_server(entry, trust_domain) {
                Ok(entry) if known.entry(entry.id()) == Some(&entry) => {}
                Ok(entry) => known.put(entry),
                Err(e) => {
                    tracing::warn!(entry = entry.id, error = %e, "an entry from the server is not understood");
                    if let Ok(id) = EntryId::parse(&entry.id) {
                        known.remove(&id);
                    }
                }
            }
        }
        // Polling has no revision; a push that comes later begins anew.
        known.set_revision(0);
    }
}

/// All pages of one answer, as one.
async fn pages(
    answers: &mut Streaming<SyncAuthorizedEntriesResponse>,
) -> Result<SyncAuthorizedEntriesResponse, Status> {
    let mut all = SyncAuthorizedEntriesResponse::default();
    loop {
        let Some(page) = answers.message().await? else {
            return Err(Status::unavailable(
                "the server ended the sync within an answer",
            ));
        };
        all.entry_revisions.extend(page.entry_revisions);
        all.entries.extend(page.entries);
        if !page.more {
            return Ok(all);
        }
    }
}

/// Whether an entry has to be fetched: it is new, was updated, or was made anew under its old id.
fn is_stale(revision: &EntryRevision, known: &Authorized) -> bool {
    let Some(entry) = EntryId::parse(&revision.id)
        .ok()
        .and_then(|id| known.entry(&id).cloned())
    else {
        return true;
    };
    let same_revision =
        u64::try_from(revision.revision_number).is_ok_and(|r| r == entry.revision());
    let same_creation =
        revision.created_at == 0 || revision.created_at == entry.created_at().as_second();
    !(same_revision && same_creation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorized::tests::{domain, entry};

    fn wire(id: &str, revision: i64) -> types::Entry {
        let entry = entry(id, &["unix:uid:1"], |_| ());
        types::Entry {
            revision_number: revision,
            created_at: 5,
            ..attesta_wire::entry::to_wire(&entry, &domain(), None)
        }
    }

    #[test]
    fn what_is_fetched_again() {
        let mut known = Authorized::default();
        Polled {
            put: vec![wire("a", 3)],
            keep: None,
        }
        .apply(&mut known, &domain());
        for (id, revision_number, created_at, stale) in [
            ("a", 3, 5, false),
            ("a", 3, 0, false),
            ("a", 4, 5, true),
            ("a", 2, 5, true),
            ("a", 3, 6, true),
            ("b", 3, 5, true),
            ("", 3, 5, true),
        ] {
            let revision = EntryRevision {
                id: id.to_owned(),
                revision_number,
                created_at,
            };
            assert_eq!(is_stale(&revision, &known), stale, "{revision:?}");
        }
    }

    #[test]
    fn a_poll_is_the_whole_truth() {
        let mut known = Authorized::default();
        let ids = |known: &Authorized| {
            known
                .entries()
                .map(|e| format!("{}{}", e.id(), e.revision()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        Polled {
            put: vec![wire("a", 1), wire("b", 1)],
            keep: None,
        }
        .apply(&mut known, &domain());
        assert!(known.is_synced());
        assert_eq!(ids(&known), "a1 b1");
        Polled {
            put: vec![wire("b", 2), wire("c", 1)],
            keep: None,
        }
        .apply(&mut known, &domain());
        assert_eq!(ids(&known), "b2 c1");
        let keep = [("b".to_owned(), ()), ("d".to_owned(), ())].into();
        Polled {
            put: vec![wire("d", 1)],
            keep: Some(keep),
        }
        .apply(&mut known, &domain());
        assert_eq!(ids(&known), "b2 d1");
        // One that came back damaged is not served in its old form.
        let bad = types::Entry {
            selectors: Vec::new(),
            ..wire("b", 3)
        };
        Polled {
            put: vec![bad],
            keep: None,
        }
        .apply(&mut known, &domain());
        assert_eq!(ids(&known), "");
    }
}
