//! `attesta.agent.v1.AgentLink`: what our own agents speak: credentials per instance, ends of instances, and the push of
//! entries and bundle.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use attesta_authority::{Credential, lifecycle::refresh_hint};
use attesta_model::{CorrelationId, Denial, EntryId, FieldError, Node, Revision, Snapshot};
use attesta_wire::{
    bundle, entry, fact, id,
    proto::{
        attesta::agent::v1::{self as api, agent_link_server::AgentLink},
        spire::api::types,
    },
    status,
};
use aws_lc_rs::digest::{SHA256, digest};
use futures::Stream;
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{refusal, subject_key, svid::audience, x509_to_wire};
use crate::{
    caller::Caller,
    core::Core,
    flow::{
        ended::{self, Ending},
        issue::{Ask, Shown, What, issue, unmatched},
    },
    guard,
    wakes::Registered,
};

/// Most asks of one call.
const BATCH: usize = 500;
/// Most ends of one call.
const ENDINGS: usize = 200;

pub(crate) struct Door(pub(crate) Arc<Core>);

type Pushed = Pin<Box<dyn Stream<Item = Result<api::WatchResponse, Status>> + Send>>;

fn correlation(w: &api::Wanted) -> Result<Option<CorrelationId>, Denial> {
    match w.correlation_id.as_str() {
        "" => Ok(None),
        text => CorrelationId::parse(text)
            .map(Some)
            .map_err(|why| FieldError::new("correlation_id", text, why).into()),
    }
}

/// No entry and nothing wanted: a workload that the agent found no entry for, to be written down.
fn is_unmatched(w: &api::Wanted) -> bool {
    w.entry_id.is_empty() && w.what.is_none()
}

fn ask(w: &api::Wanted) -> Result<Ask, Denial> {
    let entry =
        EntryId::parse(&w.entry_id).map_err(|why| FieldError::new("entry_id", &w.entry_id, why))?;
    let facts = fact::facts_from_wire(&w.facts)?;
    let instance = fact::instance_from_wire(w.instance.as_ref())?;
    let what = match &w.what {
        Some(api::wanted::What::Csr(csr)) => What::X509(subject_key(csr)?),
        Some(api::wanted::What::Jwt(jwt)) => What::Jwt(audience(jwt.audience.clone())?),
        None => {
            return Err(Denial::field(
                "what",
                "neither a CSR nor an audience was given",
            ));
        }
    };
    let correlation = correlation(w)?;
    Ok(Ask {
        entry,
        shown: Shown::Facts(facts, instance),
        what,
        correlation,
    })
}

#[tonic::async_trait]
impl AgentLink for Door {
    async fn issue(
        &self,
        request: Request<api::IssueRequest>,
    ) -> Result<Response<api::IssueResponse>, Status> {
        let Caller::Agent { node, serial, .. } = guard::agent(&request)? else {
            return Err(Status::internal("no agent"));
        };
        let wanted = request.into_inner().wanted;
        if wanted.len() > BATCH {
            return Err(Status::invalid_argument(format!(
                "wanted: {} asks in one call; at most {BATCH} are taken",
                wanted.len()
            )));
        }
        if let [one] = wanted.as_slice()
            && is_unmatched(one)
        {
            return self.unmatched(&node, &serial, one).await.map(Response::new);
        }
        let issued = issue(&self.0, &node, &serial, wanted.iter().map(ask).collect())
            .await
            .map_err(|d| refusal(&d))?;
        let snapshot = self.0.ledger.snapshot();
        let hint = |w: &api::Wanted| {
            EntryId::parse(&w.entry_id)
                .ok()
                .and_then(|id| snapshot.entry(&id).map(|e| e.hint().to_owned()))
                .unwrap_or_default()
        };
        let outcomes = issued
            .outcomes
            .into_iter()
            .zip(&wanted)
            .map(|(outcome, w)| match outcome {
                Ok(Credential::X509(svid)) => api::Outcome {
                    status: Some(status::ok()),
                    issued_at: svid.issued_at.as_second(),
                    credential: Some(api::outcome::Credential::X509(x509_to_wire(svid, hint(w)))),
                    ..Default::default()
                },
                Ok(Credential::Jwt(jwt)) => api::Outcome {
                    status: Some(status::ok()),
                    issued_at: jwt.issued_at.as_second(),
                    credential: Some(api::outcome::Credential::Jwt(types::Jwtsvid {
                        token: jwt.token,
                        id: Some(id::to_wire(&jwt.id)),
                        expires_at: jwt.expires_at.as_second(),
                        issued_at: jwt.issued_at.as_second(),
                        hint: hint(w),
                    })),
                    ..Default::default()
                },
                Err(denial) => api::Outcome {
                    decision_id: denial.decision.map(|d| d.to_string()).unwrap_or_default(),
                    status: Some(status::item(&denial)),
                    ..Default::default()
                },
            });
        Ok(Response::new(api::IssueResponse {
            outcomes: outcomes.collect(),
            missed: issued.missed.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn ended(
        &self,
        request: Request<api::EndedRequest>,
    ) -> Result<Response<api::EndedResponse>, Status> {
        let caller = guard::agent(&request)?;
        let Caller::Agent { node, .. } = &caller else {
            return Err(Status::internal("no agent"));
        };
        let endings = request.into_inner().endings;
        if endings.len() > ENDINGS {
            return Err(Status::invalid_argument(format!(
                "endings: {} in one call; at most {ENDINGS} are taken",
                endings.len()
            )));
        }
        let mut statuses = Vec::with_capacity(endings.len());
        for ending in endings {
            let done =
                match fact::instance_from_wire(ending.instance.as_ref()).map_err(Denial::from) {
                    Ok(instance) => {
                        ended::ended(
                            &self.0,
                            &caller,
                            node,
                            Ending {
                                instance,
                                credentials: ending.credential_ids,
                            },
                        )
                        .await
                    }
                    Err(denial) => Err(denial),
                };
            statuses.push(done.map_or_else(|d| status::item(&d), |()| status::ok()));
        }
        Ok(Response::new(api::EndedResponse { statuses }))
    }

    type WatchStream = Pushed;

    async fn watch(&self, request: Request<api::WatchRequest>) -> Result<Response<Pushed>, Status> {
        let Caller::Agent {
            node, expires_at, ..
        } = guard::agent(&request)?
        else {
            return Err(Status::internal("no agent"));
        };
        let snapshot = self.0.ledger.snapshot();
        let registered = self.0.wakes.register(
            node.id.clone(),
            node.selectors(),
            snapshot.parents_of(&node),
        );
        let watch = Watch {
            core: Arc::clone(&self.0),
            node,
            expires_at,
            registered,
            sent: None,
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(
            Some(watch),
            |watch| async move {
                let mut watch = watch?;
                match watch.next().await {
                    Ok(update) => Some((Ok(update), Some(watch))),
                    Err(status) => Some((Err(status), None)),
                }
            },
        ))))
    }
}

impl Door {
    /// A workload that no entry matches, as its agent sees it.
    async fn unmatched(
        &self,
        node: &Arc<Node>,
        serial: &str,
        w: &api::Wanted,
    ) -> Result<api::IssueResponse, Status> {
        let shown = || {
            Ok::<_, Denial>((
                fact::facts_from_wire(&w.facts)?,
                fact::instance_from_wire(w.instance.as_ref())?,
                correlation(w)?,
            ))
        };
        let (facts, instance, correlation) = shown().map_err(|d| refusal(&d))?;
        let found = unmatched(&self.0, node, serial, facts, instance, correlation)
            .await
            .map_err(|d| refusal(&d))?;
        let outcome = match &found.refused {
            None => api::Outcome {
                status: Some(status::ok()),
                ..Default::default()
            },
            Some(denial) => api::Outcome {
                decision_id: denial.decision.map(|d| d.to_string()).unwrap_or_default(),
                status: Some(status::item(denial)),
                ..Default::default()
            },
        };
        Ok(api::IssueResponse {
            outcomes: vec![outcome],
            missed: found.matching.iter().map(ToString::to_string).collect(),
        })
    }
}

/// One agent's push stream: what it was sent, and what has changed since.
struct Watch {
    core: Arc<Core>,
    node: Arc<Node>,
    expires_at: Timestamp,
    registered: Registered,
    sent: Option<Sent>,
}

#[derive(Default)]
struct Sent {
    entries: HashMap<EntryId, (u64, Timestamp)>,
    bundle: Revision,
}

impl Watch {
    /// The next message: everything at first, then what differs; nothing while nothing does.
    async fn next(&mut self) -> Result<api::WatchResponse, Status> {
        loop {
            let first = self.sent.is_none();
            if !first {
                let ended = async { self.core.clock.sleep_until(self.expires_at).await };
                tokio::select! {
                    () = self.registered.touched() => {}
                    () = self.core.stop.cancelled() => return Err(Status::unavailable("the server is stopping")),
                    () = ended => return Err(Status::permission_denied("the certificate of this stream has ended; renew and open another")),
                }
            }
            let snapshot = self.core.ledger.snapshot();
            let node = self.standing(&snapshot)?;
            let parents = snapshot.parents_of(&node);
            self.registered.shows(watched(&snapshot, &parents));
            let update = self.update(&snapshot, &parents);
            if first
                || update.bundle.is_some()
                || !update.put.is_empty()
                || !update.removed.is_empty()
            {
                return Ok(update);
            }
        }
    }

    /// A ban, an eviction or a re-attestation ends the stream.
    fn standing(&mut self, snapshot: &Snapshot) -> Result<Arc<Node>, Status> {
        let gone = |d: Denial| refusal(&d);
        let node = snapshot.node(&self.node.id).ok_or_else(|| {
            gone(Denial::new(
                attesta_model::Code::PermissionDenied,
                attesta_model::Reason::NotAttested,
                "the node was evicted",
            ))
        })?;
        if node.banned {
            return Err(gone(Denial::new(
                attesta_model::Code::PermissionDenied,
                attesta_model::Reason::Banned,
                "the node is banned",
            )));
        }
        if node.valid_from > self.node.valid_from {
            return Err(gone(Denial::new(
                attesta_model::Code::PermissionDenied,
                attesta_model::Reason::NotActive,
                "the node attested anew; this certificate was replaced",
            )));
        }
        Ok(Arc::clone(node))
    }

    fn update(
        &mut self,
        snapshot: &Snapshot,
        parents: &[attesta_model::Parent],
    ) -> api::WatchResponse {
        let full = self.sent.is_none();
        let sent = self.sent.get_or_insert_default();
        let mut out = api::WatchResponse {
            revision: snapshot.revision().0,
            full,
            ..Default::default()
        };
        let mut now = HashMap::with_capacity(sent.entries.len());
        let mut all = Vec::new();
        for e in snapshot.authorized(parents) {
            // Created anew under the same name is another entry, whatever its revision.
            let mark = (e.revision(), e.created_at());
            if sent.entries.get(e.id()) != Some(&mark) {
                out.put.push(entry::to_agent(e, snapshot.trust_domain()));
            }
            now.insert(e.id().clone(), mark);
            all.push(Arc::clone(e));
        }
        out.removed = sent
            .entries
            .keys()
            .filter(|id| !now.contains_key(*id))
            .map(ToString::to_string)
            .collect();
        out.digest = digest(&SHA256, &entry::canonical(all.iter()))
            .as_ref()
            .to_vec();
        sent.entries = now;
        if full || sent.bundle != snapshot.bundle_revision() {
            sent.bundle = snapshot.bundle_revision();
            out.bundle = Some(bundle::to_wire(
                snapshot,
                refresh_hint(&self.core.lifetimes),
                None,
            ));
        }
        out
    }
}

/// The parents whose changes this node must hear of: those it vouches for, and every id below them that may become one.
fn watched(snapshot: &Snapshot, parents: &[attesta_model::Parent]) -> Vec<attesta_model::Parent> {
    let mut out = parents.to_vec();
    for e in snapshot.authorized(parents) {
        if let Some(id) = e.spiffe_id().exact() {
            let parent = attesta_model::Parent::Id(id.clone());
            if !parents.contains(&parent) {
                out.push(parent);
            }
        }
    }
    out
}
