//! A node attests: verified evidence becomes a node and its certificate, in one commit.

use std::{sync::Arc, time::Duration};

use attesta_attest::node::{Proven, attested};
use attesta_authority::{Credential, IssuedX509, Prepared, SubjectKey};
use attesta_model::{
    Action, Actor, Attested, Change, Code, Denial, Node, Object, Once, OnceHolder, Outcome, Plan,
    Reason, Record, Request, Revision, Snapshot, request::serial_time,
};
use attesta_policy::{About, Want};
use attesta_spiffe::SpiffeId;
use attesta_store::{Used, once_key};

use crate::core::{AFTER_SIGN, Core};

/// How long the same evidence with the same key is answered again: a crash between record and answer locks nobody out.
const RETRY: Duration = Duration::from_secs(300);

/// What an attested agent gets.
pub(crate) struct Admitted {
    pub(crate) id: SpiffeId,
    pub(crate) svid: IssuedX509,
    pub(crate) can_reattest: bool,
}

/// Admits a node whose evidence verified.
pub(crate) async fn admit(
    core: &Arc<Core>,
    attestor: &'static str,
    proven: Proven,
    key: SubjectKey,
    actor: Actor,
) -> Result<Admitted, Denial> {
    core.check_time()?;
    let can_reattest = proven.can_reattest;
    let (id, evidence) = attested(&core.trust_domain, attestor, proven).map_err(Denial::from)?;
    let request = core.request(actor, Action::AttestNode)?;
    let drawn = core.drawn(request.at)?;
    let holder = OnceHolder(key.digest());
    let once = evidence.once.as_ref().map(|o| (once_key(o), holder));
    let command = Arc::new(Command {
        core: Arc::clone(core),
        request,
        id: id.clone(),
        evidence,
        attestor,
        can_reattest,
        key,
        drawn,
        holder,
    });
    let committed = {
        let command = Arc::clone(&command);
        let plan = move |snapshot: &Snapshot, used: Used| command.plan(snapshot, &used);
        core.ledger.commit(once, plan)
    };
    let committed = committed
        .await
        .map_err(|d| d.with_decision(command.request.decision))?;
    let prepared = match committed.value {
        Ok(prepared) => prepared,
        Err((denial, revision)) => return Err(command.refused(denial, revision).await),
    };
    let receipt =
        committed.receipts.into_iter().next().ok_or_else(|| {
            Denial::new(Code::Internal, Reason::Ledger, "the ledger gave no receipt")
        })?;
    match core.ring.load().sign(prepared, receipt).await? {
        Credential::X509(svid) => {
            core.failpoints.hit(AFTER_SIGN);
            core.seen
                .certificate(&id, svid.credential.clone(), svid.expires_at);
            Ok(Admitted {
                id,
                svid,
                can_reattest,
            })
        }
        Credential::Jwt(_) => Err(Denial::new(
            Code::Internal,
            Reason::Signing,
            "a node's certificate came out as a token",
        )),
    }
}

struct Command {
    core: Arc<Core>,
    request: Request,
    id: SpiffeId,
    evidence: Attested,
    attestor: &'static str,
    can_reattest: bool,
    key: SubjectKey,
    drawn: attesta_authority::Drawn,
    holder: OnceHolder,
}

/// The certificate that may be signed, or the refusal and the revision on which it was made.
type Verdict = Result<Prepared, (Denial, Revision)>;

impl Command {
    /// The whole on one snapshot, or the refusal and the revision on which it was made.
    fn plan(&self, snapshot: &Snapshot, used: &Used) -> Result<Plan<Verdict>, Denial> {
        match self.admit(snapshot, used) {
            Err(denial) => Ok(Plan::answer(Err((denial, snapshot.revision())))),
            Ok((prepared, record, node, retry)) => {
                let mut record = prepared.describe(self.complete(record, snapshot.revision()));
                record.retry = retry;
                let object = Object::Node(Arc::new(node));
                record.changes = vec![(object.key(), true)];
                let mut plan = Plan::answer(Ok(prepared))
                    .change(Change::Put(object))
                    .record(record);
                if let (Some(once), false) = (&self.evidence.once, retry) {
                    if let Once::Issued(hash) = once {
                        plan = plan.change(Change::Delete(attesta_model::ObjectKey::Token(*hash)));
                    }
                    plan = plan.once(once.clone(), self.holder);
                }
                Ok(plan)
            }
        }
    }

    fn complete(&self, record: Record, revision: Revision) -> Record {
        let mut record = record.about(&self.evidence);
        // A join token's node is named by the token: one that was not used up stays out of the log.
        if !(matches!(record.outcome, Outcome::Denied(_)) && self.by_token()) {
            record.subject = Some(self.id.clone());
        }
        record.revision = revision.0;
        record.note = self.attestor.to_owned();
        record
    }

    fn by_token(&self) -> bool {
        matches!(self.evidence.once, Some(Once::Issued(_)))
    }

    /// Writes a refusal down, folded: whoever guesses tokens is one source whatever it guesses, and a node that proved
    /// who it is is one wherever it calls from. Not part of the plan, which may be run again.
    async fn refused(&self, denial: Denial, revision: Revision) -> Denial {
        let source = if self.by_token() {
            self.request.actor.to_string()
        } else {
            self.id.to_string()
        };
        let folded = self.core.refusals.fold(&self.request, &source, denial);
        let record = folded.record.map(|record| self.complete(record, revision));
        self.core.note(record.into_iter().collect()).await;
        folded.denial
    }

    fn admit(
        &self,
        snapshot: &Snapshot,
        used: &Used,
    ) -> Result<(Prepared, Record, Node, bool), Denial> {
        let retry = self.check_once(snapshot, used)?;
        let known = snapshot.node(&self.id);
        let refuse = |reason, why: &str| {
            Denial::new(Code::PermissionDenied, reason, why).with_rule(self.attestor)
        };
        if known.is_some_and(|n| n.banned) {
            return Err(refuse(Reason::Banned, "failed to attest: agent is banned"));
        }
        // Trust on first use: what cannot attest again is refused a second time, unless the first answer was lost.
        if known.is_some() && !self.can_reattest && !retry {
            return Err(refuse(
                Reason::Replay,
                "failed to attest: the attestation data has already been used to attest an agent",
            )
            .with_hint("evict the agent first if this node is to take its place"));
        }
        let about = About::Node {
            id: &self.id,
            attestor: self.attestor,
            facts: &self.evidence.facts,
            known: known.map(AsRef::as_ref),
            want: Want::X509 {
                ttl: self.core.agent_ttl,
                dns_names: Vec::new(),
            },
        };
        let (permit, record) = self.core.decide(&self.request, about)?;
        let prepared = self.core.ring.load().prepare_x509(
            permit,
            &self.key,
            &self.drawn,
            known.map(|n| n.valid_from),
        )?;
        let serial = prepared.credential().as_str().to_owned();
        let node = Node {
            id: self.id.clone(),
            attestor: self.attestor.to_owned(),
            facts: self.evidence.facts.clone(),
            // Re-attestation retires every certificate before it.
            valid_from: serial_time(&serial).unwrap_or(self.request.at),
            banned: false,
            can_reattest: self.can_reattest,
            created_at: known.map_or(self.request.at, |n| n.created_at),
            expires_at: prepared.expires_at(),
            serial,
        };
        Ok((prepared, record, node, retry))
    }

    /// Whether this is the same evidence again by the same key, whose first answer was lost.
    fn check_once(&self, snapshot: &Snapshot, used: &Used) -> Result<bool, Denial> {
        let Some(once) = &self.evidence.once else {
            return Ok(false);
        };
        let spent = || {
            Denial::new(
                Code::InvalidArgument,
                Reason::TokenUnknown,
                "failed to attest: join token does not exist or has already been used",
            )
        };
        match used {
            // The first answer's node must still be there: an eviction holds.
            Used::ByYou { at }
                if self.request.at.duration_since(*at).unsigned_abs() <= RETRY
                    && snapshot.node(&self.id).is_some() =>
            {
                Ok(true)
            }
            Used::ByYou { .. } | Used::ByAnother { .. } => {
                Err(spent().with_hint("generate a new token: attesta token generate"))
            }
            Used::No => match once {
                Once::Fresh { .. } => Ok(false),
                Once::Issued(hash) => {
                    let token = snapshot.token(hash).ok_or_else(spent)?;
                    if token.expires_at <= self.request.at {
                        return Err(Denial::new(
                            Code::InvalidArgument,
                            Reason::TokenExpired,
                            "join token expired",
                        ));
                    }
                    Ok(false)
                }
            },
        }
    }
}
