//! A workload that no entry matches: its refusal is reported to the server, which writes it down and names the record.
//!
//! Must not delay anyone for long, nor let a workload that asks over and over fill the log: an equal refusal is reported
//! once a minute.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use attesta_model::InstanceKey;
use attesta_runtime::{Clock, Wake};
use attesta_wire::{
    fact::{facts_to_wire, instance_to_wire},
    proto::attesta::agent::v1::{IssueRequest, Wanted, agent_link_client::AgentLinkClient},
};
use jiff::Timestamp;

use crate::{
    authorized::{FactsDigest, Who},
    link::Link,
};

/// How long an equal refusal is not reported again.
const WINDOW: Duration = Duration::from_secs(60);
/// Most refusals remembered.
const REMEMBERED: usize = 4096;
/// How long a refused workload waits for the name of its record.
const PATIENCE: Duration = Duration::from_secs(2);

type Key = (InstanceKey, FactsDigest);

/// See the module.
pub(crate) struct Unmatched {
    link: Arc<Link>,
    clock: Clock,
    /// Woken when the server knows of an entry that does match.
    sync: Wake,
    #[expect(
        clippy::disallowed_types,
        reason = "held for one look-up or insert, never across an await"
    )]
    reported: std::sync::Mutex<HashMap<Key, (Timestamp, String)>>,
}

impl Unmatched {
    pub(crate) fn new(link: Arc<Link>, clock: Clock, sync: Wake) -> Self {
        Self {
            link,
            clock,
            sync,
            reported: Default::default(),
        }
    }

    /// Reports a refusal; the id of the server's record, where it could be had.
    pub(crate) async fn report(&self, who: &Who, correlation: String) -> Option<String> {
        let key = (who.attested.instance.key(), who.digest);
        let now = self.clock.now();
        let fresh = |at: Timestamp| now.duration_since(at).unsigned_abs() < WINDOW;
        {
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, decision)) = reported.get(&key)
                && fresh(*at)
            {
                return (!decision.is_empty()).then(|| decision.clone());
            }
            if reported.len() >= REMEMBERED {
                reported.retain(|_, (at, _)| fresh(*at));
                if reported.len() >= REMEMBERED {
                    reported.clear();
                }
            }
            // Said before it is: whoever asks meanwhile does not report it a second time.
            reported.insert(key.clone(), (now, String::new()));
        }
        let session = self.link.current().filter(|s| !s.is_plain())?;
        let wanted = Wanted {
            facts: facts_to_wire(&who.attested.facts),
            instance: Some(instance_to_wire(&who.attested.instance)),
            correlation_id: correlation,
            ..Wanted::default()
        };
        let mut client = AgentLinkClient::new(session.channel.clone());
        let ask = client.issue(IssueRequest {
            wanted: vec![wanted],
        });
        let answer = match self.clock.timeout(PATIENCE, ask).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(e)) => {
                tracing::debug!(error = %e.message(), "a refusal could not be reported");
                return None;
            }
            Err(_) => return None,
        };
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if !answer.missed.is_empty() {
            // It matches there: this agent is behind, and the next refusal would be another one.
            reported.remove(&key);
            self.sync.wake();
            return None;
        }
        let decision = answer.outcomes.into_iter().next()?.decision_id;
        let decision = attesta_model::text::bounded(&decision, 64);
        reported.insert(key, (now, decision.clone()));
        (!decision.is_empty()).then_some(decision)
    }
}
