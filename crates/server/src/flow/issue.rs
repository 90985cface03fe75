//! A workload's credential: the caller's certificate says which node vouches; the facts or the entry say who; policy says
//! whether; one record per item, permitted or refused; then the signature.

use std::sync::Arc;

use attesta_authority::{Credential, Prepared, Ring, SubjectKey};
use attesta_model::{
    Action, Actor, Attested, Claim, Code, CorrelationId, Denial, Entry, EntryId, Facts, Instance,
    KeyKind, Match, Node, Parent, Reason, Record, Request, SelectorSet, Snapshot,
};
use attesta_policy::{About, Want};
use attesta_store::Receipt;

use crate::{
    caller::still_standing,
    core::{AFTER_SIGN, Core},
};

/// One thing asked for.
#[derive(Debug)]
pub(crate) struct Ask {
    /// The entry by which.
    pub(crate) entry: EntryId,
    /// By what it is asked.
    pub(crate) shown: Shown,
    /// What.
    pub(crate) what: What,
    /// What it belongs to.
    pub(crate) correlation: Option<CorrelationId>,
}

/// What the agent shows of the workload.
#[derive(Debug)]
pub(crate) enum Shown {
    /// What it attested, of which instance.
    Facts(Facts, Instance),
    /// Nothing but the entry, SPIRE's way.
    Entry,
}

/// What is wanted.
#[derive(Debug)]
pub(crate) enum What {
    /// An X.509-SVID for this key.
    X509(SubjectKey),
    /// A JWT-SVID for these audiences.
    Jwt(Vec<String>),
}

/// Answers to asks, in their order, and what the agent did not ask for though it matches.
pub(crate) struct Issued {
    pub(crate) outcomes: Vec<Result<Credential, Denial>>,
    pub(crate) missed: Vec<EntryId>,
}

/// Issues to the workloads of a node. Asks that were malformed come as their denial and keep their place.
pub(crate) async fn issue(
    core: &Core,
    node: &Arc<Node>,
    serial: &str,
    asks: Vec<Result<Ask, Denial>>,
) -> Result<Issued, Denial> {
    core.check_time()?;
    let snapshot = core.ledger.snapshot();
    let node = &still_standing(&node.id, serial, &snapshot)?;
    let ring = core.ring.load();
    let parents = snapshot.parents_of(node);
    let caller = Caller {
        core,
        node,
        serial,
        snapshot: &snapshot,
        parents: &parents,
        ring: &ring,
    };
    let missed = caller.missed(&asks);
    let mut records = Vec::with_capacity(asks.len());
    // Per ask: what waits for a receipt (and the place of its record), or the refusal.
    let mut waiting: Vec<Result<(Prepared, usize), Denial>> = Vec::with_capacity(asks.len());
    for ask in asks {
        waiting.push(match ask {
            Err(denial) => Err(denial),
            Ok(ask) => match caller.prepare(&ask)? {
                (Ok(prepared), Some(record)) => {
                    records.push(record);
                    Ok((prepared, records.len() - 1))
                }
                (Ok(_), None) => Err(Denial::new(
                    Code::Internal,
                    Reason::Ledger,
                    "a permitted issuance has no record",
                )),
                (Err(denial), record) => {
                    records.extend(record);
                    Err(denial)
                }
            },
        });
    }
    let mut receipts: Vec<Option<Receipt>> = if records.is_empty() {
        Vec::new()
    } else {
        core.ledger
            .append(records)
            .await?
            .into_iter()
            .map(Some)
            .collect()
    };
    let mut outcomes = Vec::with_capacity(waiting.len());
    for item in waiting {
        outcomes.push(match item {
            Err(denial) => Err(denial),
            Ok((prepared, at)) => match receipts.get_mut(at).and_then(Option::take) {
                Some(receipt) => ring.sign(prepared, receipt).await,
                None => Err(Denial::new(
                    Code::Internal,
                    Reason::Ledger,
                    "the ledger gave no receipt",
                )),
            },
        });
    }
    core.failpoints.hit(AFTER_SIGN);
    Ok(Issued { outcomes, missed })
}

/// What a workload without an entry came to.
pub(crate) struct Unmatched {
    /// The refusal, with its record's id; none where entries do match.
    pub(crate) refused: Option<Denial>,
    /// Entries that match here: the agent's set is behind.
    pub(crate) matching: Vec<EntryId>,
}

/// Writes down that a workload, as its node attested it, is nobody: with the entry that came nearest and what it lacked.
pub(crate) async fn unmatched(
    core: &Core,
    node: &Arc<Node>,
    serial: &str,
    facts: Facts,
    instance: Instance,
    correlation: Option<CorrelationId>,
) -> Result<Unmatched, Denial> {
    let snapshot = core.ledger.snapshot();
    let node = &still_standing(&node.id, serial, &snapshot)?;
    let parents = snapshot.parents_of(node);
    let attested = Attested::new(Parent::Id(node.id.clone()), facts, instance, None);
    let found = snapshot.identify(&parents, &attested, core.clock.now());
    let matching: Vec<EntryId> = found
        .iter()
        .flatten()
        .map(|m| m.entry.id().clone())
        .collect();
    if !matching.is_empty() {
        return Ok(Unmatched {
            refused: None,
            matching,
        });
    }
    let actor = Actor::Node {
        id: node.id.clone(),
        serial: serial.to_owned(),
    };
    let request = core.request_in(actor, Action::IssueX509, correlation)?;
    let denial = match found.into_iter().find_map(Result::err) {
        Some((_, denial)) => denial,
        None => match snapshot.nearest(&parents, &attested.selectors, 1).pop() {
            Some(near) => Denial::new(
                Code::PermissionDenied,
                Reason::NoEntry,
                "no entry matches; this one came nearest and lacks a selector",
            )
            .with_rule(near.entry.id().to_string())
            .with_attribute(near.missing.into_iter().next().unwrap_or_default()),
            None => Denial::new(
                Code::PermissionDenied,
                Reason::NoEntry,
                "no entry has this node as its parent",
            ),
        },
    };
    let source = format!("{} {}", node.id, attested.instance.key());
    let folded = core.refusals.fold(&request, &source, denial);
    let denial = folded.denial;
    let record = folded.record.map(|record| {
        let mut record = record.about(&attested);
        record.revision = snapshot.revision().0;
        record
    });
    core.note(record.into_iter().collect()).await;
    Ok(Unmatched {
        refused: Some(denial),
        matching,
    })
}

struct Caller<'a> {
    core: &'a Core,
    node: &'a Arc<Node>,
    serial: &'a str,
    snapshot: &'a Snapshot,
    parents: &'a [Parent],
    ring: &'a Ring,
}

type Verdict = (Result<Prepared, Denial>, Option<Record>);

impl Caller<'_> {
    /// Identify, decide, prepare; the record of either end. An error here is ours, not the ask's.
    fn prepare(&self, ask: &Ask) -> Result<Verdict, Denial> {
        let action = match ask.what {
            What::X509(_) => Action::IssueX509,
            What::Jwt(_) => Action::IssueJwt,
        };
        let actor = Actor::Node {
            id: self.node.id.clone(),
            serial: self.serial.to_owned(),
        };
        let request = self
            .core
            .request_in(actor, action, ask.correlation.clone())?;
        let attested = match &ask.shown {
            Shown::Facts(facts, instance) => Attested::new(
                Parent::Id(self.node.id.clone()),
                facts.clone(),
                instance.clone(),
                None,
            ),
            Shown::Entry => Attested::new(
                Parent::Id(self.node.id.clone()),
                Facts::default(),
                Instance::Node,
                None,
            ),
        };
        let claim = match ask.shown {
            Shown::Facts(..) => Claim::Facts,
            Shown::Entry => Claim::Entry(ask.entry.clone()),
        };
        let by_entry = matches!(claim, Claim::Entry(_));
        let complete = |mut record: Record| {
            record = record.about(&attested);
            record.entry = Some(ask.entry.clone());
            record.by_entry = by_entry;
            record.revision = self.snapshot.revision().0;
            record
        };
        let prepared = self
            .identify(ask, &attested, &request)
            .and_then(|found| self.decide(ask, &attested, by_entry, &found, &request));
        Ok(match prepared {
            Ok((prepared, record)) => {
                let record = prepared.describe(complete(record));
                (Ok(prepared), Some(record))
            }
            Err(denial) => {
                let source = format!("{} {} {}", self.node.id, attested.instance.key(), ask.entry);
                let folded = self.core.refusals.fold(&request, &source, denial);
                (Err(folded.denial), folded.record.map(complete))
            }
        })
    }

    /// Who: the entry must exist, be this node's to vouch for, and fit what was shown.
    fn identify(&self, ask: &Ask, attested: &Attested, request: &Request) -> Result<Match, Denial> {
        let refuse = |reason, why: &str| {
            Denial::new(Code::NotFound, reason, why).with_rule(ask.entry.to_string())
        };
        // One sentence for both, SPIRE's: a node learns nothing of other nodes' entries.
        let unknown = || refuse(Reason::NoEntry, "entry not found or not authorized");
        let entry = self.snapshot.entry(&ask.entry).ok_or_else(unknown)?;
        if !self.snapshot.is_authorized(self.parents, entry) {
            return Err(unknown());
        }
        if entry.is_expired(request.at) {
            return Err(refuse(Reason::Expired, "entry has expired"));
        }
        match ask.shown {
            Shown::Entry => {
                let id = entry.spiffe_id().exact().ok_or_else(|| {
                    refuse(
                        Reason::Template,
                        "entry is a template over facts; it is issued to attested instances only",
                    )
                })?;
                Ok(Match {
                    entry: Arc::clone(entry),
                    id: id.clone(),
                })
            }
            Shown::Facts(..) => {
                if let Some(missing) = entry
                    .selectors()
                    .iter()
                    .find(|s| !attested.selectors.contains(s))
                {
                    return Err(Denial::new(
                        Code::PermissionDenied,
                        Reason::NoEntry,
                        "the facts do not match the entry",
                    )
                    .with_rule(ask.entry.to_string())
                    .with_attribute(missing));
                }
                self.expand(entry, attested)
            }
        }
    }

    fn expand(&self, entry: &Arc<Entry>, attested: &Attested) -> Result<Match, Denial> {
        let candidates = std::iter::once(entry);
        let found = attesta_model::identify::identify(
            candidates,
            &attested.selectors,
            &attested.facts,
            jiff::Timestamp::MIN,
            |id| self.snapshot.is_privileged(id) || self.core.admin_ids.contains(id),
        );
        match found.into_iter().next() {
            Some(Ok(found)) => Ok(found),
            Some(Err((_, denial))) => Err(denial),
            None => Err(Denial::new(
                Code::PermissionDenied,
                Reason::NoEntry,
                "the facts do not match the entry",
            )),
        }
    }

    /// Whether, and the document for it.
    fn decide(
        &self,
        ask: &Ask,
        attested: &Attested,
        by_entry: bool,
        found: &Match,
        request: &Request,
    ) -> Result<(Prepared, Record), Denial> {
        let entry = &found.entry;
        let want = match &ask.what {
            What::X509(_) => Want::X509 {
                ttl: entry.x509_svid_ttl(),
                dns_names: entry.dns_names().to_vec(),
            },
            What::Jwt(audience) => Want::Jwt {
                audience: audience.clone(),
                ttl: entry.jwt_svid_ttl(),
                algorithm: self.core.jwt_algorithm(),
            },
        };
        let about = About::Issue {
            entry,
            id: &found.id,
            attested,
            node: Some(self.node),
            by_entry,
            want,
        };
        let (permit, record) = self.core.decide(request, about)?;
        let drawn = self.core.drawn(request.at)?;
        let prepared = match &ask.what {
            What::X509(key) => self.ring.prepare_x509(permit, key, &drawn, None)?,
            What::Jwt(_) => self.ring.prepare_jwt(permit, &drawn)?,
        };
        Ok((prepared, record))
    }

    /// Entries that fit the facts of these asks and that nobody asked for: the agent's set is behind.
    fn missed(&self, asks: &[Result<Ask, Denial>]) -> Vec<EntryId> {
        let mut missed = Vec::new();
        let mut last: Option<&Facts> = None;
        for ask in asks.iter().flatten() {
            let Shown::Facts(facts, instance) = &ask.shown else {
                continue;
            };
            // Asks of one instance stand together; their facts are matched once.
            if !matches!(ask.what, What::X509(_)) || last == Some(facts) {
                continue;
            }
            last = Some(facts);
            let attested = Attested::new(
                Parent::Id(self.node.id.clone()),
                facts.clone(),
                instance.clone(),
                None,
            );
            for found in self
                .snapshot
                .identify(self.parents, &attested, self.core.clock.now())
                .into_iter()
                .flatten()
            {
                let id = found.entry.id();
                let asked = asks.iter().flatten().any(|a| a.entry == *id);
                if !asked
                    && found.entry.sharing() == attesta_model::Sharing::Instance
                    && !found.entry.store_svid()
                    && !missed.contains(id)
                {
                    missed.push(id.clone());
                }
            }
        }
        missed
    }
}

/// The entries nearest to what an agent observed, for `explain`.
pub(crate) fn nearest(
    snapshot: &Snapshot,
    node: &Node,
    selectors: &SelectorSet,
    most: usize,
) -> Vec<attesta_model::Near> {
    snapshot.nearest(&snapshot.parents_of(node), selectors, most)
}

/// Whether this server can sign what workloads ask for.
pub(crate) fn can_issue(core: &Core) -> bool {
    core.ring.load().can_sign(KeyKind::X509, core.clock.now())
}
