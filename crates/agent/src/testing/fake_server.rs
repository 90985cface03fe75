//! `FakeServer`: attests any agent that shows its evidence, pushes the entries it is told to, signs for what matches.
//! Strict: what no right agent asks is refused, and fails the test that looks at `faults`.

mod spire_api;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use attesta_model::{Denial, Entry, EntryId, KeyAlgorithm, Reason, SelectorSet};
use attesta_runtime::{Clock, Live, Tasks, Writer, live};
use attesta_tls::{ClientAuth, ServerStream, accept, server_config};
use attesta_wire::{
    fact::{facts_from_wire, instance_from_wire},
    proto::{
        attesta::agent::v1::{
            EndedRequest, EndedResponse, Ending, IssueRequest, IssueResponse, Outcome,
            WatchRequest, WatchResponse,
            agent_link_server::{AgentLink, AgentLinkServer},
            outcome::Credential,
            wanted::What,
        },
        spire::api::{
            server::{
                agent::v1::{
                    self as spire, AttestAgentRequest, AttestAgentResponse, RenewAgentRequest,
                    RenewAgentResponse,
                    agent_server::{Agent, AgentServer},
                    attest_agent_request::Step as Ask,
                    attest_agent_response::{Result as Attested, Step as Answer},
                },
                svid::v1::{
                    self as svid, BatchNewX509svidRequest, BatchNewX509svidResponse,
                    batch_new_x509svid_response,
                    svid_server::{Svid, SvidServer},
                },
            },
            types,
        },
    },
};
use futures::{Stream, StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status, Streaming, async_trait,
    transport::{Server, server::Connected},
};

use super::Ca;
use crate::{authorized::tests::domain, key::KeyPair};

/// What a test turns and looks at.
pub(crate) struct FakeServer {
    pub(crate) ca: Ca,
    jwt_key: Vec<u8>,
    entries: Writer<Vec<Arc<Entry>>>,
    pushed: Live<Vec<Arc<Entry>>>,
    /// Credentials issued so far.
    pub(crate) issued: AtomicUsize,
    /// Seconds for which SVIDs are issued.
    pub(crate) ttl: AtomicUsize,
    /// Not zero: `Issue` refuses everything.
    pub(crate) refuse: AtomicUsize,
    /// Not zero: only SPIRE's services are there.
    pub(crate) plain: AtomicUsize,
    /// Not zero: whoever comes is told that it is banned.
    pub(crate) banned: AtomicUsize,
    /// How often an agent was attested.
    pub(crate) attested: AtomicUsize,
    /// How often an agent was renewed.
    pub(crate) renewed: AtomicUsize,
    /// Seconds for which agents are issued their SVID.
    pub(crate) agent_ttl: AtomicUsize,
    /// What was reported as ended.
    pub(crate) ended: Writer<Vec<Ending>>,
    /// What no right agent asks.
    pub(crate) faults: Writer<Vec<String>>,
}

/// The two services share it.
#[derive(Clone)]
struct Shared(Arc<FakeServer>);

pub(crate) const EVIDENCE: &[u8] = b"i am the test";
const NODE: &str = "/spire/agent/test/1";

impl FakeServer {
    /// Serves on the connections that are sent to it, until the tasks stop.
    pub(crate) fn start(tasks: &Tasks, clock: &Clock) -> (Arc<Self>, mpsc::Sender<DuplexStream>) {
        let (entries, pushed) = live(Vec::new());
        let fake = Arc::new(Self {
            ca: Ca::new(),
            jwt_key: KeyPair::generate(KeyAlgorithm::EcP256)
                .unwrap()
                .spki()
                .to_vec(),
            entries,
            pushed,
            issued: AtomicUsize::new(0),
            ttl: AtomicUsize::new(3600),
            refuse: AtomicUsize::new(0),
            plain: AtomicUsize::new(0),
            banned: AtomicUsize::new(0),
            attested: AtomicUsize::new(0),
            renewed: AtomicUsize::new(0),
            agent_ttl: AtomicUsize::new(3600),
            ended: live(Vec::new()).0,
            faults: live(Vec::new()).0,
        });
        let (dial, connections) = mpsc::channel(4);
        let identity = live(fake.ca.identity("/spire/server")).1;
        let config = server_config(
            identity,
            live(fake.ca.bundle()).1,
            clock.clone(),
            ClientAuth::Optional,
        )
        .unwrap();
        let incoming = ReceiverStream::new(connections).filter_map(move |pipe| {
            let config = Arc::clone(&config);
            async move {
                accept(config, pipe, Duration::from_secs(5))
                    .await
                    .ok()
                    .map(|stream| Ok::<_, std::io::Error>(Secured(stream)))
            }
        });
        let shared = Shared(Arc::clone(&fake));
        let router = Server::builder()
            .add_service(AgentServer::new(shared.clone()))
            .add_service(SvidServer::new(shared.clone()))
            .add_service(attesta_wire::proto::spire::api::server::bundle::v1::bundle_server::BundleServer::new(shared.clone()))
            .add_service(spire_api::EntryServer::new(shared.clone()))
            .add_service(AgentLinkServer::new(shared));
        let stop = tasks.stopping();
        tasks.spawn("fake_server", async move {
            router
                .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
                .await
        });
        (fake, dial)
    }

    /// Replaces the entries, which are pushed at once.
    pub(crate) fn set_entries(&self, entries: Vec<Arc<Entry>>) {
        self.entries.publish(entries);
    }

    fn fault(&self, what: impl Into<String>) -> Status {
        let what = what.into();
        let mut all = Vec::clone(&self.faults.load());
        all.push(what.clone());
        self.faults.publish(all);
        Status::invalid_argument(what)
    }

    /// Our own services, unless only SPIRE's are there.
    fn ours(&self) -> Result<(), Status> {
        if self.plain.load(Ordering::SeqCst) != 0 {
            return Err(Status::unimplemented("unknown service"));
        }
        Ok(())
    }

    fn standing(&self) -> Result<(), Status> {
        if self.banned.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let denial = Denial::new(
            attesta_model::Code::PermissionDenied,
            Reason::Banned,
            "banned",
        );
        Err(attesta_wire::status::call(
            &denial,
            "authorization denied".to_owned(),
        ))
    }

    fn agent_svid(&self, csr: &[u8]) -> types::X509svid {
        self.svid(
            NODE,
            csr,
            i64::try_from(self.agent_ttl.load(Ordering::SeqCst)).unwrap(),
        )
    }

    fn bundle(&self) -> types::Bundle {
        types::Bundle {
            trust_domain: domain().as_str().to_owned(),
            x509_authorities: vec![types::X509Certificate {
                asn1: self.ca.der().to_vec(),
                tainted: false,
            }],
            jwt_authorities: vec![types::JwtKey {
                public_key: self.jwt_key.clone(),
                key_id: "k".to_owned(),
                ..types::JwtKey::default()
            }],
            sequence_number: 1,
            ..types::Bundle::default()
        }
    }

    fn svid(&self, path: &str, csr: &[u8], seconds: i64) -> types::X509svid {
        let cert_chain = self.ca.issue(path, csr, seconds);
        types::X509svid {
            cert_chain,
            ..types::X509svid::default()
        }
    }

    fn issue_x509(
        &self,
        entry: &Entry,
        id: &attesta_spiffe::SpiffeId,
        csr: &[u8],
    ) -> types::X509svid {
        tracing::debug!(entry = %entry.id(), "fake issue");
        self.issued.fetch_add(1, Ordering::SeqCst);
        self.svid(
            id.path(),
            csr,
            i64::try_from(self.ttl.load(Ordering::SeqCst)).unwrap(),
        )
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Agent for Shared {
    type AttestAgentStream = Responses<AttestAgentResponse>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        self.0.standing()?;
        let mut asked = request.into_inner();
        let Some(Ask::Params(params)) = asked.message().await?.and_then(|m| m.step) else {
            return Err(self.0.fault("no params first"));
        };
        if params
            .data
            .as_ref()
            .map(|d| (d.r#type.as_str(), d.payload.as_slice()))
            != Some(("test", EVIDENCE))
        {
            return Err(self.0.fault("other evidence"));
        }
        let csr = params.params.ok_or_else(|| self.0.fault("no CSR"))?.csr;
        let fake = Arc::clone(&self.0);
        // One challenge, so that the conversation is tried.
        let first = AttestAgentResponse {
            step: Some(Answer::Challenge(b"ping".to_vec())),
        };
        let rest = stream::once(async move {
            match asked.message().await?.and_then(|m| m.step) {
                Some(Ask::ChallengeResponse(answer)) if answer == b"pong" => {
                    fake.attested.fetch_add(1, Ordering::SeqCst);
                    let result = Attested {
                        svid: Some(fake.agent_svid(&csr)),
                        reattestable: false,
                    };
                    Ok(AttestAgentResponse {
                        step: Some(Answer::Result(result)),
                    })
                }
                _ => Err(fake.fault("wrong answer to the challenge")),
            }
        });
        Ok(Response::new(Box::pin(
            stream::iter([Ok(first)]).chain(rest),
        )))
    }

    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status> {
        self.0.standing()?;
        let csr = request
            .into_inner()
            .params
            .ok_or_else(|| self.0.fault("no CSR"))?
            .csr;
        self.0.renewed.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(RenewAgentResponse {
            svid: Some(self.0.agent_svid(&csr)),
        }))
    }

    async fn post_status(
        &self,
        _: Request<spire::PostStatusRequest>,
    ) -> Result<Response<spire::PostStatusResponse>, Status> {
        Ok(Response::new(spire::PostStatusResponse {}))
    }

    async fn count_agents(
        &self,
        _: Request<spire::CountAgentsRequest>,
    ) -> Result<Response<spire::CountAgentsResponse>, Status> {
        Err(self.0.fault("count_agents"))
    }

    async fn list_agents(
        &self,
        _: Request<spire::ListAgentsRequest>,
    ) -> Result<Response<spire::ListAgentsResponse>, Status> {
        Err(self.0.fault("list_agents"))
    }

    async fn get_agent(
        &self,
        _: Request<spire::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        Err(self.0.fault("get_agent"))
    }

    async fn delete_agent(
        &self,
        _: Request<spire::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        Err(self.0.fault("delete_agent"))
    }

    async fn ban_agent(&self, _: Request<spire::BanAgentRequest>) -> Result<Response<()>, Status> {
        Err(self.0.fault("ban_agent"))
    }

    async fn create_join_token(
        &self,
        _: Request<spire::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        Err(self.0.fault("create_join_token"))
    }
}

#[async_trait]
impl AgentLink for Shared {
    type WatchStream = Responses<WatchResponse>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.0.ours()?;
        let fake = Arc::clone(&self.0);
        Ok(Response::new(Box::pin(stream::unfold(
            (fake, None),
            |(fake, seen)| async move {
                let version = match seen {
                    None => fake.pushed.version(),
                    Some(seen) => fake.pushed.changed(seen).await,
                };
                if let Err(status) = fake.standing() {
                    return Some((Err(status), (fake, Some(version))));
                }
                let entries = fake.pushed.load();
                let response = WatchResponse {
                    revision: version + 1,
                    full: true,
                    put: entries
                        .iter()
                        .map(|e| attesta_wire::entry::to_agent(e, &domain()))
                        .collect(),
                    bundle: Some(fake.bundle()),
                    digest: aws_lc_rs::digest::digest(
                        &aws_lc_rs::digest::SHA256,
                        &attesta_wire::entry::canonical(entries.iter()),
                    )
                    .as_ref()
                    .to_vec(),
                    ..WatchResponse::default()
                };
                Some((Ok(response), (fake, Some(version))))
            },
        ))))
    }

    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        let fake = &self.0;
        fake.ours()?;
        fake.standing()?;
        let entries = fake.pushed.load();
        let mut outcomes = Vec::new();
        for wanted in request.into_inner().wanted {
            let facts = facts_from_wire(&wanted.facts).map_err(|e| fake.fault(e.to_string()))?;
            instance_from_wire(wanted.instance.as_ref()).map_err(|e| fake.fault(e.to_string()))?;
            if wanted.entry_id.is_empty() && wanted.what.is_none() {
                // A workload without an entry: it must have none here either.
                let selectors = facts.selectors();
                if entries.iter().any(|e| e.selectors().all_in(&selectors)) {
                    return Err(fake.fault("an entry does match"));
                }
                outcomes.push(Outcome {
                    status: Some(types::Status {
                        code: Code::PermissionDenied as i32,
                        message: "no entry".to_owned(),
                    }),
                    decision_id: "0badcafe".to_owned(),
                    ..Outcome::default()
                });
                continue;
            }
            let id = EntryId::parse(&wanted.entry_id).map_err(|e| fake.fault(e))?;
            let entry = entries
                .iter()
                .find(|e| *e.id() == id)
                .ok_or_else(|| fake.fault("an entry that is not there"))?;
            let selectors: SelectorSet = facts.selectors();
            if !entry.selectors().all_in(&selectors) {
                return Err(fake.fault("an entry that does not match"));
            }
            if fake.refuse.load(Ordering::SeqCst) != 0 {
                let status = types::Status {
                    code: Code::PermissionDenied as i32,
                    message: "policy".to_owned(),
                };
                outcomes.push(Outcome {
                    status: Some(status),
                    decision_id: "0badcafe".to_owned(),
                    ..Outcome::default()
                });
                continue;
            }
            let spiffe_id = entry
                .spiffe_id()
                .expand(&facts)
                .map_err(|e| fake.fault(e.to_string()))?;
            let credential = match &wanted.what {
                Some(What::Csr(csr)) => Credential::X509(fake.issue_x509(entry, &spiffe_id, csr)),
                Some(What::Jwt(jwt)) => Credential::Jwt(fake.token(&spiffe_id, &jwt.audience)),
                None => return Err(fake.fault("nothing wanted")),
            };
            outcomes.push(Outcome {
                status: Some(attesta_wire::status::ok()),
                credential: Some(credential),
                ..Outcome::default()
            });
        }
        Ok(Response::new(IssueResponse {
            outcomes,
            missed: Vec::new(),
        }))
    }

    async fn ended(
        &self,
        request: Request<EndedRequest>,
    ) -> Result<Response<EndedResponse>, Status> {
        self.0.ours()?;
        let endings = request.into_inner().endings;
        let statuses = endings.iter().map(|_| attesta_wire::status::ok()).collect();
        let mut all = Vec::clone(&self.0.ended.load());
        all.extend(endings);
        self.0.ended.publish(all);
        Ok(Response::new(EndedResponse { statuses }))
    }
}

impl FakeServer {
    fn token(&self, id: &attesta_spiffe::SpiffeId, audience: &[String]) -> types::Jwtsvid {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let n = self.issued.fetch_add(1, Ordering::SeqCst);
        let claims =
            serde_json::json!({ "sub": id.as_str(), "aud": audience, "jti": format!("t{n}") });
        let token = format!(
            "{}.{}.c2ln",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k"}"#),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let now = Clock::system().now().as_second();
        types::Jwtsvid {
            token,
            issued_at: now,
            expires_at: now + 300,
            ..types::Jwtsvid::default()
        }
    }
}

#[async_trait]
impl Svid for Shared {
    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let entries = self.0.pushed.load();
        let results = request.into_inner().params.into_iter().map(|p| {
            let entry = entries.iter().find(|e| e.id().to_string() == p.entry_id);
            let found = entry.and_then(|e| Some((e, e.spiffe_id().exact()?)));
            let (entry, id) = found.ok_or_else(|| self.0.fault("an entry that is not there"))?;
            let svid = Some(self.0.issue_x509(entry, id, &p.csr));
            Ok(batch_new_x509svid_response::Result {
                status: Some(attesta_wire::status::ok()),
                svid,
            })
        });
        Ok(Response::new(BatchNewX509svidResponse {
            results: results.collect::<Result<_, Status>>()?,
        }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<svid::NewJwtsvidRequest>,
    ) -> Result<Response<svid::NewJwtsvidResponse>, Status> {
        let asked = request.into_inner();
        let entries = self.0.pushed.load();
        let entry = entries
            .iter()
            .find(|e| e.id().to_string() == asked.entry_id);
        let id = entry.and_then(|e| e.spiffe_id().exact());
        let id = id.ok_or_else(|| self.0.fault("an entry that is not there"))?;
        let svid = Some(self.0.token(id, &asked.audience));
        Ok(Response::new(svid::NewJwtsvidResponse { svid }))
    }

    async fn mint_x509svid(
        &self,
        _: Request<svid::MintX509svidRequest>,
    ) -> Result<Response<svid::MintX509svidResponse>, Status> {
        Err(self.0.fault("mint_x509svid"))
    }

    async fn mint_jwtsvid(
        &self,
        _: Request<svid::MintJwtsvidRequest>,
    ) -> Result<Response<svid::MintJwtsvidResponse>, Status> {
        Err(self.0.fault("mint_jwtsvid"))
    }

    async fn mint_witsvid(
        &self,
        _: Request<svid::MintWitsvidRequest>,
    ) -> Result<Response<svid::MintWitsvidResponse>, Status> {
        Err(self.0.fault("mint_witsvid"))
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<svid::BatchNewWitsvidRequest>,
    ) -> Result<Response<svid::BatchNewWitsvidResponse>, Status> {
        Err(self.0.fault("batch_new_witsvid"))
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<svid::NewDownstreamX509caRequest>,
    ) -> Result<Response<svid::NewDownstreamX509caResponse>, Status> {
        Err(self.0.fault("new_downstream_x509ca"))
    }
}

/// A connection whose handshake is done.
struct Secured(ServerStream<DuplexStream>);

impl Connected for Secured {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
