//! When authorities are prepared, activated and retired: arithmetic on their times, in SPIRE's proportions.
//!
//! Prepare the next at `not_after - min(lifetime/2, 30 d)`; activate it at `not_after - min(lifetime/6, 7 d)`, and never
//! before readers had time to see it in the bundle (C125); drop an old one a day after it ended.

use std::time::Duration;

use attesta_model::{AuthorityKey, AuthorityState, KeyAlgorithm, KeyId, KeyKind, Snapshot};
use jiff::Timestamp;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long authorities live and what must pass between publishing and signing.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Lifetime of an authority (SPIRE's `ca_ttl`); default 24 h.
    pub authority: Duration,
    /// Shortest time between the commit of a bundle revision and the first signature by its newest key: the longest poll
    /// and refresh hint. The very first authority is excepted.
    pub propagation: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            authority: DAY,
            propagation: Duration::from_secs(600),
        }
    }
}

impl Lifetimes {
    /// How long before its end the next authority is prepared.
    #[must_use]
    pub fn prepare_before(&self) -> Duration {
        (self.authority / 2).min(30 * DAY)
    }

    /// How long before its end the next authority takes over.
    #[must_use]
    pub fn activate_before(&self) -> Duration {
        (self.authority / 6).min(7 * DAY)
    }

    /// The longest lifetime of an SVID: it must not outlive the authority that is about to be replaced.
    #[must_use]
    pub fn longest_svid(&self) -> Duration {
        self.activate_before()
    }
}

/// One thing that must happen to authorities now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Make a key of this kind. `first` where nothing can sign yet: it starts active.
    Prepare {
        /// What it signs.
        kind: KeyKind,
        /// With what.
        algorithm: KeyAlgorithm,
        /// Whether it is the very first.
        first: bool,
    },
    /// Let the prepared key sign, and retire the active one.
    Activate {
        /// The prepared key.
        prepared: KeyId,
        /// The active one, where there is one.
        active: Option<KeyId>,
    },
    /// Drop an old key from the bundle.
    Retire(KeyId),
}

/// What is due for these kinds, in order. Called again until nothing is.
#[must_use]
pub fn due(
    snapshot: &Snapshot,
    wanted: &[(KeyKind, KeyAlgorithm)],
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Vec<Due> {
    let mut out = Vec::new();
    for &(kind, algorithm) in wanted {
        let mine: Vec<&AuthorityKey> = snapshot
            .authorities()
            .map(AsRef::as_ref)
            .filter(|a| a.kind == kind && a.algorithm == algorithm)
            .collect();
        let newest = |state| {
            mine.iter()
                .filter(|a| a.state == state)
                .max_by_key(|a| a.not_after)
        };
        let (active, prepared) = (
            newest(AuthorityState::Active),
            newest(AuthorityState::Prepared),
        );
        let ends_in = |a: &AuthorityKey| {
            Duration::try_from(a.not_after.duration_since(now)).unwrap_or_default()
        };
        match (active, prepared) {
            (None, None) => out.push(Due::Prepare {
                kind,
                algorithm,
                first: true,
            }),
            (None, Some(next)) => out.push(Due::Activate {
                prepared: next.id.clone(),
                active: None,
            }),
            (Some(current), None) if ends_in(current) <= lifetimes.prepare_before() => {
                out.push(Due::Prepare {
                    kind,
                    algorithm,
                    first: false,
                })
            }
            (Some(current), Some(next)) => {
                let seen = Duration::try_from(now.duration_since(next.published_at))
                    .unwrap_or_default()
                    >= lifetimes.propagation;
                // An active key that has ended signs nothing: waiting any longer helps nobody.
                let ended = ends_in(current).is_zero();
                if ended || (seen && ends_in(current) <= lifetimes.activate_before()) {
                    out.push(Due::Activate {
                        prepared: next.id.clone(),
                        active: Some(current.id.clone()),
                    });
                }
            }
            _ => {}
        }
    }
    // What nobody wants any more, and what ended a day ago.
    let gone = snapshot.authorities().filter(|a| {
        Duration::try_from(now.duration_since(a.not_after)).is_ok_and(|past| past >= DAY)
    });
    out.extend(
        gone.filter(|a| a.state != AuthorityState::Active)
            .map(|a| Due::Retire(a.id.clone())),
    );
    out
}

/// The refresh hint of our bundle: a tenth of the time between preparing and activating, between 1 minute and 1 hour.
#[must_use]
pub fn refresh_hint(lifetimes: &Lifetimes) -> Duration {
    ((lifetimes.prepare_before() - lifetimes.activate_before()) / 10)
        .clamp(Duration::from_secs(60), HOUR)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use attesta_model::{Change, Object, Rarity, Revision, Sealed};
    use attesta_spiffe::TrustDomain;

    use super::*;

    const X: (KeyKind, KeyAlgorithm) = (KeyKind::X509, KeyAlgorithm::EcP256);

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_764_000_000 + hours * 3600).unwrap()
    }

    fn key(name: &str, state: AuthorityState, from: i64, published: i64) -> Change {
        Change::Put(Object::Authority(Arc::new(AuthorityKey {
            id: KeyId::parse(name).unwrap(),
            kind: X.0,
            algorithm: X.1,
            state,
            certificate: None,
            public_key: vec![],
            sealed: Sealed(vec![]),
            not_before: at(from),
            not_after: at(from + 24),
            published_at: at(published),
            tainted: false,
        })))
    }

    fn check(keys: &[Change], now: i64, expect: &[Due]) {
        let mut s = Snapshot::empty(TrustDomain::parse("example.org").unwrap());
        s.apply(keys, Revision(1), &mut Rarity::default());
        assert_eq!(
            due(&s, &[X], &Lifetimes::default(), at(now)),
            expect,
            "at {now} h"
        );
    }

    #[test]
    fn proportions_are_spires() {
        use AuthorityState::{Active, Old, Prepared};
        let id = |n: &str| KeyId::parse(n).unwrap();
        let prepare = |first| Due::Prepare {
            kind: X.0,
            algorithm: X.1,
            first,
        };
        let activate = |p: &str, a: Option<&str>| Due::Activate {
            prepared: id(p),
            active: a.map(id),
        };
        check(&[], 0, &[prepare(true)]);
        check(&[key("a", Active, 0, 0)], 11, &[]);
        check(&[key("a", Active, 0, 0)], 12, &[prepare(false)]);
        check(
            &[key("a", Active, 0, 0), key("b", Prepared, 12, 12)],
            19,
            &[],
        );
        check(
            &[key("a", Active, 0, 0), key("b", Prepared, 12, 12)],
            20,
            &[activate("b", Some("a"))],
        );
        // Prepared too late: readers get their time, unless the active key has ended.
        check(
            &[key("a", Active, 0, 0), key("b", Prepared, 22, 22)],
            22,
            &[],
        );
        check(
            &[key("a", Active, 0, 0), key("b", Prepared, 24, 24)],
            24,
            &[activate("b", Some("a"))],
        );
        check(&[key("b", Prepared, 0, 0)], 1, &[activate("b", None)]);
        check(&[key("a", Old, 0, 0), key("b", Active, 24, 12)], 30, &[]);
        check(
            &[key("a", Old, 0, 0), key("b", Active, 40, 12)],
            48,
            &[Due::Retire(id("a"))],
        );
    }
}
