//! Open streams of the Workload API: the first message at once, then one whenever what the caller may see differs.
//!
//! A stream is worked when its reader takes: a slow one gets the latest state and none between. Before each message,
//! and every 5 s, the caller is attested again.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use attesta_attest::Peer;
use attesta_model::{EntryId, Match};
use attesta_runtime::CancellationToken;
use attesta_wire::proto::workload::{X509svid, X509svidResponse};
use futures::{Stream, stream};
use jiff::Timestamp;
use tonic::{Code, Status};

use super::caller::{Reception, Svid, refused};
use crate::{
    authorized::{Authorized, Who},
    holdings::Bell,
    issue::Refusal,
    moments,
    peers::Slot,
    trust::Trust,
};

/// How often an open stream's caller is attested again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often in a row attestation may fail for a passing reason before the stream ends.
const MISSES: u32 = 3;
/// How long what the server refused is not asked for again, unless the entry changes.
const REFUSED: Duration = Duration::from_secs(60);

/// A stream of responses.
pub(crate) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a stream shows.
trait View: Send + 'static {
    type Response: Send + 'static;

    /// What the caller may see now, unless it was shown that already.
    fn look(
        &mut self,
        open: &Open,
        known: &Arc<Authorized>,
        who: &Arc<Who>,
    ) -> impl Future<Output = Result<Option<Self::Response>, Status>> + Send;
}

/// One open stream.
struct Open {
    reception: Arc<Reception>,
    peer: Peer,
    gone: CancellationToken,
    bell: Option<Bell>,
    /// The version of what is known that was looked at last.
    version: u64,
    misses: u32,
    _slot: Slot,
}

/// The caller's X.509-SVIDs.
///
/// # Errors
/// What the first look says.
pub(crate) async fn x509_svids(
    reception: Arc<Reception>,
    uid: u32,
    peer: Peer,
) -> Result<Responses<X509svidResponse>, Status> {
    let mut open = Open::new(reception, uid, peer).await?;
    open.bell = Some(open.reception.book.bell(&open.peer.instance()));
    open.start(Svids::default()).await
}

/// Something made of the bundle alone, for callers with an identity.
///
/// # Errors
/// What the first look says.
pub(crate) async fn bundles<T: Send + 'static>(
    reception: Arc<Reception>,
    uid: u32,
    peer: Peer,
    shown: fn(&Trust) -> &[u8],
    render: fn(&Trust) -> T,
) -> Result<Responses<T>, Status> {
    Open::new(reception, uid, peer)
        .await?
        .start(Bundles {
            shown,
            render,
            last: None,
        })
        .await
}

impl Open {
    async fn new(reception: Arc<Reception>, uid: u32, peer: Peer) -> Result<Self, Status> {
        let limit = reception.streams_per_uid;
        let slot = reception.streams.take(uid, limit);
        let slot = slot.ok_or_else(|| {
            Status::unavailable(format!("user {uid} has {limit} open streams already"))
        })?;
        let gone = reception.instances.watch(&peer).await;
        let version = reception.authorized.version();
        Ok(Self {
            reception,
            peer,
            gone,
            bell: None,
            version,
            misses: 0,
            _slot: slot,
        })
    }

    /// Looks once, then whenever the reader takes.
    async fn start<V: View>(mut self, mut view: V) -> Result<Responses<V::Response>, Status> {
        let first = self.look(&mut view).await?;
        let state = Some((self, view, first));
        Ok(Box::pin(stream::unfold(state, |state| async {
            let (mut open, mut view, ready) = state?;
            if let Some(response) = ready {
                return Some((Ok(response), Some((open, view, None))));
            }
            loop {
                if let Err(end) = open.wait().await {
                    return Some((Err(end), None));
                }
                match open.look(&mut view).await {
                    Ok(None) => open.misses = 0,
                    Ok(Some(response)) => {
                        open.misses = 0;
                        return Some((Ok(response), Some((open, view, None))));
                    }
                    Err(status) if status.code() == Code::Unavailable && open.misses < MISSES => {
                        open.misses += 1
                    }
                    Err(status) => return Some((Err(status), None)),
                }
            }
        })))
    }

    /// Waits until there may be something to look at; an error ends the stream.
    async fn wait(&mut self) -> Result<(), Status> {
        let bell = async {
            match &mut self.bell {
                Some(bell) => bell.rung().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.reception.stop.cancelled() => Err(Status::unavailable("the agent is stopping")),
            () = self.gone.cancelled() => Err(Status::permission_denied("the process that connected has ended")),
            () = bell => Ok(()),
            version = self.reception.authorized.changed(self.version) => {
                self.version = version;
                Ok(())
            }
            () = self.reception.clock.sleep(AGAIN) => Ok(()),
        }
    }

    async fn look<V: View>(&mut self, view: &mut V) -> Result<Option<V::Response>, Status> {
        let who = self.reception.attest(&self.peer).await?;
        let known = self.reception.authorized.load();
        view.look(self, &known, &who).await
    }
}

/// See [`x509_svids`].
#[derive(Default)]
struct Svids {
    shown: Option<Shown>,
    refused: HashMap<EntryId, (u64, Timestamp)>,
    who: Option<Arc<Who>>,
}

/// What a message was made of.
#[derive(PartialEq)]
struct Shown {
    svids: Vec<(EntryId, String, String)>,
    trust: Vec<u8>,
}

impl View for Svids {
    type Response = X509svidResponse;

    async fn look(
        &mut self,
        open: &Open,
        known: &Arc<Authorized>,
        who: &Arc<Who>,
    ) -> Result<Option<X509svidResponse>, Status> {
        let reception = &open.reception;
        if self
            .who
            .as_ref()
            .is_some_and(|before| before.digest != who.digest)
        {
            // It is not what it was; what it held as that is not its own any more.
            reception.book.drop_other_facts(who);
        }
        self.who = Some(Arc::clone(who));
        let matches = reception.identify(who, known).await?;
        let trust = reception.trust(known)?;
        let now = reception.clock.now();
        let skip = |m: &Match| {
            self.refused
                .get(m.entry.id())
                .is_some_and(|(revision, again)| *revision == m.entry.revision() && now < *again)
        };
        let (svids, refusals) = reception.svids(who, &open.peer, matches, skip).await;
        if svids.is_empty() {
            let refusals: Vec<Refusal> = refusals.into_iter().map(|(_, refusal)| refusal).collect();
            return Err(refused(&refusals, "could not fetch X509-SVID"));
        }
        for (found, refusal) in refusals {
            if !refusal.is_passing() {
                self.refused.insert(
                    found.entry.id().clone(),
                    (found.entry.revision(), moments::after(now, REFUSED)),
                );
            }
        }
        let one = |(found, held): &Svid| {
            (
                found.entry.id().clone(),
                held.serial.clone(),
                found.entry.hint().to_owned(),
            )
        };
        let shown = Shown {
            svids: svids.iter().map(one).collect(),
            trust: trust.x509().to_vec(),
        };
        if self.shown.as_ref() == Some(&shown) {
            return Ok(None);
        }
        self.shown = Some(shown);
        Ok(Some(render(&svids, &trust)))
    }
}

/// SPIFFE Workload API section 5.2.1 (C182, C183).
fn render(svids: &[Svid], trust: &Trust) -> X509svidResponse {
    let svid = |(found, held): &Svid| X509svid {
        spiffe_id: found.id.as_str().to_owned(),
        x509_svid: held.chain.clone(),
        x509_svid_key: held.key.to_vec(),
        bundle: trust.x509().to_vec(),
        hint: found.entry.hint().to_owned(),
    };
    X509svidResponse {
        svids: svids.iter().map(svid).collect(),
        ..X509svidResponse::default()
    }
}

/// See [`bundles`].
struct Bundles<T> {
    shown: fn(&Trust) -> &[u8],
    render: fn(&Trust) -> T,
    last: Option<Arc<Trust>>,
}

impl<T: Send + 'static> View for Bundles<T> {
    type Response = T;

    async fn look(
        &mut self,
        open: &Open,
        known: &Arc<Authorized>,
        who: &Arc<Who>,
    ) -> Result<Option<T>, Status> {
        open.reception.identify(who, known).await?;
        let trust = open.reception.trust(known)?;
        if self
            .last
            .as_ref()
            .is_some_and(|last| (self.shown)(last) == (self.shown)(&trust))
        {
            return Ok(None);
        }
        let response = (self.render)(&trust);
        self.last = Some(trust);
        Ok(Some(response))
    }
}
