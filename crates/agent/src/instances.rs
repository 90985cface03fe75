//! The instances that hold something: each is watched by its pidfd; when it is gone its streams end, what it held is
//! dropped, and its end is reported to the server.
//!
//! Must not know what was held beyond its ids.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use attesta_attest::Peer;
use attesta_model::Instance;
use attesta_runtime::{CancellationToken, Clock, Wake};
use attesta_wire::{
    fact::instance_to_wire,
    proto::attesta::agent::v1::{EndedRequest, Ending, agent_link_client::AgentLinkClient},
};
use futures::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::{holdings::Book, jwt::Tokens, link::Link, moments::Backoff};

/// Most instances that may begin to be watched at the same moment.
const QUEUE: usize = 1024;
/// Most endings in one call (the server's bound).
const BATCH: usize = 200;
/// How often a process is looked at that cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[expect(
    clippy::disallowed_types,
    reason = "a register, held for single map operations and never across an await"
)]
type Lock<T> = std::sync::Mutex<T>;

/// All instances that are watched.
pub(crate) struct Instances {
    known: Lock<HashMap<Instance, CancellationToken>>,
    begin: mpsc::Sender<(Instance, Peer)>,
    endings: Lock<VecDeque<Ended>>,
    most_endings: usize,
    report: Wake,
    book: Arc<Book>,
    tokens: Arc<Tokens>,
    clock: Clock,
}

/// One that is gone.
#[derive(Clone, Debug)]
struct Ended {
    instance: Instance,
    at: Timestamp,
    credentials: Vec<String>,
}

/// The instances that begin to be watched: the other end, for the task.
pub(crate) struct Begun(mpsc::Receiver<(Instance, Peer)>);

impl Instances {
    pub(crate) fn new(
        book: Arc<Book>,
        tokens: Arc<Tokens>,
        most_endings: usize,
        clock: Clock,
    ) -> (Arc<Self>, Begun) {
        let (begin, begun) = mpsc::channel(QUEUE);
        let instances = Self {
            known: Lock::default(),
            begin,
            endings: Lock::default(),
            most_endings,
            report: Wake::new(),
            book,
            tokens,
            clock,
        };
        (Arc::new(instances), Begun(begun))
    }

    /// Watches the process; the token is cancelled when it is gone.
    pub(crate) async fn watch(&self, peer: &Peer) -> CancellationToken {
        let instance = peer.instance();
        let token = {
            let mut known = self.known();
            if let Some(token) = known.get(&instance) {
                return token.clone();
            }
            let token = CancellationToken::new();
            known.insert(instance.clone(), token.clone());
            token
        };
        if self
            .begin
            .send((instance.clone(), peer.clone()))
            .await
            .is_err()
        {
            // Only when the agent stops.
            self.known().remove(&instance);
        }
        token
    }

    /// Whether it may still be given something.
    pub(crate) fn is_live(&self, instance: &Instance) -> bool {
        *instance == Instance::Node
            || self
                .known()
                .get(instance)
                .is_some_and(|token| !token.is_cancelled())
    }

    /// Something was issued to an instance that was gone before it came.
    pub(crate) fn came_too_late(&self, instance: &Instance, credential: String) {
        self.push(Ended {
            instance: instance.clone(),
            at: self.clock.now(),
            credentials: vec![credential],
        });
    }

    /// Waits for processes to end, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, mut begun: Begun, stop: CancellationToken) {
        let mut waiting = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some((instance, peer)) = begun.0.recv() => waiting.push(gone(instance, peer, self.clock.clone())),
                Some(instance) = waiting.next() => self.end(&instance),
            }
        }
    }

    fn end(&self, instance: &Instance) {
        if let Some(token) = self.known().remove(instance) {
            token.cancel();
        }
        let mut credentials = self.book.drop_instance(instance);
        credentials.extend(self.tokens.drop_instance(instance));
        tracing::debug!(instance = %instance.key(), credentials = credentials.len(), "an instance ended");
        if !credentials.is_empty() {
            self.push(Ended {
                instance: instance.clone(),
                at: self.clock.now(),
                credentials,
            });
        }
    }

    fn push(&self, ended: Ended) {
        let mut endings = self.endings();
        if endings.len() >= self.most_endings {
            endings.pop_front();
            tracing::warn!(
                limit = self.most_endings,
                "too many ended instances wait to be reported; the oldest was forgotten"
            );
        }
        endings.push_back(ended);
        drop(endings);
        self.report.wake();
    }

    /// Reports endings until `stop`. What cannot be delivered waits; a server that does not know of endings is told none.
    pub(crate) async fn report(self: Arc<Self>, link: Arc<Link>, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.report.woken() => {}
            }
            while !self.endings().is_empty() {
                let delivered = tokio::select! {
                    () = stop.cancelled() => return,
                    delivered = self.deliver(&link) => delivered,
                };
                if delivered {
                    backoff.reset();
                    continue;
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.clock.sleep(backoff.wait()) => {}
                }
            }
        }
    }

    async fn deliver(&self, link: &Link) -> bool {
        let session = link.session().await;
        let batch: Vec<Ended> = self.endings().iter().take(BATCH).cloned().collect();
        let endings = batch
            .iter()
            .map(|ended| Ending {
                instance: Some(instance_to_wire(&ended.instance)),
                at: ended.at.as_second(),
                credential_ids: ended.credentials.clone(),
            })
            .collect();
        if session.is_plain() {
            self.endings().clear();
            return true;
        }
        let mut client = AgentLinkClient::new(session.channel.clone());
        match link.call(client.ended(EndedRequest { endings })).await {
            Ok(_) => {}
            Err(status) if status.code() == tonic::Code::Unimplemented => {}
            Err(status) => {
                link.failed(&session, &status);
                return false;
            }
        }
        // Only this task takes from the front, but a full queue may have pushed some out meanwhile.
        let first = batch
            .first()
            .map(|ended| (ended.at, ended.instance.clone()));
        let mut queue = self.endings();
        if queue
            .front()
            .map(|ended| (ended.at, ended.instance.clone()))
            == first
        {
            let delivered = batch.len().min(queue.len());
            queue.drain(..delivered);
        }
        true
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Instance, CancellationToken>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endings(&self) -> MutexGuard<'_, VecDeque<Ended>> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn gone(instance: Instance, peer: Peer, clock: Clock) -> Instance {
    if let Err(e) = peer.gone().await {
        tracing::warn!(instance = %instance.key(), error = %e, "a process cannot be waited for; it is looked at instead");
        while peer.alive() {
            clock.sleep(LOOK_AGAIN).await;
        }
    }
    instance
}
