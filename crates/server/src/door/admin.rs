//! `attesta.admin.v1.Admin`: entries with what SPIRE's lack, the log, and explanations. For administrators only: what
//! entries exist is not for every local user.

use std::{pin::Pin, sync::Arc};

use attesta_model::{Denial, EntryId, FieldError, Instance, Near, Parent, text};
use attesta_spiffe::SpiffeId;
use attesta_store::{Cursor, Order, Position, RecordQuery, StoredRecord, WriterName};
use attesta_wire::{
    entry, fact,
    proto::attesta::{
        admin::v1::{self as api, admin_server::Admin},
        types::v1 as shared,
    },
    status,
};
use futures::Stream;
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{foreign_page_token, malformed, refusal};
use crate::{
    core::Core,
    flow::{
        entries::{self, Answer, Reach},
        issue,
    },
    guard,
};

/// Largest page.
const PAGE: usize = 1000;
/// Most candidates of an explanation.
const CANDIDATES: usize = 5;

pub(crate) struct Door(pub(crate) Arc<Core>);

type Tail = Pin<Box<dyn Stream<Item = Result<api::TailRecordsResponse, Status>> + Send>>;

impl Door {
    fn answer(&self, answer: Answer) -> api::EntryResult {
        match answer {
            Ok(e) => api::EntryResult {
                status: Some(status::ok()),
                entry: Some(entry::to_admin(&e, &self.0.trust_domain)),
            },
            Err(refused) => api::EntryResult {
                status: Some(status::item(&refused.denial)),
                entry: refused
                    .existing
                    .map(|e| entry::to_admin(&e, &self.0.trust_domain)),
            },
        }
    }
}

#[tonic::async_trait]
impl Admin for Door {
    async fn create_entries(
        &self,
        request: Request<api::CreateEntriesRequest>,
    ) -> Result<Response<api::CreateEntriesResponse>, Status> {
        let caller = guard::caller(&request)?;
        let specs = request
            .into_inner()
            .entries
            .iter()
            .map(|e| entry::from_admin(e).map_err(Denial::from))
            .collect();
        let answers = entries::create(&self.0, &caller, specs)
            .await
            .map_err(|d| refusal(&d))?;
        Ok(Response::new(api::CreateEntriesResponse {
            results: answers.into_iter().map(|a| self.answer(a)).collect(),
        }))
    }

    async fn update_entries(
        &self,
        request: Request<api::UpdateEntriesRequest>,
    ) -> Result<Response<api::UpdateEntriesResponse>, Status> {
        let caller = guard::caller(&request)?;
        let updates = request
            .into_inner()
            .entries
            .iter()
            .map(|e| {
                let spec = entry::from_admin(e)?;
                let id = spec
                    .id
                    .clone()
                    .ok_or_else(|| FieldError::new("id", "", "is missing"))?;
                let update: entries::Update = Box::new(move |_| spec.clone());
                Ok((id, update))
            })
            .map(|u: Result<_, FieldError>| u.map_err(Denial::from))
            .collect();
        let answers = entries::update(&self.0, &caller, updates, Reach::All)
            .await
            .map_err(|d| refusal(&d))?;
        Ok(Response::new(api::UpdateEntriesResponse {
            results: answers.into_iter().map(|a| self.answer(a)).collect(),
        }))
    }

    async fn delete_entries(
        &self,
        request: Request<api::DeleteEntriesRequest>,
    ) -> Result<Response<api::DeleteEntriesResponse>, Status> {
        let caller = guard::caller(&request)?;
        let ids = request.into_inner().ids;
        let parsed = ids.iter().map(|id| super::entry::parse_id(id)).collect();
        let answers = entries::delete(&self.0, &caller, parsed, Reach::All)
            .await
            .map_err(|d| refusal(&d))?;
        let results = answers
            .into_iter()
            .zip(ids)
            .map(|(a, id)| api::DeleteResult {
                status: Some(a.map_or_else(|r| status::item(&r.denial), |_| status::ok())),
                id,
            });
        Ok(Response::new(api::DeleteEntriesResponse {
            results: results.collect(),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<api::ListEntriesRequest>,
    ) -> Result<Response<api::ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let bad = |field, value: &str, why: &dyn std::fmt::Display| {
            Status::invalid_argument(FieldError::new(field, value, why).to_string())
        };
        let id = |field, text: &str| {
            if text.is_empty() {
                Ok(None)
            } else {
                SpiffeId::parse(text)
                    .map(Some)
                    .map_err(|e| bad(field, text, &e))
            }
        };
        let parent = id("parent_id", &request.parent_id)?.map(|i| Parent::from_id(&i));
        let ids = request
            .ids
            .iter()
            .map(|i| EntryId::parse(i).map_err(|why| bad("ids", i, &why)))
            .collect::<Result<Vec<_>, _>>()?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(EntryId::parse(token).map_err(|why| bad("page_token", token, &why))?),
        };
        let page = match usize::try_from(request.page_size) {
            Ok(0) => PAGE,
            Ok(n) => n.min(PAGE),
            Err(_) => return Err(malformed("page_size", request.page_size, "is negative")),
        };
        let snapshot = self.0.ledger.snapshot();
        let mut found = snapshot.entries_after(after.as_ref()).filter(|e| {
            (ids.is_empty() || ids.contains(e.id()))
                && (request.spiffe_id.is_empty() || e.spiffe_id().as_str() == request.spiffe_id)
                && parent.as_ref().is_none_or(|p| p == e.parent())
        });
        let taken: Vec<_> = found.by_ref().take(page).collect();
        let next_page_token = if found.next().is_some() {
            taken.last().map(|e| e.id().to_string()).unwrap_or_default()
        } else {
            String::new()
        };
        let entries = taken
            .into_iter()
            .map(|e| entry::to_admin(e, &self.0.trust_domain))
            .collect();
        Ok(Response::new(api::ListEntriesResponse {
            entries,
            next_page_token,
        }))
    }

    async fn list_records(
        &self,
        request: Request<api::ListRecordsRequest>,
    ) -> Result<Response<api::ListRecordsResponse>, Status> {
        let request = request.into_inner();
        let time = |field, ms: i64| match ms {
            0 => Ok(None),
            ms => Timestamp::from_millisecond(ms).map(Some).map_err(|e| {
                Status::invalid_argument(FieldError::new(field, ms.to_string(), e).to_string())
            }),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(Cursor::parse(token).ok_or_else(|| foreign_page_token(token))?),
        };
        let query = RecordQuery {
            from: time("since_ms", request.since_ms)?,
            until: time("until_ms", request.until_ms)?,
            order: if request.newest_first {
                Order::Newest
            } else {
                Order::Oldest
            },
            after,
            limit: usize::try_from(request.page_size)
                .map_err(|_| malformed("page_size", request.page_size, "is negative"))?,
            ..narrowed(
                request.subject,
                request.instance,
                request.credential_id,
                request.correlation_id,
                request.kind,
            )
        };
        let page = self.0.ledger.query(query).await.map_err(|d| refusal(&d))?;
        Ok(Response::new(api::ListRecordsResponse {
            next_page_token: page.next.map(|c| c.to_string()).unwrap_or_default(),
            records: page.records.into_iter().map(record).collect(),
        }))
    }

    type TailRecordsStream = Tail;

    async fn tail_records(
        &self,
        request: Request<api::TailRecordsRequest>,
    ) -> Result<Response<Tail>, Status> {
        let request = request.into_inner();
        let mut after = Vec::new();
        for c in &request.after {
            let writer = WriterName::parse(&c.writer).map_err(|why| {
                Status::invalid_argument(
                    FieldError::new("after.writer", &c.writer, why).to_string(),
                )
            })?;
            after.push(Position::new(writer, c.seq));
        }
        let live = self.0.ledger.tail();
        if after.is_empty() {
            // From now on.
            after.extend(live.load().as_ref().clone());
        }
        let query = narrowed(
            request.subject,
            request.instance,
            request.credential_id,
            request.correlation_id,
            request.kind,
        );
        let tail = Tailing {
            core: Arc::clone(&self.0),
            query,
            after: after.into_iter().next(),
            seen: 0,
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(
            Some(tail),
            |tail| async move {
                let mut tail = tail?;
                match tail.next().await {
                    Ok(records) => Some((Ok(api::TailRecordsResponse { records }), Some(tail))),
                    Err(status) => Some((Err(status), None)),
                }
            },
        ))))
    }

    async fn explain(
        &self,
        request: Request<api::ExplainRequest>,
    ) -> Result<Response<api::ExplainResponse>, Status> {
        let what = request.into_inner().what.ok_or_else(|| {
            Status::invalid_argument("what: give a SPIFFE ID or what was observed")
        })?;
        let snapshot = self.0.ledger.snapshot();
        match what {
            api::explain_request::What::SpiffeId(id) => {
                Ok(Response::new(self.explain_id(&snapshot, &id)))
            }
            api::explain_request::What::Observed(observed) => {
                let facts = fact::facts_from_wire(&observed.facts)
                    .map_err(|e| Status::invalid_argument(e.to_string()))?;
                let id = SpiffeId::parse(&observed.node).map_err(|e| {
                    Status::invalid_argument(FieldError::new("node", &observed.node, e).to_string())
                })?;
                let node = snapshot.node(&id).ok_or_else(|| {
                    Status::not_found(format!("agent {id} is not attested, or was evicted"))
                })?;
                let selectors = facts.selectors();
                let near = issue::nearest(&snapshot, node, &selectors, CANDIDATES);
                let attested = attesta_model::Attested::new(
                    Parent::Id(node.id.clone()),
                    facts,
                    Instance::Node,
                    None,
                );
                let matched =
                    snapshot.identify(&snapshot.parents_of(node), &attested, self.0.clock.now());
                let denied = |near: &Near| {
                    matched.iter().find_map(|m| {
                        m.as_ref()
                            .err()
                            .filter(|(e, _)| e.id() == near.entry.id())
                            .map(|(_, d)| d.to_string())
                    })
                };
                let candidates: Vec<_> = near
                    .iter()
                    .map(|n| candidate(n, denied(n).unwrap_or_default(), &self.0))
                    .collect();
                let summary = match (
                    candidates.iter().filter(|c| c.matches).count(),
                    candidates.first(),
                ) {
                    (0, None) => format!(
                        "no entry has {id} as its parent; create one with: attesta entry create --parent-id {id} …"
                    ),
                    (0, Some(c)) if c.denial.is_empty() => format!(
                        "no entry matches; the nearest, {}, lacks {}",
                        c.entry_id,
                        c.missing_selectors.join(", ")
                    ),
                    (0, Some(c)) => c.denial.clone(),
                    (n, _) => format!("{n} of the nearest entries match"),
                };
                Ok(Response::new(api::ExplainResponse {
                    candidates,
                    summary,
                }))
            }
        }
    }

    async fn get_status(
        &self,
        _: Request<api::GetStatusRequest>,
    ) -> Result<Response<api::GetStatusResponse>, Status> {
        let snapshot = self.0.ledger.snapshot();
        let time = self.0.check_time().err().map(|d| d.to_string());
        let ledger = self.0.ledger.healthy().map(|t| t.message);
        let trouble = [time, ledger]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("; ");
        Ok(Response::new(api::GetStatusResponse {
            trust_domain: self.0.trust_domain.as_str().to_owned(),
            revision: snapshot.revision().0,
            entries: u64::try_from(snapshot.entry_count()).unwrap_or(u64::MAX),
            nodes: u64::try_from(snapshot.node_count()).unwrap_or(u64::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: snapshot
                .nodes_after(None)
                .find(|n| n.attestor == "local")
                .map(|n| n.id.to_string())
                .unwrap_or_default(),
            server: self.0.listening.load().as_ref().clone(),
            ready: trouble.is_empty() && issue::can_issue(&self.0),
            trouble,
            ledger_id: self.0.ledger.id().to_string(),
        }))
    }
}

impl Door {
    /// Which entries give this id, and which nodes may vouch for them.
    fn explain_id(&self, snapshot: &attesta_model::Snapshot, id: &str) -> api::ExplainResponse {
        let now = self.0.clock.now();
        let candidates: Vec<_> = snapshot
            .entries_after(None)
            .filter(|e| e.spiffe_id().as_str() == id)
            .take(CANDIDATES)
            .map(|e| {
                let mut c = candidate(&Near { entry: Arc::clone(e), missing: Vec::new() }, String::new(), &self.0);
                c.note = match e.parent() {
                    _ if e.is_expired(now) => "has expired".to_owned(),
                    Parent::Id(parent) => match snapshot.node(parent) {
                        Some(n) if n.banned => format!("its parent {parent} is banned"),
                        Some(_) => format!("its parent {parent} is an attested node"),
                        None => format!("its parent {parent} is no attested node (it may be an alias, or has not attested yet)"),
                    },
                    other => format!("its parent is {other}"),
                };
                c
            })
            .collect();
        let summary = match candidates.len() {
            0 => format!(
                "no entry gives {}; an entry with a template might",
                text::bounded(id, 256)
            ),
            1 => "one entry gives it".to_owned(),
            n => format!("{n} entries give it"),
        };
        api::ExplainResponse {
            candidates,
            summary,
        }
    }
}

fn candidate(near: &Near, denial: String, core: &Core) -> shared::Candidate {
    let e = &near.entry;
    let expired = e.is_expired(core.clock.now());
    shared::Candidate {
        entry_id: e.id().to_string(),
        spiffe_id: e.spiffe_id().as_str().to_owned(),
        matches: near.missing.is_empty() && denial.is_empty() && !expired,
        missing_selectors: near.missing.clone(),
        denial,
        note: if expired {
            "has expired".to_owned()
        } else {
            String::new()
        },
        parent_id: e
            .parent()
            .to_id(&core.trust_domain)
            .map_or_else(|| e.parent().to_string(), |i| i.to_string()),
    }
}

fn narrowed(
    subject: String,
    instance: String,
    name: String,
    correlation: String,
    kind: String,
) -> RecordQuery {
    let some = |s: String| (!s.is_empty()).then_some(s);
    RecordQuery {
        subject: some(subject),
        instance: some(instance),
        name: some(name),
        correlation: some(correlation),
        kind: some(kind),
        ..RecordQuery::default()
    }
}

fn record(r: StoredRecord) -> api::Record {
    api::Record {
        writer: r.position.writer().as_str().to_owned(),
        seq: r.position.seq(),
        at_ms: r.at.as_millisecond(),
        body_json: r.body,
    }
}

/// Follows one writer's records.
struct Tailing {
    core: Arc<Core>,
    query: RecordQuery,
    after: Option<Position>,
    seen: u64,
}

impl Tailing {
    async fn next(&mut self) -> Result<Vec<api::Record>, Status> {
        let live = self.core.ledger.tail();
        loop {
            // The version is taken before the look, so that what comes between is not missed.
            let version = live.version();
            let writer = self
                .after
                .as_ref()
                .map_or_else(WriterName::local, |p| p.writer().clone());
            let query = RecordQuery {
                order: Order::Written(writer),
                after: self.after.clone().map(Cursor::behind_position),
                limit: 500,
                ..self.query.clone()
            };
            let page = self
                .core
                .ledger
                .query(query)
                .await
                .map_err(|d| refusal(&d))?;
            if let Some(last) = page.records.last() {
                self.after = Some(last.position.clone());
                return Ok(page.records.into_iter().map(record).collect());
            }
            tokio::select! {
                seen = live.changed(version) => self.seen = seen,
                () = self.core.stop.cancelled() => return Err(Status::unavailable("the server is stopping")),
            }
        }
    }
}
