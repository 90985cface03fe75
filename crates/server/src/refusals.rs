//! Refusals, folded: equal ones of one source are one record a minute, so that nobody can fill the log by being refused.

use std::{collections::HashMap, time::Duration};

use attesta_model::{Denial, Record, Request};
use jiff::Timestamp;

/// How long equal refusals are one.
const WINDOW: Duration = Duration::from_secs(60);
/// Most sources remembered; beyond, the window of everyone else begins anew.
const SOURCES: usize = 10_000;

/// What makes two refusals equal.
type Key = (String, &'static str, &'static str);

/// The refusals of the current window.
#[derive(Default)]
pub(crate) struct Refusals {
    #[expect(
        clippy::disallowed_types,
        reason = "held for one look-up or insert, never across IO or an await"
    )]
    open: std::sync::Mutex<HashMap<Key, Open>>,
}

struct Open {
    since: Timestamp,
    more: u32,
}

impl Refusals {
    /// The record of a refusal, unless an equal one was recorded within the last minute; it then counts for the next.
    pub(crate) fn record(
        &self,
        request: &Request,
        source: &str,
        denial: &Denial,
    ) -> Option<Record> {
        let mut open = self
            .open
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (
            source.to_owned(),
            request.action.as_str(),
            denial.reason.as_str(),
        );
        let fresh = |o: &Open| request.at.duration_since(o.since).unsigned_abs() < WINDOW;
        let folded = match open.get_mut(&key) {
            Some(o) if fresh(o) => {
                o.more = o.more.saturating_add(1);
                return None;
            }
            Some(o) => o.more,
            None => 0,
        };
        if open.len() >= SOURCES {
            open.retain(|_, o| fresh(o));
            if open.len() >= SOURCES {
                open.clear();
            }
        }
        open.insert(
            key,
            Open {
                since: request.at,
                more: 0,
            },
        );
        let mut record = Record::denied(request, denial);
        record.count = folded.saturating_add(1);
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use attesta_model::{Action, Actor, Code, CorrelationId, DecisionId, Reason};

    use super::*;

    #[test]
    fn equal_refusals_are_one_record_a_minute() {
        let refusals = Refusals::default();
        let at = |s: i64| Request {
            actor: Actor::Stranger("127.0.0.1".into()),
            action: Action::AttestNode,
            at: Timestamp::from_second(s).unwrap(),
            decision: DecisionId([0; 16]),
            correlation: CorrelationId::parse("c").unwrap(),
        };
        let denial = Denial::new(Code::PermissionDenied, Reason::Evidence, "no");
        let counts: Vec<Option<u32>> = [0, 1, 59, 60, 61]
            .into_iter()
            .map(|s| {
                refusals
                    .record(&at(s), "127.0.0.1", &denial)
                    .map(|r| r.count)
            })
            .collect();
        assert_eq!(counts, [Some(1), None, None, Some(3), None]);
        assert!(refusals.record(&at(61), "127.0.0.2", &denial).is_some());
        for i in 0..2 * SOURCES {
            refusals.record(&at(61), &format!("source {i}"), &denial);
        }
        assert!(refusals.open.lock().unwrap().len() <= SOURCES);
    }
}
