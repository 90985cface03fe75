//! Refusals, folded: equal ones of one source are one record a minute, so that nobody can fill the log by being refused.

use std::{collections::HashMap, time::Duration};

use attesta_model::{DecisionId, Denial, Record, Request};
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
    decision: DecisionId,
}

/// What a refusal is written down as.
pub(crate) struct Folded {
    /// The denial, naming the record that stands for it: its own, or that of its like within the last minute.
    pub(crate) denial: Denial,
    /// Its own record, where it has one.
    pub(crate) record: Option<Record>,
}

impl Refusals {
    /// Folds a refusal: an equal one within the last minute stands for it, and the next record counts it.
    pub(crate) fn fold(&self, request: &Request, source: &str, denial: Denial) -> Folded {
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
                return Folded {
                    denial: denial.with_decision(o.decision),
                    record: None,
                };
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
        let decision = request.decision;
        open.insert(
            key,
            Open {
                since: request.at,
                more: 0,
                decision,
            },
        );
        let mut record = Record::denied(request, &denial);
        record.count = folded.saturating_add(1);
        Folded {
            denial: denial.with_decision(decision),
            record: Some(record),
        }
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
                    .fold(&at(s), "127.0.0.1", denial.clone())
                    .record
                    .map(|r| r.count)
            })
            .collect();
        assert_eq!(counts, [Some(1), None, None, Some(3), None]);
        assert!(
            refusals
                .fold(&at(61), "127.0.0.2", denial.clone())
                .record
                .is_some()
        );
        for i in 0..2 * SOURCES {
            drop(refusals.fold(&at(61), &format!("source {i}"), denial.clone()));
        }
        assert!(refusals.open.lock().unwrap().len() <= SOURCES);
    }
}
