//! `spire.api.server.agent.v1.Agent`: nodes attest, renew, are listed, banned and evicted; join tokens are made.

use std::{pin::Pin, sync::Arc, time::Duration};

use attesta_attest::node::{self, Step};
use attesta_authority::SubjectKey;
use attesta_model::{Action, Denial, Evidence, Node, SelectorSet};
use attesta_spiffe::SpiffeId;
use attesta_wire::{
    fact, id,
    proto::spire::api::{
        server::agent::v1::{
            self as api, agent_server::Agent, attest_agent_request, attest_agent_response,
        },
        types,
    },
};
use futures::Stream;
use jiff::Timestamp;
use tonic::{Request, Response, Status, Streaming};

use super::{foreign_page_token, malformed, refusal, stranger, subject_key, x509_to_wire};
use crate::{
    caller::Caller,
    core::{BEFORE_SEND, Core},
    flow::{attest, nodes, renew},
    guard,
};

/// Longest payload of any attestor, in bytes.
const PAYLOAD: usize = 64 * 1024;
/// Most challenges of one attestation.
const CHALLENGES: usize = 4;
/// How long one attestation may take, challenges included.
const DEADLINE: Duration = Duration::from_secs(30);
/// Largest page.
const PAGE: usize = 1000;

pub(crate) struct Door(pub(crate) Arc<Core>);

type Steps = Pin<Box<dyn Stream<Item = Result<api::AttestAgentResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Door {
    type AttestAgentStream = Steps;

    async fn attest_agent(
        &self,
        request: Request<Streaming<api::AttestAgentRequest>>,
    ) -> Result<Response<Steps>, Status> {
        let caller = guard::caller(&request)?;
        let conversation = Conversation {
            core: Arc::clone(&self.0),
            caller,
            incoming: request.into_inner(),
            key: None,
            next: Next::Params,
            challenges: 0,
        };
        // The stream is driven by the connection that reads it: no task of ours outlives the caller.
        let answers = futures::stream::unfold(Some(conversation), |state| async move {
            let mut conversation = state?;
            let clock = conversation.core.clock.clone();
            let answer = match clock.timeout(DEADLINE, conversation.turn()).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded(
                    "the attestation took longer than 30 s",
                )),
            };
            let more = matches!(
                &answer,
                Ok(api::AttestAgentResponse {
                    step: Some(attest_agent_response::Step::Challenge(_))
                })
            );
            Some((answer, more.then_some(conversation)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn renew_agent(
        &self,
        request: Request<api::RenewAgentRequest>,
    ) -> Result<Response<api::RenewAgentResponse>, Status> {
        let caller = guard::agent(&request)?;
        let Caller::Agent { node, .. } = &caller else {
            return Err(Status::internal("no agent"));
        };
        let params = request
            .into_inner()
            .params
            .ok_or_else(|| Status::invalid_argument("params cannot be nil"))?;
        let key = subject_key(&params.csr).map_err(|d| refusal(&d))?;
        let svid = renew::renew(&self.0, &caller, node, &key)
            .await
            .map_err(|d| refusal(&d))?;
        Ok(Response::new(api::RenewAgentResponse {
            svid: Some(x509_to_wire(svid, String::new())),
        }))
    }

    async fn post_status(
        &self,
        request: Request<api::PostStatusRequest>,
    ) -> Result<Response<api::PostStatusResponse>, Status> {
        let Caller::Agent { node, .. } = guard::agent(&request)? else {
            return Err(Status::internal("no agent"));
        };
        let version = request.into_inner().agent_version;
        if version.len() > 255 {
            return Err(Status::invalid_argument(
                "agent version is too long (max 255 characters)",
            ));
        }
        self.0
            .seen
            .version(&node.id, attesta_model::text::bounded(&version, 255));
        Ok(Response::new(api::PostStatusResponse {}))
    }

    async fn count_agents(
        &self,
        request: Request<api::CountAgentsRequest>,
    ) -> Result<Response<api::CountAgentsResponse>, Status> {
        let filter = request.into_inner().filter.map(|f| Filter {
            attestor: f.by_attestation_type,
            selectors: f.by_selector_match,
            banned: f.by_banned,
            can_reattest: f.by_can_reattest,
            expires_before: f.by_expires_before,
        });
        let filter = filter.unwrap_or_default().parse()?;
        let snapshot = self.0.ledger.snapshot();
        let count = snapshot
            .nodes_after(None)
            .filter(|n| filter.fits(n, self))
            .count();
        Ok(Response::new(api::CountAgentsResponse {
            count: i32::try_from(count).unwrap_or(i32::MAX),
        }))
    }

    async fn list_agents(
        &self,
        request: Request<api::ListAgentsRequest>,
    ) -> Result<Response<api::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let filter = request.filter.map(|f| Filter {
            attestor: f.by_attestation_type,
            selectors: f.by_selector_match,
            banned: f.by_banned,
            can_reattest: f.by_can_reattest,
            expires_before: f.by_expires_before,
        });
        let filter = filter.unwrap_or_default().parse()?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(SpiffeId::parse(token).map_err(|_| foreign_page_token(token))?),
        };
        let page = match usize::try_from(request.page_size) {
            Ok(0) => usize::MAX,
            Ok(n) => n.min(PAGE),
            Err(_) => return Err(malformed("page_size", request.page_size, "is negative")),
        };
        let snapshot = self.0.ledger.snapshot();
        let mut found = snapshot
            .nodes_after(after.as_ref())
            .filter(|n| filter.fits(n, self));
        let agents: Vec<_> = found.by_ref().take(page).collect();
        let next_page_token = if found.next().is_some() {
            agents.last().map(|n| n.id.to_string()).unwrap_or_default()
        } else {
            String::new()
        };
        let agents = agents
            .into_iter()
            .map(|n| self.render(n, request.output_mask.as_ref()))
            .collect();
        Ok(Response::new(api::ListAgentsResponse {
            agents,
            next_page_token,
        }))
    }

    async fn get_agent(
        &self,
        request: Request<api::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        let request = request.into_inner();
        let id = id::from_wire("id", request.id.as_ref())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let snapshot = self.0.ledger.snapshot();
        let node = snapshot
            .node(&id)
            .ok_or_else(|| Status::not_found("agent not found"))?;
        Ok(Response::new(
            self.render(node, request.output_mask.as_ref()),
        ))
    }

    async fn delete_agent(
        &self,
        request: Request<api::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = guard::caller(&request)?;
        let id = id::from_wire("id", request.into_inner().id.as_ref())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        nodes::evict(&self.0, &caller, id)
            .await
            .map_err(|d| refusal(&d))?;
        Ok(Response::new(()))
    }

    async fn ban_agent(
        &self,
        request: Request<api::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = guard::caller(&request)?;
        let id = id::from_wire("id", request.into_inner().id.as_ref())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        nodes::ban(&self.0, &caller, id)
            .await
            .map_err(|d| refusal(&d))?;
        Ok(Response::new(()))
    }

    async fn create_join_token(
        &self,
        request: Request<api::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let caller = guard::caller(&request)?;
        let request = request.into_inner();
        let ttl =
            u64::try_from(request.ttl).map_err(|_| malformed("ttl", request.ttl, "is negative"))?;
        let alias = match request.agent_id {
            None => None,
            some => Some(
                id::from_wire("agent_id", some.as_ref())
                    .map_err(|e| Status::invalid_argument(e.to_string()))?,
            ),
        };
        let value = (!request.token.is_empty()).then_some(request.token);
        let token = nodes::create_token(&self.0, &caller, Duration::from_secs(ttl), value, alias)
            .await
            .map_err(|d| refusal(&d))?;
        Ok(Response::new(types::JoinToken {
            value: token.value,
            expires_at: token.expires_at.as_second(),
        }))
    }
}

/// One attestation: parameters, challenges and their responses, the result.
struct Conversation {
    core: Arc<Core>,
    caller: Caller,
    incoming: Streaming<api::AttestAgentRequest>,
    key: Option<SubjectKey>,
    next: Next,
    challenges: usize,
}

/// What is awaited from the agent.
enum Next {
    Params,
    Response {
        attestor: &'static str,
        next: Box<dyn node::Next>,
    },
    Nothing,
}

impl Conversation {
    /// Reads one message and answers it.
    async fn turn(&mut self) -> Result<api::AttestAgentResponse, Status> {
        let message = self.incoming.message().await?.and_then(|m| m.step);
        let now = self.core.clock.now();
        match (std::mem::replace(&mut self.next, Next::Nothing), message) {
            (Next::Params, Some(attest_agent_request::Step::Params(params))) => {
                let data = params.data.ok_or_else(|| {
                    Status::invalid_argument("malformed param: missing attestation data")
                })?;
                let csr = params.params.map(|p| p.csr).unwrap_or_default();
                if data.payload.len() > PAYLOAD {
                    return Err(Status::invalid_argument(format!(
                        "malformed param: payload is longer than {PAYLOAD} bytes"
                    )));
                }
                self.key = Some(subject_key(&csr).map_err(|d| stranger(&d))?);
                let Some(attestor) = self.core.attestors.names().find(|n| *n == data.r#type) else {
                    let named = attesta_model::text::bounded(&data.r#type, 64);
                    return Err(Status::failed_precondition(format!(
                        "could not find node attestor type {named:?}"
                    )));
                };
                let evidence = Evidence {
                    kind: data.r#type,
                    payload: data.payload,
                };
                let step = self
                    .core
                    .attestors
                    .begin(&evidence, now)
                    .map(|(_, step)| step)
                    .map_err(Denial::from);
                self.step(attestor, step).await
            }
            (
                Next::Response { attestor, next },
                Some(attest_agent_request::Step::ChallengeResponse(response)),
            ) => {
                if response.len() > PAYLOAD {
                    return Err(Status::invalid_argument(format!(
                        "malformed param: challenge response is longer than {PAYLOAD} bytes"
                    )));
                }
                let step = next.answer(&response, now).map_err(Denial::from);
                self.step(attestor, step).await
            }
            (_, None) => Err(Status::invalid_argument(
                "the attestation ended before its evidence was complete",
            )),
            _ => Err(Status::invalid_argument(
                "malformed param: a message out of turn",
            )),
        }
    }

    async fn step(
        &mut self,
        attestor: &'static str,
        step: Result<Step, Denial>,
    ) -> Result<api::AttestAgentResponse, Status> {
        match step {
            Ok(Step::Challenge { challenge, next }) => {
                self.challenges += 1;
                if self.challenges > CHALLENGES {
                    return Err(Status::failed_precondition(
                        "the attestor asked for too many challenges",
                    ));
                }
                self.next = Next::Response { attestor, next };
                Ok(api::AttestAgentResponse {
                    step: Some(attest_agent_response::Step::Challenge(challenge)),
                })
            }
            Ok(Step::Done(proven)) => {
                let key = self.key.take().ok_or_else(|| Status::internal("no key"))?;
                let admitting =
                    attest::admit(&self.core, attestor, proven, key, self.caller.actor());
                let admitted = admitting.await.map_err(|d| stranger(&d))?;
                self.core.failpoints.hit(BEFORE_SEND);
                tracing::info!(node = %admitted.id, attestor, "node attested");
                let result = attest_agent_response::Result {
                    svid: Some(x509_to_wire(admitted.svid, String::new())),
                    reattestable: admitted.can_reattest,
                };
                Ok(api::AttestAgentResponse {
                    step: Some(attest_agent_response::Step::Result(result)),
                })
            }
            Err(denial) => {
                let denial = self.refused(attestor, denial).await;
                Err(stranger(&denial))
            }
        }
    }

    /// Evidence that proves nothing: a stranger's refusal, folded by where it came from.
    async fn refused(&mut self, attestor: &'static str, denial: Denial) -> Denial {
        let denial = denial.with_rule(attestor);
        let Ok(request) = self.core.request(self.caller.actor(), Action::AttestNode) else {
            return denial;
        };
        let source = request.actor.to_string();
        let folded = self.core.refusals.fold(&request, &source, denial);
        self.core.note(folded.record.into_iter().collect()).await;
        folded.denial
    }
}

/// What agents are listed by, as it came.
#[derive(Default)]
struct Filter {
    attestor: String,
    selectors: Option<types::SelectorMatch>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: String,
}

/// What agents are listed by.
struct Parsed {
    attestor: String,
    selectors: Option<(super::entry::Matching, SelectorSet)>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: Option<Timestamp>,
}

impl Filter {
    fn parse(self) -> Result<Parsed, Status> {
        let selectors = match self.selectors {
            None => None,
            Some(m) => Some(super::entry::matching(&m).map_err(|d| refusal(&d))?),
        };
        // SPIRE's CLI writes Go's default time: `2006-01-02 15:04:05 -0700 -07`; RFC 3339 is understood as well.
        let expires_before = match self.expires_before.as_str() {
            "" => None,
            text => Some(parse_time(text).ok_or_else(|| {
                let why = "is no time; write it as 2026-01-02 15:04:05 -0700 or RFC 3339";
                malformed("by_expires_before", text, why)
            })?),
        };
        Ok(Parsed {
            attestor: self.attestor,
            selectors,
            banned: self.banned,
            can_reattest: self.can_reattest,
            expires_before,
        })
    }
}

fn parse_time(text: &str) -> Option<Timestamp> {
    let go = text
        .get(..25)
        .and_then(|t| jiff::fmt::strtime::parse("%Y-%m-%d %H:%M:%S %z", t).ok())
        .and_then(|t| t.to_timestamp().ok());
    go.or_else(|| text.parse().ok())
}

impl Parsed {
    fn fits(&self, node: &Node, door: &Door) -> bool {
        (self.attestor.is_empty() || self.attestor == node.attestor)
            && self.banned.is_none_or(|b| b == node.banned)
            && self.can_reattest.is_none_or(|r| r == node.can_reattest)
            && self.expires_before.is_none_or(|t| {
                door.0
                    .seen
                    .of(&node.id)
                    .expires_at
                    .unwrap_or(node.expires_at)
                    < t
            })
            && self
                .selectors
                .as_ref()
                .is_none_or(|(how, want)| how.fits(want, &node.selectors()))
    }
}

impl Door {
    fn render(&self, node: &Node, mask: Option<&types::AgentMask>) -> types::Agent {
        let want = |pick: fn(&types::AgentMask) -> bool| mask.is_none_or(pick);
        let seen = self.0.seen.of(&node.id);
        let mut out = types::Agent {
            id: Some(id::to_wire(&node.id)),
            ..Default::default()
        };
        if want(|m| m.attestation_type) {
            out.attestation_type.clone_from(&node.attestor);
        }
        if want(|m| m.x509svid_serial_number) && !node.banned {
            let serial = seen
                .serial
                .as_ref()
                .map_or(node.serial.as_str(), |s| s.as_str());
            // SPIRE shows serials in decimal.
            out.x509svid_serial_number = u128::from_str_radix(serial, 16)
                .map(|n| n.to_string())
                .unwrap_or_default();
        }
        if want(|m| m.x509svid_expires_at) {
            out.x509svid_expires_at = seen.expires_at.unwrap_or(node.expires_at).as_second();
        }
        if want(|m| m.selectors) {
            out.selectors = node
                .selectors()
                .iter()
                .map(fact::selector_to_wire)
                .collect();
        }
        if want(|m| m.banned) {
            out.banned = node.banned;
        }
        if want(|m| m.can_reattest) {
            out.can_reattest = node.can_reattest;
        }
        if want(|m| m.agent_version) {
            out.agent_version = seen.version;
        }
        out
    }
}
