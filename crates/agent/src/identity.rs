//! The node's own identity: attested once, renewed at half its life, attested again when the server says so.
//!
//! Must not know what the identity is used for. Never ends the process: a server that is away is tried again with
//! growing waits, and what is held goes on being served meanwhile.

mod kept;

use std::{sync::Arc, time::Duration};

use attesta_attest::{AttestError, node::Collect};
use attesta_model::{KeyAlgorithm, Reason, attested::AGENT_PREFIX};
use attesta_runtime::{CancellationToken, Clock};
use attesta_spiffe::{SpiffeId, TrustDomain};
use attesta_tls::{CertificateDer, Identity as TlsIdentity, IdentityError};
use attesta_wire::{
    proto::spire::api::{
        server::{
            agent::v1::{
                AgentX509svidParams, AttestAgentRequest, RenewAgentRequest,
                agent_client::AgentClient,
                attest_agent_request::{Params, Step as Ask},
                attest_agent_response::Step as Answer,
            },
            bundle::v1::{GetBundleRequest, bundle_client::BundleClient},
        },
        types,
    },
    status::agent_reason,
};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

pub(crate) use kept::Kept;
pub use kept::KeptError;

use crate::{
    key::{KeyError, KeyPair},
    leaf::{Leaf, LeafError},
    link::{self, Link, Verdict},
    moments::{self, Backoff},
    standing::Standing,
    status::Board,
    trust::Trust,
};

/// Most challenges that one attestation may have.
const CHALLENGES: usize = 16;
/// The wait after the first failure; it grows by half.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The wait of a node that is banned: an admin may lift the ban.
const BANNED_WAIT: Duration = Duration::from_secs(60);

/// The agent's SVID with its key.
pub(crate) struct NodeIdentity {
    id: SpiffeId,
    serial: String,
    chain: Vec<Vec<u8>>,
    key: KeyPair,
    reattestable: bool,
    expires_at: Timestamp,
    due_at: Timestamp,
}

/// Why there is no new identity. For the log and the status; nobody else acts on it.
#[derive(Debug, thiserror::Error)]
enum IdentityTrouble {
    #[error("node attestation: {0}")]
    Collect(#[from] AttestError),
    #[error("{what}: {}", link::sentence(status))]
    Refused {
        what: &'static str,
        status: Box<Status>,
    },
    #[error("{0}")]
    Odd(&'static str),
    #[error(transparent)]
    Leaf(#[from] LeafError),
    #[error(transparent)]
    Tls(#[from] IdentityError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Kept(#[from] KeptError),
    #[error("a blocking call was cancelled")]
    Cancelled,
}

impl IdentityTrouble {
    fn refused(what: &'static str) -> impl Fn(Status) -> Self {
        move |status| Self::Refused {
            what,
            status: Box::new(status),
        }
    }

    fn reason(&self) -> Option<Reason> {
        let Self::Refused { status, .. } = self else {
            return None;
        };
        // SPIRE tells a banned node that attests so by the sentence alone.
        let said = status.code() == tonic::Code::PermissionDenied
            && status.message().contains("agent is banned");
        agent_reason(status).or(said.then_some(Reason::Banned))
    }
}

/// Keeps the identity: the task's state.
pub(crate) struct Identities {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) collect: Arc<dyn Collect>,
    pub(crate) kept: Kept,
    pub(crate) link: Arc<Link>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) board: Board,
    pub(crate) clock: Clock,
    pub(crate) verdicts: mpsc::Receiver<Verdict>,
    pub(crate) current: Option<NodeIdentity>,
    /// A key whose call got no answer; the next call is made with it.
    pub(crate) next: Option<KeyPair>,
    /// The server wants evidence, not a renewal.
    pub(crate) must_attest: bool,
}

/// An identity that was kept, if it is still good. Its life is counted from when it came.
pub(crate) fn revive(
    key: KeyPair,
    svid: kept::KeptSvid,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Option<NodeIdentity> {
    let leaf = Leaf::read(&svid.chain, key.spki()).ok()?;
    let issued_at = Timestamp::from_second(svid.issued_at).ok()?;
    let good = leaf.id.is_member_of(trust_domain) && now < leaf.not_after && issued_at <= now;
    good.then(|| NodeIdentity::new(leaf, svid.chain, key, svid.reattestable, issued_at))
}

impl NodeIdentity {
    fn new(
        leaf: Leaf,
        chain: Vec<Vec<u8>>,
        key: KeyPair,
        reattestable: bool,
        came_at: Timestamp,
    ) -> Self {
        let issued_at = leaf.issued_at(came_at);
        Self {
            due_at: moments::due_at(
                came_at,
                moments::between(issued_at, leaf.not_after),
                moments::dice(),
            ),
            id: leaf.id,
            serial: leaf.serial,
            expires_at: leaf.not_after,
            chain,
            key,
            reattestable,
        }
    }
}

impl Identities {
    /// Shows the current identity on the link, and in the status.
    pub(crate) fn present(&self) -> Result<(), IdentityError> {
        let Some(current) = &self.current else {
            self.link.withdraw();
            return Ok(());
        };
        let chain = current
            .chain
            .iter()
            .cloned()
            .map(CertificateDer::from)
            .collect();
        self.link.present(
            TlsIdentity::new(chain, current.key.pkcs8())?,
            &current.serial,
        );
        self.board.update(|status| {
            status.id = Some(current.id.clone());
            status.expires_at = Some(current.expires_at);
        });
        Ok(())
    }

    /// Attests and renews until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            if self.is_settled() {
                self.rest(&stop).await;
            }
            if stop.is_cancelled() {
                return;
            }
            if self.is_settled() {
                continue;
            }
            let renewed = tokio::select! {
                () = stop.cancelled() => return,
                renewed = self.renew_or_attest() => renewed,
            };
            let wait = match renewed {
                Ok(()) => {
                    backoff.reset();
                    continue;
                }
                Err(e) => self.after(&e, &mut backoff),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(wait) => {}
            }
        }
    }

    fn is_settled(&self) -> bool {
        !self.must_attest
            && self
                .current
                .as_ref()
                .is_some_and(|current| self.clock.now() < current.due_at)
    }

    /// Waits until the identity is due, or a refusal says that it is not good any more.
    async fn rest(&mut self, stop: &CancellationToken) {
        let due_at = self
            .current
            .as_ref()
            .map_or(Timestamp::MIN, |current| current.due_at);
        let verdict = tokio::select! {
            () = stop.cancelled() => return,
            () = self.clock.sleep_until(due_at) => return,
            verdict = self.verdicts.recv() => verdict,
        };
        let Some(verdict) = verdict else { return };
        if self
            .current
            .as_ref()
            .is_none_or(|current| *current.serial != *verdict.serial)
        {
            // About one that was replaced meanwhile.
            return;
        }
        self.must_attest = true;
        if verdict.banned {
            self.banned();
        }
    }

    fn banned(&mut self) {
        self.board.trouble(
            "this node is banned: its SVID was deleted; an admin of the server can lift the ban",
            true,
        );
        self.current = None;
        self.link.withdraw();
        self.board.update(|status| status.expires_at = None);
        if let Err(e) = self.kept.forget_svid() {
            self.board.trouble(&e.to_string(), true);
        }
    }

    async fn renew_or_attest(&mut self) -> Result<(), IdentityTrouble> {
        let now = self.clock.now();
        let renew = !self.must_attest
            && self
                .current
                .as_ref()
                .is_some_and(|c| !c.reattestable && now < c.expires_at);
        if self.next.is_none() {
            let key = KeyPair::generate(KeyAlgorithm::EcP256)?;
            // On disk before the first call, so that a crash after it asks again with the same key.
            let (kept, pkcs8) = (self.kept.clone(), key.pkcs8().clone());
            blocking(move || kept.save_next(&pkcs8)).await??;
            self.next = Some(key);
        }
        let csr = match &self.next {
            Some(key) => key.csr(None)?,
            None => return Err(IdentityTrouble::Odd("no key")),
        };
        let (svid, reattestable) = if renew {
            (self.renew(csr).await?, false)
        } else {
            self.attest(csr).await?
        };
        self.install(svid, reattestable).await
    }

    async fn renew(&self, csr: Vec<u8>) -> Result<types::X509svid, IdentityTrouble> {
        let Some(session) = self.link.current() else {
            return Err(IdentityTrouble::Odd("no connection to renew on"));
        };
        let request = RenewAgentRequest {
            params: Some(AgentX509svidParams { csr }),
        };
        let mut client = AgentClient::new(session.channel);
        let answer = self
            .link
            .call(client.renew_agent(request))
            .await
            .map_err(IdentityTrouble::refused("renewing the agent's SVID"))?;
        answer
            .into_inner()
            .svid
            .ok_or(IdentityTrouble::Odd("the server renewed without an SVID"))
    }

    async fn attest(&self, csr: Vec<u8>) -> Result<(types::X509svid, bool), IdentityTrouble> {
        let channel = self.link.anonymous();
        let conversation = self.converse(AgentClient::new(channel.clone()), csr);
        let result = match self.link.call(async { Ok(conversation.await) }).await {
            Ok(result) => result?,
            Err(late) => return Err(IdentityTrouble::refused("node attestation")(late)),
        };
        // On the same connection, as SPIRE's agents do: the bundle by which the next one is believed.
        let mut bundles = BundleClient::new(channel);
        match self
            .link
            .call(bundles.get_bundle(GetBundleRequest { output_mask: None }))
            .await
        {
            Ok(answer) => match Trust::from_wire(&answer.into_inner(), &self.trust_domain) {
                Ok(trust) => self.standing.change(|known| known.set_trust(trust)),
                Err(e) => self
                    .board
                    .trouble(&format!("the server's bundle: {e}"), true),
            },
            Err(status) => {
                tracing::warn!(error = %link::sentence(&status), "no bundle after attestation; going on with the one at hand")
            }
        }
        Ok(result)
    }

    async fn converse(
        &self,
        mut client: AgentClient<tonic::transport::Channel>,
        csr: Vec<u8>,
    ) -> Result<(types::X509svid, bool), IdentityTrouble> {
        let refused = IdentityTrouble::refused("node attestation");
        let collect = Arc::clone(&self.collect);
        let evidence = blocking(move || collect.evidence()).await??;
        let params = Params {
            data: Some(types::AttestationData {
                r#type: evidence.kind,
                payload: evidence.payload,
            }),
            params: Some(AgentX509svidParams { csr }),
        };
        let (ask, asked) = mpsc::channel(1);
        let gone = |_| IdentityTrouble::Odd("the server ended the attestation");
        ask.send(AttestAgentRequest {
            step: Some(Ask::Params(params)),
        })
        .await
        .map_err(gone)?;
        let mut answers = client
            .attest_agent(ReceiverStream::new(asked))
            .await
            .map_err(&refused)?
            .into_inner();
        for _ in 0..=CHALLENGES {
            let answer = answers.message().await.map_err(&refused)?;
            match answer.and_then(|a| a.step) {
                Some(Answer::Result(result)) => {
                    let svid = result
                        .svid
                        .ok_or(IdentityTrouble::Odd("the server attested without an SVID"))?;
                    return Ok((svid, result.reattestable));
                }
                Some(Answer::Challenge(challenge)) => {
                    let collect = Arc::clone(&self.collect);
                    let response = blocking(move || collect.answer(&challenge)).await??;
                    let step = Some(Ask::ChallengeResponse(response));
                    ask.send(AttestAgentRequest { step }).await.map_err(gone)?;
                }
                None => {
                    return Err(IdentityTrouble::Odd(
                        "the server ended the attestation without a result",
                    ));
                }
            }
        }
        Err(IdentityTrouble::Odd("the server asks for too many proofs"))
    }

    /// Takes what was issued for the next key.
    async fn install(
        &mut self,
        svid: types::X509svid,
        reattestable: bool,
    ) -> Result<(), IdentityTrouble> {
        let now = self.clock.now();
        let Some(key) = self.next.take() else {
            return Err(IdentityTrouble::Odd("no key"));
        };
        let leaf = match Leaf::read(&svid.cert_chain, key.spki()) {
            Ok(leaf) => leaf,
            Err(e) => {
                self.next = Some(key);
                return Err(e.into());
            }
        };
        if !leaf.id.is_member_of(&self.trust_domain) {
            self.next = Some(key);
            return Err(IdentityTrouble::Odd(
                "the server issued an id of another trust domain",
            ));
        }
        if !leaf.id.path().starts_with(AGENT_PREFIX) {
            tracing::warn!(id = %leaf.id, "the agent's id is not below {AGENT_PREFIX}");
        }
        let svid = kept::KeptSvid {
            chain: svid.cert_chain,
            reattestable,
            issued_at: now.as_second(),
        };
        let chain = svid.chain.clone();
        let kept = self.kept.clone();
        let saved = blocking(move || kept.save_svid(&svid)).await?;
        tracing::info!(id = %leaf.id, serial = leaf.serial, expires_at = %leaf.not_after, "this node has its identity");
        self.current = Some(NodeIdentity::new(leaf, chain, key, reattestable, now));
        self.must_attest = false;
        self.present()?;
        // It is good though it could not be kept; a restart will attest again.
        if let Err(e) = saved {
            self.board.trouble(&e.to_string(), true);
        }
        Ok(())
    }

    /// What follows from a failure, and how long to wait.
    fn after(&mut self, e: &IdentityTrouble, backoff: &mut Backoff) -> Duration {
        let unreachable = matches!(e, IdentityTrouble::Refused { status, .. } if matches!(status.code(), tonic::Code::Unavailable | tonic::Code::DeadlineExceeded));
        match e.reason() {
            Some(Reason::Banned) => {
                self.must_attest = true;
                self.banned();
                return moments::jittered(BANNED_WAIT, moments::dice());
            }
            Some(_) if !self.must_attest => {
                // Renewing is over; evidence may still be good, and is tried at once.
                self.must_attest = true;
                return Duration::ZERO;
            }
            _ => {}
        }
        // A lost connection says less than what its dialling said.
        if !unreachable || self.board.live().load().last_error.is_none() {
            self.board.trouble(&e.to_string(), !unreachable);
        }
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.expires_at <= self.clock.now())
        {
            self.current = None;
            self.link.withdraw();
        }
        backoff.wait()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IdentityTrouble> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| IdentityTrouble::Cancelled)
}
