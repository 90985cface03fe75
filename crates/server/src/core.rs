//! What every flow stands on: the ledger, the policies, the keys that sign now, the clock, and who waits for changes.

use std::{sync::Arc, time::Duration};

use attesta_attest::node::Verifiers;
use attesta_authority::{Drawn, Keys, Lifetimes, Ring, draw};
use attesta_model::{
    Action, Actor, Code, CorrelationId, DecisionId, Denial, KeyAlgorithm, KeyKind, Reason, Record,
    Request,
};
use attesta_policy::{About, Permit, Policies, Question};
use attesta_runtime::{CancellationToken, Clock, Live, Writer};
use attesta_spiffe::{SpiffeId, TrustDomain, bundle::Bundle};
use attesta_store::{Failpoints, Ledger, Receipt, Retention};
use jiff::Timestamp;

use crate::{refusals::Refusals, seen::NodesSeen, timeguard::TimeGuard, wakes::Wakes};

/// A crash test's place: signed, and nobody was answered yet.
pub(crate) const AFTER_SIGN: &str = "after_sign";
/// A crash test's place: the answer stands, and nothing of it was sent.
pub(crate) const BEFORE_SEND: &str = "before_send";

/// See the module. One per server, shared by its doors and tasks.
pub(crate) struct Core {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Clock,
    pub(crate) ledger: Ledger,
    pub(crate) policies: Live<Policies>,
    pub(crate) keys: Arc<dyn Keys>,
    pub(crate) ring: Writer<Ring>,
    pub(crate) bundle: Writer<Bundle>,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) retention: Retention,
    pub(crate) failpoints: Failpoints,
    pub(crate) wanted_keys: Vec<(KeyKind, KeyAlgorithm)>,
    pub(crate) agent_ttl: Duration,
    pub(crate) attestors: Verifiers,
    pub(crate) admin_ids: Vec<SpiffeId>,
    pub(crate) wakes: Arc<Wakes>,
    pub(crate) seen: NodesSeen,
    pub(crate) refusals: Refusals,
    pub(crate) time: TimeGuard,
    /// Ends the streams when the server stops.
    pub(crate) stop: CancellationToken,
    /// Where agents call: `host:port`, or empty.
    pub(crate) listening: Live<String>,
}

/// How old a snapshot may be before only those already known are served is for when databases can be away; this server
/// owns its database, so a snapshot is never behind what it committed itself.
impl Core {
    /// A request of now, with its ids drawn.
    pub(crate) fn request(&self, actor: Actor, action: Action) -> Result<Request, Denial> {
        self.request_in(actor, action, None)
    }

    /// A request that belongs to something that began before.
    pub(crate) fn request_in(
        &self,
        actor: Actor,
        action: Action,
        correlation: Option<CorrelationId>,
    ) -> Result<Request, Denial> {
        let at = milliseconds(self.clock.now());
        let correlation = match correlation {
            Some(c) => c,
            None => draw::correlation(at)?,
        };
        Ok(Request {
            actor,
            action,
            at,
            decision: draw::decision(at)?,
            correlation,
        })
    }

    /// Decisions of the items of one batch: each is found by its own.
    pub(crate) fn request_ids(&self, n: usize) -> Result<Vec<DecisionId>, Denial> {
        let at = self.clock.now();
        (0..n)
            .map(|_| draw::decision(at).map_err(Denial::from))
            .collect()
    }

    /// Bits for one credential.
    pub(crate) fn drawn(&self, at: Timestamp) -> Result<Drawn, Denial> {
        Ok(Drawn {
            serial: draw::serial(at)?,
            token: draw::uuid(at)?,
        })
    }

    /// Asks the policies. What comes beside the permit belongs into the record, so that the decision can be replayed.
    pub(crate) fn decide(
        &self,
        request: &Request,
        about: About<'_>,
    ) -> Result<(Permit, Record), Denial> {
        let question = Question { request, about };
        let permit = self.policies.load().decide(&question)?;
        let mut record = Record::new(request, permit.outcome());
        record.inputs = Some(question.inputs());
        Ok((permit, record))
    }

    /// The algorithm of tokens for an audience nobody set another for.
    pub(crate) fn jwt_algorithm(&self) -> KeyAlgorithm {
        self.wanted_keys
            .iter()
            .find(|(kind, _)| *kind == KeyKind::Jwt)
            .map_or(KeyAlgorithm::EcP256, |(_, a)| *a)
    }

    /// Writes refusals down beside what else happened; they need no receipt.
    pub(crate) async fn note(&self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        if let Err(e) = self.ledger.append(records).await {
            tracing::error!(error = %e, "refusals could not be recorded");
        }
    }

    /// Writes one record and gives its receipt.
    pub(crate) async fn receipt(&self, record: Record) -> Result<Receipt, Denial> {
        self.ledger
            .append(vec![record])
            .await?
            .pop()
            .ok_or_else(|| {
                Denial::new(Code::Internal, Reason::Ledger, "the ledger gave no receipt")
            })
    }

    /// Whether the clock may be trusted to sign.
    pub(crate) fn check_time(&self) -> Result<(), Denial> {
        self.time.check(&self.clock)
    }
}

/// Times are kept in milliseconds everywhere, so that what is recorded is what is compared.
pub(crate) fn milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}
