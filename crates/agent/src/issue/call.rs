//! One batch of orders as calls to the server, and the server's answers as credentials.
//!
//! Must not know who waits for them.

use std::sync::Arc;

use attesta_model::{KeyAlgorithm, Sharing};
use attesta_wire::{
    fact::{facts_to_wire, instance_to_wire},
    proto::{
        attesta::agent::v1::{
            IssueRequest, JwtWanted, Outcome, Wanted, agent_link_client::AgentLinkClient,
            outcome::Credential, wanted::What,
        },
        spire::api::{
            server::svid::v1::{
                BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
                svid_client::SvidClient,
            },
            types,
        },
    },
};
use futures::future::join_all;
use jiff::Timestamp;
use tonic::{Code, Status};

use super::{Answer, Done, Granted, Issuer, Order, Refusal, Want};
use crate::{
    authorized::Who,
    holdings::Held,
    jwt::Token,
    key::{KeyError, KeyPair},
    leaf::Leaf,
    link::{MAX_ANSWER, Session, sentence},
};

/// From so many keys on they are made on a blocking thread: each takes some 50 microseconds.
const MANY_KEYS: usize = 16;

/// An order with the key that was made for it.
struct Keyed {
    order: Order,
    key: Option<(KeyPair, Vec<u8>)>,
}

impl Issuer {
    /// Asks the server for a batch.
    pub(super) async fn fill(self: Arc<Self>, batch: Vec<Order>) -> Done {
        let keys: Vec<_> = batch.iter().map(Order::key).collect();
        let (answers, whole) = match self.ask(batch).await {
            Ok(answers) => (answers, true),
            Err(refusal) => (keys.iter().map(|_| Err(refusal.clone())).collect(), false),
        };
        Done {
            answers: keys.into_iter().zip(answers).collect(),
            whole,
        }
    }

    async fn ask(&self, batch: Vec<Order>) -> Result<Vec<Answer>, Refusal> {
        let Some(session) = self.link.current() else {
            return Err(Refusal::unavailable("this node has no identity yet"));
        };
        let numbered = self.keyed(batch).await?.into_iter().enumerate();
        let (shared, own): (Vec<_>, Vec<_>) =
            numbered.partition(|(_, keyed)| keyed.order.is_shared());
        let mut answers = Vec::with_capacity(shared.len() + own.len());
        if !own.is_empty() {
            let (places, own): (Vec<_>, Vec<_>) = own.into_iter().unzip();
            answers.extend(
                places
                    .into_iter()
                    .zip(self.ask_by_facts(&session, own).await?),
            );
        }
        if !shared.is_empty() {
            let (places, shared): (Vec<_>, Vec<_>) = shared.into_iter().unzip();
            answers.extend(
                places
                    .into_iter()
                    .zip(self.ask_by_entry(&session, shared).await?),
            );
        }
        answers.sort_by_key(|(place, _)| *place);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    async fn ask_by_facts(
        &self,
        session: &Session,
        batch: Vec<Keyed>,
    ) -> Result<Vec<Answer>, Refusal> {
        if session.is_plain() {
            return self.ask_by_entry(session, batch).await;
        }
        match self.issue(session, &batch).await {
            Ok(outcomes) => Ok(self.read(batch, outcomes)),
            Err(status) if status.code() == Code::Unimplemented => {
                session.found_plain();
                self.ask_by_entry(session, batch).await
            }
            Err(status) => Err(self.refused(session, &status)),
        }
    }

    fn refused(&self, session: &Session, status: &Status) -> Refusal {
        self.link.failed(session, status);
        // What the server says of this agent says nothing about the workload: for it, it passes.
        let code = if status.code() == Code::ResourceExhausted {
            status.code()
        } else {
            Code::Unavailable
        };
        Refusal {
            code,
            message: sentence(status),
            decision: None,
        }
    }

    /// Makes the keys.
    async fn keyed(&self, batch: Vec<Order>) -> Result<Vec<Keyed>, Refusal> {
        let algorithm = self.algorithm;
        let slow = algorithm == KeyAlgorithm::Rsa2048 || batch.len() >= MANY_KEYS;
        let make = move || {
            let keyed = |order: Order| {
                let key = match order.want {
                    Want::Jwt(_) => None,
                    Want::X509 => {
                        let key = KeyPair::generate(algorithm)?;
                        let csr = key.csr(Some(&order.id))?;
                        Some((key, csr))
                    }
                };
                Ok::<_, KeyError>(Keyed { order, key })
            };
            batch.into_iter().map(keyed).collect::<Result<Vec<_>, _>>()
        };
        let failed = |e: KeyError| Refusal::unavailable(e.to_string());
        if slow {
            let made = tokio::task::spawn_blocking(make).await;
            return made
                .map_err(|_| Refusal::unavailable("the agent is stopping"))?
                .map_err(failed);
        }
        make().map_err(failed)
    }

    async fn issue(&self, session: &Session, batch: &[Keyed]) -> Result<Vec<Outcome>, Status> {
        let wanted = batch
            .iter()
            .map(|Keyed { order, key }| {
                let who = &order.who;
                let what = match (&order.want, key) {
                    (Want::Jwt(audience), _) => Some(What::Jwt(JwtWanted {
                        audience: audience.clone(),
                    })),
                    (Want::X509, key) => key.as_ref().map(|(_, csr)| What::Csr(csr.clone())),
                };
                Wanted {
                    entry_id: order.entry.id().to_string(),
                    facts: facts_to_wire(&who.attested.facts),
                    instance: Some(instance_to_wire(&who.attested.instance)),
                    correlation_id: order.correlation.clone(),
                    what,
                }
            })
            .collect();
        let mut client =
            AgentLinkClient::new(session.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let answer = self
            .link
            .call(client.issue(IssueRequest { wanted }))
            .await?
            .into_inner();
        let known = self.authorized.load();
        if answer
            .missed
            .iter()
            .any(|id| attesta_model::EntryId::parse(id).is_ok_and(|id| known.entry(&id).is_none()))
        {
            self.sync.wake();
        }
        Ok(answer.outcomes)
    }

    /// SPIRE's way: by entry, and one token per call.
    async fn ask_by_entry(
        &self,
        session: &Session,
        batch: Vec<Keyed>,
    ) -> Result<Vec<Answer>, Refusal> {
        let params: Vec<_> = batch
            .iter()
            .filter_map(|Keyed { order, key }| {
                let (_, csr) = key.as_ref()?;
                Some(NewX509svidParams {
                    entry_id: order.entry.id().to_string(),
                    csr: csr.clone(),
                })
            })
            .collect();
        let mut x509 = Vec::new();
        if !params.is_empty() {
            let mut client =
                SvidClient::new(session.channel.clone()).max_decoding_message_size(MAX_ANSWER);
            let answer = self
                .link
                .call(client.batch_new_x509svid(BatchNewX509svidRequest { params }))
                .await;
            x509 = answer
                .map_err(|status| self.refused(session, &status))?
                .into_inner()
                .results;
        }
        let mut x509 = x509.into_iter();
        let outcomes = batch.iter().map(|Keyed { order, .. }| {
            let certified = if order.want == Want::X509 {
                x509.next()
            } else {
                None
            };
            async move {
                match (&order.want, certified) {
                    (Want::X509, None) => {
                        outcome_of(&Status::internal("the server left out an answer"))
                    }
                    (Want::X509, Some(result)) => Outcome {
                        status: result.status,
                        credential: result.svid.map(Credential::X509),
                        ..Outcome::default()
                    },
                    (Want::Jwt(audience), _) => {
                        let request = NewJwtsvidRequest {
                            entry_id: order.entry.id().to_string(),
                            audience: audience.clone(),
                        };
                        let mut client = SvidClient::new(session.channel.clone());
                        match self.link.call(client.new_jwtsvid(request)).await {
                            Ok(answer) => Outcome {
                                credential: answer.into_inner().svid.map(Credential::Jwt),
                                ..Outcome::default()
                            },
                            Err(status) => {
                                self.link.failed(session, &status);
                                outcome_of(&status)
                            }
                        }
                    }
                }
            }
        });
        let outcomes = join_all(outcomes).await;
        Ok(self.read(batch, outcomes))
    }

    fn read(&self, batch: Vec<Keyed>, outcomes: Vec<Outcome>) -> Vec<Answer> {
        let now = self.clock.now();
        let mut outcomes = outcomes.into_iter();
        batch
            .into_iter()
            .map(|keyed| match outcomes.next() {
                Some(outcome) => read_one(keyed, outcome, now),
                None => Err(Refusal::unavailable("the server left out an answer")),
            })
            .collect()
    }
}

/// A failed call as the outcome of its one item. What does not concern the item is passing for it.
fn outcome_of(status: &Status) -> Outcome {
    let code = match status.code() {
        Code::PermissionDenied if attesta_wire::status::agent_reason(status).is_some() => {
            Code::Unavailable
        }
        code => code,
    };
    Outcome {
        status: Some(types::Status {
            code: code as i32,
            message: sentence(status),
        }),
        ..Outcome::default()
    }
}

fn read_one(keyed: Keyed, outcome: Outcome, now: Timestamp) -> Answer {
    let Keyed { order, key } = keyed;
    let status = outcome.status.unwrap_or_default();
    let decision = (!outcome.decision_id.is_empty())
        .then(|| attesta_model::text::bounded(&outcome.decision_id, 64));
    if status.code != 0 {
        return Err(Refusal {
            code: Code::from_i32(status.code),
            message: status.message,
            decision,
        });
    }
    let odd = |what: &str| Refusal {
        code: Code::Unavailable,
        message: what.to_owned(),
        decision: decision.clone(),
    };
    let second = |s: i64| Timestamp::from_second(s).ok().filter(|_| s > 0);
    match (outcome.credential, key) {
        (Some(Credential::X509(svid)), Some((key, _))) => {
            let leaf = Leaf::read(&svid.cert_chain, key.spki())
                .and_then(|leaf| leaf.expect(&order.id))
                .map_err(|e| odd(&e.to_string()))?;
            let issued_at = leaf.issued_at(second(outcome.issued_at).unwrap_or(now));
            let held = Held::new(
                order.holder(),
                order.entry.revision(),
                &svid.cert_chain,
                key.into_pkcs8(),
                leaf,
                issued_at,
                now,
            );
            Ok(Granted::X509(Arc::new(held)))
        }
        (Some(Credential::Jwt(svid)), None) => {
            let issued_at = second(svid.issued_at)
                .or_else(|| second(outcome.issued_at))
                .unwrap_or(now);
            let expires_at = second(svid.expires_at).unwrap_or(now);
            Ok(Granted::Jwt(Arc::new(Token::new(
                svid.token,
                order.entry.revision(),
                issued_at,
                expires_at,
                now,
            ))))
        }
        _ => Err(odd(
            "the server sent no credential of the kind that was asked for",
        )),
    }
}

impl Order {
    /// For whom it is held: the node as a whole where the entry is shared.
    fn holder(&self) -> Arc<Who> {
        match self.entry.sharing() {
            Sharing::Instance => Arc::clone(&self.who),
            Sharing::Node => Arc::new(Who::node()),
        }
    }
}
