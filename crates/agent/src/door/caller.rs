//! From a connection to what it is entitled to: attest, identify, obtain. Every door's first three steps.
//!
//! Must not know how an answer is rendered. The texts are SPIRE's, because clients read them.

use std::{sync::Arc, time::Duration};

use attesta_attest::{AttestError, Peer, PeerError, workload::Workloads};
use attesta_model::{CorrelationId, Match, Parent};
use attesta_runtime::{CancellationToken, Clock, Live};
use attesta_spiffe::SpiffeId;
use tonic::{Code, Request, Status, metadata::MetadataValue};

use crate::{
    authorized::{Authorized, Who, unique_hints},
    holdings::{Book, Held, HoldingKey},
    instances::Instances,
    issue::{Desk, Granted, Order, Refusal, Want},
    jwt::{Token, TokenKey, Tokens},
    peers::{Caller, Uids},
    trust::Trust,
    unmatched::Unmatched,
};

/// The metadata key under which a refusal names the server's record of it.
pub const DECISION_METADATA: &str = "attesta-decision-id";
/// The sentence of every refusal of a caller that is known (SPIRE's).
pub(crate) const NO_IDENTITY: &str = "no identity issued";

/// What every call on the workload socket needs.
pub(crate) struct Reception {
    pub(crate) workloads: Workloads,
    pub(crate) deadline: Duration,
    pub(crate) authorized: Live<Authorized>,
    pub(crate) book: Arc<Book>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) desk: Desk,
    pub(crate) instances: Arc<Instances>,
    pub(crate) unmatched: Unmatched,
    pub(crate) streams: Uids,
    pub(crate) streams_per_uid: u32,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
}

/// One SVID for its holder.
pub(crate) type Svid = (Match, Arc<Held>);

impl Reception {
    /// Who connected, held by its process.
    pub(crate) fn peer<T>(&self, request: &Request<T>) -> Result<(u32, Peer), Status> {
        let caller = request.extensions().get::<Caller>();
        // Only a mistake of ours: the sockets put it there.
        let caller = caller.ok_or_else(|| Status::internal("the connection has no caller"))?;
        match caller.peer() {
            Ok(peer) => Ok((caller.uid(), peer.clone())),
            Err(e) => Err(unattested(&AttestError::Peer(e.clone()))),
        }
    }

    /// What is true of the process now. Asked again before anything is sent: a process that executed another program
    /// since it connected is another caller, and is refused.
    pub(crate) async fn attest(&self, peer: &Peer) -> Result<Arc<Who>, Status> {
        let observed = self
            .workloads
            .attest(peer, self.deadline)
            .await
            .map_err(|e| unattested(&e))?;
        let stable = observed.digest_facts().clone();
        Ok(Arc::new(Who::new(
            Parent::Server,
            peer.instance(),
            observed.facts,
            &stable,
        )))
    }

    /// The identities of an instance, in the order of precedence; at least one. That there is none is reported to the
    /// server, and the refusal names its record.
    pub(crate) async fn identify(
        &self,
        who: &Who,
        known: &Authorized,
    ) -> Result<Vec<Match>, Status> {
        let found = self.matching(who, known);
        match found {
            Err(mut status) if status.code() == Code::PermissionDenied => {
                let decision = self.unmatched.report(who, self.correlation()).await;
                if let Some(value) = decision.and_then(|d| MetadataValue::try_from(d).ok()) {
                    status.metadata_mut().insert(DECISION_METADATA, value);
                }
                Err(status)
            }
            found => found,
        }
    }

    fn matching(&self, who: &Who, known: &Authorized) -> Result<Vec<Match>, Status> {
        if !known.is_synced() {
            return Err(Status::unavailable(
                "the agent does not know yet what this node may vouch for",
            ));
        }
        let (matches, denied) = known.identify(who, self.clock.now());
        for (entry, denial) in denied {
            tracing::info!(entry = %entry.id(), instance = %who.attested.instance.key(), error = %denial, "an entry's template refused a workload");
        }
        if matches.is_empty() {
            tracing::info!(instance = %who.attested.instance.key(), selectors = ?who.attested.selectors.iter().collect::<Vec<_>>(), "no entry matches a workload");
            return Err(Status::permission_denied(NO_IDENTITY));
        }
        Ok(unique_hints(matches))
    }

    /// The bundle.
    pub(crate) fn trust(&self, known: &Authorized) -> Result<Arc<Trust>, Status> {
        known
            .trust()
            .cloned()
            .ok_or_else(|| Status::unavailable("the agent has no bundle yet"))
    }

    /// What the instance holds of these identities; what it does not hold yet is obtained, except for what `skip` says.
    /// What is refused is beside it.
    pub(crate) async fn svids(
        &self,
        who: &Arc<Who>,
        peer: &Peer,
        matches: Vec<Match>,
        skip: impl Fn(&Match) -> bool,
    ) -> (Vec<Svid>, Vec<(Match, Refusal)>) {
        let seen = self
            .book
            .holdings()
            .seen_by(who, matches.clone(), self.clock.now());
        let missing: Vec<Match> = seen.missing.into_iter().filter(|m| !skip(m)).collect();
        if missing.is_empty() {
            return (seen.held, Vec::new());
        }
        // Watched before the first credential is asked for, so that none outlives its process unseen.
        self.instances.watch(peer).await;
        let correlation = self.correlation();
        let order = |found: &Match| {
            Order::first(
                Arc::clone(who),
                found.clone(),
                Want::X509,
                correlation.clone(),
            )
        };
        let answers = self.desk.obtain(missing.iter().map(order).collect()).await;
        let mut obtained = Vec::new();
        let mut refused = Vec::new();
        for (found, answer) in missing.into_iter().zip(answers) {
            match answer {
                Ok(Granted::X509(held)) => obtained.push((found, held)),
                Ok(Granted::Jwt(_)) => {}
                Err(refusal) => refused.push((found, refusal)),
            }
        }
        let all = seen.held.into_iter().chain(obtained);
        let mut svids: Vec<Svid> = all.collect();
        // Back into the order of precedence.
        let rank = |svid: &Svid| {
            matches
                .iter()
                .position(|m| m.entry.id() == svid.0.entry.id())
        };
        svids.sort_by_key(rank);
        (svids, refused)
    }

    /// Tokens for these identities: at least one, in the order of precedence.
    pub(crate) async fn tokens(
        &self,
        who: &Arc<Who>,
        peer: &Peer,
        matches: Vec<Match>,
        audience: Vec<String>,
    ) -> Result<Vec<(Match, Arc<Token>)>, Status> {
        let now = self.clock.now();
        let known = self.authorized.load();
        let cached = |found: &Match| {
            let holding = HoldingKey::own(who, &found.entry, &found.id);
            self.tokens.find(
                &TokenKey {
                    holding,
                    audience: audience.clone(),
                },
                &known,
                now,
            )
        };
        let mut tokens: Vec<(Match, Option<Arc<Token>>)> = matches
            .into_iter()
            .map(|found| (found.clone(), cached(&found)))
            .collect();
        let missing: Vec<Match> = tokens
            .iter()
            .filter(|(_, token)| token.is_none())
            .map(|(found, _)| found.clone())
            .collect();
        let mut refusals = Vec::new();
        if !missing.is_empty() {
            self.instances.watch(peer).await;
            let correlation = self.correlation();
            let order = |found: Match| {
                Order::first(
                    Arc::clone(who),
                    found,
                    Want::Jwt(audience.clone()),
                    correlation.clone(),
                )
            };
            let mut answers = self
                .desk
                .obtain(missing.into_iter().map(order).collect())
                .await
                .into_iter();
            for (_, token) in tokens.iter_mut().filter(|(_, token)| token.is_none()) {
                match answers.next() {
                    Some(Ok(Granted::Jwt(came))) => *token = Some(came),
                    Some(Err(refusal)) => refusals.push(refusal),
                    _ => {}
                }
            }
        }
        let tokens: Vec<_> = tokens
            .into_iter()
            .filter_map(|(found, token)| Some((found, token?)))
            .collect();
        if tokens.is_empty() || refusals.iter().any(Refusal::is_passing) {
            return Err(refused(&refusals, "could not fetch JWT-SVID"));
        }
        Ok(tokens)
    }

    fn correlation(&self) -> String {
        let mut random = [0; 10];
        // Without randomness it ties nothing together, and nothing depends on it.
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            return String::new();
        }
        let millis = u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0);
        CorrelationId::from_uuid(
            uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid(),
        )
        .to_string()
    }

    /// The identity that a caller named, among its own.
    pub(crate) fn only(&self, matches: Vec<Match>, id: &SpiffeId) -> Result<Vec<Match>, Status> {
        let own: Vec<_> = matches.into_iter().filter(|m| m.id == *id).collect();
        if own.is_empty() {
            Err(Status::permission_denied(NO_IDENTITY))
        } else {
            Ok(own)
        }
    }
}

/// A caller that cannot be described. One that is another than it was gets no identity; one that an attestor failed on
/// may come again.
pub(crate) fn unattested(e: &AttestError) -> Status {
    tracing::info!(error = %e, "a workload could not be attested");
    match e {
        AttestError::Peer(PeerError::Executed | PeerError::ChangedUser | PeerError::Gone) => {
            Status::permission_denied(format!("{NO_IDENTITY}: {e}"))
        }
        AttestError::Peer(PeerError::OtherNamespace | PeerError::NotUnix) => {
            Status::unavailable(format!("workload attestation failed: {e}"))
        }
        // Which attestor and why is for the operator: it may name paths.
        _ => Status::unavailable("workload attestation failed"),
    }
}

/// The answer where nothing was obtained: refused for good, or not to be had now.
pub(crate) fn refused(refusals: &[Refusal], what: &str) -> Status {
    if let Some(passing) = refusals.iter().find(|r| r.is_passing()) {
        return Status::unavailable(format!("{what}: {}", passing.message));
    }
    let mut status = Status::new(Code::PermissionDenied, NO_IDENTITY);
    if let Some(decision) = refusals.iter().find_map(|r| r.decision.as_deref())
        && let Ok(value) = MetadataValue::try_from(decision)
    {
        status.metadata_mut().insert(DECISION_METADATA, value);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_record_and_a_failure_says_that_it_passes() {
        let no = |code, decision: Option<&str>| Refusal {
            code,
            message: "because".to_owned(),
            decision: decision.map(str::to_owned),
        };
        let status = refused(
            &[
                no(Code::PermissionDenied, None),
                no(Code::NotFound, Some("0a1b")),
            ],
            "x",
        );
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, NO_IDENTITY)
        );
        assert_eq!(status.metadata().get(DECISION_METADATA).unwrap(), "0a1b");
        let status = refused(
            &[
                no(Code::PermissionDenied, Some("0a")),
                no(Code::Unavailable, None),
            ],
            "could not fetch JWT-SVID",
        );
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unavailable, "could not fetch JWT-SVID: because")
        );
        assert!(status.metadata().get(DECISION_METADATA).is_none());
    }
}
