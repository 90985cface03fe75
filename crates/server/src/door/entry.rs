//! `spire.api.server.entry.v1.Entry`: registration entries, and each agent's view of its own.
//!
//! Entries with templates and entries under an issuer are never shown or changed here: SPIRE's controller-manager deletes
//! what it does not know.

use std::{pin::Pin, sync::Arc};

use attesta_model::{Denial, Entry, EntryId, FieldError, Parent, SelectorSet, Snapshot};
use attesta_spiffe::TrustDomain;
use attesta_wire::{
    entry::{self, is_spires},
    fact, id,
    proto::spire::api::{
        server::entry::v1::{self as api, entry_server},
        types,
    },
    status,
};
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{foreign_page_token, malformed, refusal};
use crate::{
    caller::Caller,
    core::Core,
    flow::entries::{self, Answer, Reach},
    guard,
};

/// Entries or revisions of one message of the sync stream, as SPIRE pages them.
const SYNC_PAGE: usize = 500;

pub(crate) struct Door(pub(crate) Arc<Core>);

type Synced =
    Pin<Box<dyn Stream<Item = Result<api::SyncAuthorizedEntriesResponse, Status>> + Send>>;

fn invalid(e: &FieldError) -> Status {
    Status::invalid_argument(e.to_string())
}

#[tonic::async_trait]
impl entry_server::Entry for Door {
    type SyncAuthorizedEntriesStream = Synced;

    async fn count_entries(
        &self,
        request: Request<api::CountEntriesRequest>,
    ) -> Result<Response<api::CountEntriesResponse>, Status> {
        let filter = request.into_inner().filter.map(|f| Raw {
            spiffe_id: f.by_spiffe_id,
            parent_id: f.by_parent_id,
            selectors: f.by_selectors,
            federates_with: f.by_federates_with,
            hint: f.by_hint,
            downstream: f.by_downstream,
        });
        let filter = filter.unwrap_or_default().parse()?;
        let snapshot = self.0.ledger.snapshot();
        let count = filter
            .candidates(&snapshot, None)
            .filter(|e| filter.fits(e))
            .count();
        Ok(Response::new(api::CountEntriesResponse {
            count: i32::try_from(count).unwrap_or(i32::MAX),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<api::ListEntriesRequest>,
    ) -> Result<Response<api::ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let filter = request.filter.map(|f| Raw {
            spiffe_id: f.by_spiffe_id,
            parent_id: f.by_parent_id,
            selectors: f.by_selectors,
            federates_with: f.by_federates_with,
            hint: f.by_hint,
            downstream: f.by_downstream,
        });
        let filter = filter.unwrap_or_default().parse()?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(EntryId::parse(token).map_err(|_| foreign_page_token(token))?),
        };
        let page = match usize::try_from(request.page_size) {
            Ok(0) => usize::MAX,
            Ok(n) => n,
            Err(_) => return Err(malformed("page_size", request.page_size, "is negative")),
        };
        let snapshot = self.0.ledger.snapshot();
        let mut found = filter
            .candidates(&snapshot, after.as_ref())
            .filter(|e| filter.fits(e));
        let taken: Vec<_> = found.by_ref().take(page).collect();
        let next_page_token = if found.next().is_some() {
            taken.last().map(|e| e.id().to_string()).unwrap_or_default()
        } else {
            String::new()
        };
        let entries = taken
            .into_iter()
            .map(|e| entry::to_wire(e, &self.0.trust_domain, request.output_mask.as_ref()))
            .collect();
        Ok(Response::new(api::ListEntriesResponse {
            entries,
            next_page_token,
        }))
    }

    async fn get_entry(
        &self,
        request: Request<api::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(Status::invalid_argument("missing ID"));
        }
        let id = EntryId::parse(&request.id)
            .map_err(|why| invalid(&FieldError::new("id", &request.id, why)))?;
        let snapshot = self.0.ledger.snapshot();
        let found = snapshot
            .entry(&id)
            .filter(|e| is_spires(e))
            .ok_or_else(|| Status::not_found("entry not found"))?;
        Ok(Response::new(entry::to_wire(
            found,
            &self.0.trust_domain,
            request.output_mask.as_ref(),
        )))
    }

    async fn batch_create_entry(
        &self,
        request: Request<api::BatchCreateEntryRequest>,
    ) -> Result<Response<api::BatchCreateEntryResponse>, Status> {
        let caller = guard::caller(&request)?;
        let request = request.into_inner();
        let specs = request
            .entries
            .iter()
            .map(|e| {
                no_template(e)
                    .and_then(|()| entry::from_wire(e))
                    .map_err(Denial::from)
            })
            .collect();
        let answers = entries::create(&self.0, &caller, specs)
            .await
            .map_err(|d| refusal(&d))?;
        let results = answers.into_iter().map(|a| {
            let (status, entry) = self.answer(a, request.output_mask.as_ref());
            api::batch_create_entry_response::Result {
                status: Some(status),
                entry,
            }
        });
        Ok(Response::new(api::BatchCreateEntryResponse {
            results: results.collect(),
        }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<api::BatchUpdateEntryRequest>,
    ) -> Result<Response<api::BatchUpdateEntryResponse>, Status> {
        let caller = guard::caller(&request)?;
        let request = request.into_inner();
        let mask = request.input_mask;
        let updates = request
            .entries
            .iter()
            .map(|e| {
                no_template(e)?;
                let change = entry::from_wire(e)?;
                let id = change
                    .id
                    .clone()
                    .ok_or_else(|| FieldError::new("id", "", "is missing"))?;
                let update: entries::Update =
                    Box::new(move |old| entry::masked(old, change.clone(), mask.as_ref()));
                Ok((id, update))
            })
            .map(|u: Result<_, FieldError>| u.map_err(Denial::from))
            .collect();
        let answers = entries::update(&self.0, &caller, updates, Reach::Spire)
            .await
            .map_err(|d| refusal(&d))?;
        let results = answers.into_iter().map(|a| {
            let (status, entry) = self.answer(a, request.output_mask.as_ref());
            api::batch_update_entry_response::Result {
                status: Some(status),
                entry,
            }
        });
        Ok(Response::new(api::BatchUpdateEntryResponse {
            results: results.collect(),
        }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<api::BatchDeleteEntryRequest>,
    ) -> Result<Response<api::BatchDeleteEntryResponse>, Status> {
        let caller = guard::caller(&request)?;
        let ids = request.into_inner().ids;
        let parsed = ids.iter().map(|id| parse_id(id)).collect();
        let answers = entries::delete(&self.0, &caller, parsed, Reach::Spire)
            .await
            .map_err(|d| refusal(&d))?;
        let results = answers.into_iter().zip(ids).map(|(a, id)| {
            let status = a.map_or_else(|r| status::item(&r.denial), |_| status::ok());
            api::batch_delete_entry_response::Result {
                status: Some(status),
                id,
            }
        });
        Ok(Response::new(api::BatchDeleteEntryResponse {
            results: results.collect(),
        }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<api::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<api::GetAuthorizedEntriesResponse>, Status> {
        let Caller::Agent { node, .. } = guard::agent(&request)? else {
            return Err(Status::internal("no agent"));
        };
        let mask = request.into_inner().output_mask;
        let snapshot = self.0.ledger.snapshot();
        let parents = snapshot.parents_of(&node);
        let entries = snapshot
            .authorized(&parents)
            .filter(|e| is_spires(e))
            .map(|e| entry::to_wire(e, &self.0.trust_domain, mask.as_ref()))
            .collect();
        Ok(Response::new(api::GetAuthorizedEntriesResponse { entries }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<api::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Synced>, Status> {
        let Caller::Agent { node, .. } = guard::agent(&request)? else {
            return Err(Status::internal("no agent"));
        };
        let snapshot = self.0.ledger.snapshot();
        let parents = snapshot.parents_of(&node);
        let all: Vec<Arc<Entry>> = snapshot
            .authorized(&parents)
            .filter(|e| is_spires(e))
            .map(Arc::clone)
            .collect();
        let sync = Sync {
            incoming: request.into_inner(),
            all,
            mask: None,
            trust_domain: self.0.trust_domain.clone(),
            pending: Vec::new(),
        };
        let answers = futures::stream::unfold(sync, |mut sync| async move {
            sync.next().await.map(|answer| (answer, sync))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// SPIRE's API takes plain ids only; braces would be refused by the id's parser with less to say.
fn no_template(e: &types::Entry) -> Result<(), FieldError> {
    let text = e.spiffe_id.as_ref().map(id::text).unwrap_or_default();
    if attesta_model::Template::looks_like(&text) {
        return Err(FieldError::new(
            "spiffe_id",
            &text,
            "is a template; create it through attesta's own admin API (attesta entry create)",
        ));
    }
    Ok(())
}

pub(crate) fn parse_id(id: &str) -> Result<EntryId, Denial> {
    if id.is_empty() {
        return Err(Denial::field("id", "missing entry ID"));
    }
    EntryId::parse(id).map_err(|why| FieldError::new("id", id, why).into())
}

impl Door {
    fn answer(
        &self,
        answer: Answer,
        mask: Option<&types::EntryMask>,
    ) -> (types::Status, Option<types::Entry>) {
        match answer {
            Ok(e) => (
                status::ok(),
                Some(entry::to_wire(&e, &self.0.trust_domain, mask)),
            ),
            Err(refused) => {
                let existing = refused
                    .existing
                    .filter(|e| is_spires(e))
                    .map(|e| entry::to_wire(&e, &self.0.trust_domain, mask));
                // SPIRE's own sentence, without the rule behind it, where its clients compare.
                let message = if existing.is_some() {
                    refused.denial.message.clone()
                } else {
                    refused.denial.to_string()
                };
                (
                    types::Status {
                        code: status::item(&refused.denial).code,
                        message,
                    },
                    existing,
                )
            }
        }
    }
}

/// One agent's sync: all of its entries when they are few, else their revisions, then those it asks for.
struct Sync {
    incoming: Streaming<api::SyncAuthorizedEntriesRequest>,
    all: Vec<Arc<Entry>>,
    mask: Option<types::EntryMask>,
    trust_domain: TrustDomain,
    /// Answers not yet sent, last first.
    pending: Vec<api::SyncAuthorizedEntriesResponse>,
}

impl Sync {
    async fn next(&mut self) -> Option<Result<api::SyncAuthorizedEntriesResponse, Status>> {
        loop {
            if let Some(answer) = self.pending.pop() {
                return Some(Ok(answer));
            }
            match self.incoming.message().await {
                Ok(None) => return None,
                Err(status) => return Some(Err(status)),
                Ok(Some(request)) => {
                    if let Err(status) = self.answer(request) {
                        return Some(Err(status));
                    }
                }
            }
        }
    }

    fn answer(&mut self, request: api::SyncAuthorizedEntriesRequest) -> Result<(), Status> {
        if let Some(mask) = &self.mask {
            let mut wanted = Vec::with_capacity(request.ids.len());
            for id in &request.ids {
                if let Ok(id) = EntryId::parse(id)
                    && let Some(e) = self.all.iter().find(|e| *e.id() == id)
                {
                    wanted.push(entry::to_wire(e, &self.trust_domain, Some(mask)));
                }
            }
            self.queue(pages(wanted, |entries, more| {
                api::SyncAuthorizedEntriesResponse {
                    entries,
                    more,
                    ..Default::default()
                }
            }));
            return Ok(());
        }
        let mask = request.output_mask.unwrap_or(entry::EVERYTHING);
        if !mask.revision_number {
            return Err(Status::invalid_argument("revision number cannot be masked"));
        }
        if !request.ids.is_empty() {
            return Err(Status::invalid_argument(
                "specifying IDs on initial request is not supported",
            ));
        }
        self.mask = Some(mask);
        if self.all.len() <= SYNC_PAGE {
            let entries = self
                .all
                .iter()
                .map(|e| entry::to_wire(e, &self.trust_domain, Some(&mask)))
                .collect();
            self.pending.push(api::SyncAuthorizedEntriesResponse {
                entries,
                ..Default::default()
            });
            return Ok(());
        }
        let revisions = self
            .all
            .iter()
            .map(|e| api::EntryRevision {
                id: e.id().to_string(),
                revision_number: i64::try_from(e.revision()).unwrap_or(i64::MAX),
                created_at: e.created_at().as_second(),
            })
            .collect();
        self.queue(pages(revisions, |entry_revisions, more| {
            api::SyncAuthorizedEntriesResponse {
                entry_revisions,
                more,
                ..Default::default()
            }
        }));
        Ok(())
    }

    fn queue(&mut self, mut answers: Vec<api::SyncAuthorizedEntriesResponse>) {
        answers.reverse();
        self.pending = answers;
    }
}

/// Pages of at most 500; every one but the last says that more come. Nothing is one empty page.
fn pages<T>(
    all: Vec<T>,
    page: impl Fn(Vec<T>, bool) -> api::SyncAuthorizedEntriesResponse,
) -> Vec<api::SyncAuthorizedEntriesResponse> {
    let mut out = Vec::new();
    let mut rest = all.into_iter().peekable();
    loop {
        let chunk: Vec<T> = rest.by_ref().take(SYNC_PAGE).collect();
        let more = rest.peek().is_some();
        out.push(page(chunk, more));
        if !more {
            return out;
        }
    }
}

/// How a filter's set is held against another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matching {
    Exact,
    Subset,
    Superset,
    Any,
}

impl Matching {
    fn from_wire(value: i32) -> Option<Self> {
        Some(
            match types::selector_match::MatchBehavior::try_from(value).ok()? {
                types::selector_match::MatchBehavior::MatchExact => Self::Exact,
                types::selector_match::MatchBehavior::MatchSubset => Self::Subset,
                types::selector_match::MatchBehavior::MatchSuperset => Self::Superset,
                types::selector_match::MatchBehavior::MatchAny => Self::Any,
            },
        )
    }

    /// Whether `have` fits what is wanted: a subset of it, a superset, the same, or with one in common.
    pub(crate) fn fits(self, want: &SelectorSet, have: &SelectorSet) -> bool {
        let have_in_want = || have.iter().all(|s| want.contains(s));
        let want_in_have = || want.iter().all(|s| have.contains(s));
        match self {
            Self::Exact => have_in_want() && want_in_have(),
            Self::Subset => have_in_want(),
            Self::Superset => want_in_have(),
            Self::Any => want.iter().any(|s| have.contains(s)),
        }
    }
}

/// A selector filter from the wire.
pub(crate) fn matching(m: &types::SelectorMatch) -> Result<(Matching, SelectorSet), Denial> {
    let malformed =
        |why: String| Denial::field("by_selectors", format!("malformed selectors filter: {why}"));
    if m.selectors.is_empty() {
        return Err(malformed("empty selector set".to_owned()));
    }
    let how = Matching::from_wire(m.r#match)
        .ok_or_else(|| malformed(format!("unknown match behavior {}", m.r#match)))?;
    let set = m
        .selectors
        .iter()
        .map(|s| fact::selector_from_wire("by_selectors", s))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| malformed(e.to_string()))?;
    Ok((how, SelectorSet::new(set)))
}

/// What entries are listed by, as it came.
#[derive(Default)]
struct Raw {
    spiffe_id: Option<types::Spiffeid>,
    parent_id: Option<types::Spiffeid>,
    selectors: Option<types::SelectorMatch>,
    federates_with: Option<types::FederatesWithMatch>,
    hint: Option<String>,
    downstream: Option<bool>,
}

/// What entries are listed by.
struct Filter {
    spiffe_id: Option<String>,
    parent: Option<Parent>,
    selectors: Option<(Matching, SelectorSet)>,
    federates_with: Option<(Matching, SelectorSet)>,
    hint: Option<String>,
    downstream: Option<bool>,
}

impl Raw {
    fn parse(self) -> Result<Filter, Status> {
        let spiffe_id = match &self.spiffe_id {
            None => None,
            some => Some(id::from_wire("by_spiffe_id", some.as_ref()).map_err(|e| {
                Status::invalid_argument(format!("malformed SPIFFE ID filter: {e}"))
            })?),
        };
        let parent = match &self.parent_id {
            None => None,
            some => Some(id::from_wire("by_parent_id", some.as_ref()).map_err(|e| {
                Status::invalid_argument(format!("malformed parent ID filter: {e}"))
            })?),
        };
        let federates_with = match self.federates_with {
            None => None,
            Some(m) if m.trust_domains.is_empty() => {
                return Err(Status::invalid_argument(
                    "malformed federates with filter: empty trust domain set",
                ));
            }
            Some(m) => {
                let how = Matching::from_wire(m.r#match).ok_or_else(|| {
                    Status::invalid_argument(
                        "malformed federates with filter: unknown match behavior",
                    )
                })?;
                let names = m
                    .trust_domains
                    .iter()
                    .map(|t| {
                        TrustDomain::from_name_or_id(t)
                            .map(|t| t.as_str().to_owned())
                            .map_err(|e| FieldError::new("trust_domains", t, e))
                    })
                    .collect::<Result<Vec<_>, _>>();
                Some((
                    how,
                    SelectorSet::new(names.map_err(|e| {
                        Status::invalid_argument(format!("malformed federates with filter: {e}"))
                    })?),
                ))
            }
        };
        Ok(Filter {
            spiffe_id: spiffe_id.map(|i| i.to_string()),
            parent: parent.map(|i| Parent::from_id(&i)),
            selectors: self
                .selectors
                .map(|m| matching(&m))
                .transpose()
                .map_err(|d| refusal(&d))?,
            federates_with,
            hint: self.hint,
            downstream: self.downstream,
        })
    }
}

impl Filter {
    /// Everything that may fit, in the order of ids.
    fn candidates<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        after: Option<&'a EntryId>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + 'a> {
        match &self.parent {
            None => Box::new(snapshot.entries_after(after)),
            Some(parent) => {
                let mut all: Vec<_> = snapshot
                    .entries_of(parent)
                    .filter(|e| after.is_none_or(|a| e.id() > a))
                    .collect();
                all.sort_by(|a, b| a.id().cmp(b.id()));
                Box::new(all.into_iter())
            }
        }
    }

    fn fits(&self, e: &Entry) -> bool {
        is_spires(e)
            && self
                .spiffe_id
                .as_ref()
                .is_none_or(|id| e.spiffe_id().as_str() == id)
            && self.parent.as_ref().is_none_or(|p| e.parent() == p)
            && self.hint.as_ref().is_none_or(|h| e.hint() == h)
            && self.downstream.is_none_or(|d| e.downstream() == d)
            && self.selectors.as_ref().is_none_or(|(how, want)| {
                how.fits(
                    want,
                    &SelectorSet::new(e.selectors().iter().map(str::to_owned)),
                )
            })
            && self.federates_with.as_ref().is_none_or(|(how, want)| {
                how.fits(
                    want,
                    &SelectorSet::new(e.federates_with().iter().map(|t| t.as_str().to_owned())),
                )
            })
    }
}
