//! Workload attestors: what is true of a process that connected.
//!
//! They know the process and nothing else: no entry, no node, no policy. All are asked together;
//! one that fails makes the whole answer fail, because fewer facts would be another caller.

mod executable;
pub mod unix;

use std::{sync::Arc, time::Duration};

use attesta_model::{Fact, Facts};
use futures::future::{BoxFuture, join_all};

use crate::{AttestError, Failure, Peer};

/// Every workload attestor there is. A new one is a file and a line here.
pub const WORKLOAD_ATTESTORS: &[WorkloadPlugin] = &[unix::PLUGIN];

/// One line of [`WORKLOAD_ATTESTORS`].
#[derive(Clone, Copy, Debug)]
pub struct WorkloadPlugin {
    /// The attestor's name, which is the namespace of its facts.
    pub name: &'static str,
    /// Builds it from its part of the settings; none where it is switched off.
    pub build: fn(&WorkloadSettings) -> Option<Arc<dyn WorkloadAttestor>>,
}

/// The settings of all workload attestors; one without its part is switched off.
#[derive(Clone, Debug, Default)]
pub struct WorkloadSettings {
    /// `unix`.
    pub unix: Option<unix::Settings>,
}

/// Says what is true of a process.
pub trait WorkloadAttestor: Send + Sync {
    /// Its name, which is the namespace of its facts.
    fn name(&self) -> &'static str;

    /// Everything it can prove of the peer. What it cannot prove for a lasting reason is left out
    /// with a note; what fails otherwise is an error. Must not block its thread.
    fn attest<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, Result<Sighting, AttestError>>;
}

/// What one attestor saw.
#[derive(Clone, Debug, Default)]
pub struct Sighting {
    /// What stays true for as long as the process is the same.
    pub facts: Vec<Fact>,
    /// What may change without the process doing anything, such as its parent.
    pub changing: Vec<Fact>,
    /// What is left out, and why.
    pub notes: Vec<Note>,
}

/// A fact that is left out: for the operator's `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// `namespace.key` of what is missing.
    pub fact: String,
    /// Why. May carry a name from outside; printable.
    pub why: String,
}

/// What all attestors saw of one process.
#[derive(Clone, Debug)]
pub struct Observed {
    /// All facts, for matching and policy.
    pub facts: Facts,
    /// What is left out, and why.
    pub notes: Vec<Note>,
    stable: Facts,
}

impl Observed {
    /// The facts over which a holding's digest is made: without those that change by themselves.
    #[must_use]
    pub fn digest_facts(&self) -> &Facts {
        &self.stable
    }
}

/// The workload attestors that are switched on.
#[derive(Clone)]
pub struct Workloads(Vec<Arc<dyn WorkloadAttestor>>);

impl Workloads {
    /// Builds those whose settings are there, in the order of [`WORKLOAD_ATTESTORS`].
    #[must_use]
    pub fn new(settings: &WorkloadSettings) -> Self {
        Self(
            WORKLOAD_ATTESTORS
                .iter()
                .filter_map(|plugin| (plugin.build)(settings))
                .collect(),
        )
    }

    /// Exactly these attestors: for attestors that are made elsewhere, and for tests.
    #[must_use]
    pub fn of(attestors: Vec<Arc<dyn WorkloadAttestor>>) -> Self {
        Self(attestors)
    }

    /// The names of those that are switched on.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &'static str> {
        self.0.iter().map(|attestor| attestor.name())
    }

    /// Asks all of them together, each with this deadline. Needs a tokio runtime with time.
    ///
    /// # Errors
    /// The refusal of the first that refuses; else [`AttestError::Incomplete`] with every one that
    /// failed or was late; [`AttestError::Peer`] when the process has ended meanwhile.
    pub async fn attest(&self, peer: &Peer, deadline: Duration) -> Result<Observed, AttestError> {
        let asked = self.0.iter().map(|attestor| async move {
            let name = attestor.name();
            let answer = tokio::time::timeout(deadline, attestor.attest(peer)).await;
            (name, answer.ok())
        });
        let mut failures = Vec::new();
        let (mut stable, mut changing, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        for (name, answer) in join_all(asked).await {
            match answer {
                Some(Ok(sighting)) => {
                    if let Some(fact) = sighting
                        .facts
                        .iter()
                        .chain(&sighting.changing)
                        .find(|f| f.namespace() != name)
                    {
                        let why = format!("gave a fact of {}", fact.namespace());
                        failures.push(Failure {
                            attestor: name,
                            why,
                        });
                    }
                    stable.extend(sighting.facts);
                    changing.extend(sighting.changing);
                    notes.extend(sighting.notes);
                }
                Some(Err(AttestError::Failed { why, .. })) => {
                    failures.push(Failure {
                        attestor: name,
                        why: why.into_owned(),
                    });
                }
                Some(Err(refusal)) => return Err(refusal),
                None => failures.push(Failure::late(name, deadline)),
            }
        }
        if !failures.is_empty() {
            return Err(AttestError::Incomplete(failures));
        }
        let facts = |all: Vec<Fact>| {
            Facts::new(all).map_err(|source| AttestError::Facts {
                attestor: "workload",
                source,
            })
        };
        let all = stable.iter().cloned().chain(changing).collect();
        Ok(Observed {
            facts: facts(all)?,
            stable: facts(stable)?,
            notes,
        })
    }
}

impl std::fmt::Debug for Workloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// An attestor that does as it is told.
    struct Told(&'static str, fn() -> Result<Sighting, AttestError>, bool);

    impl WorkloadAttestor for Told {
        fn name(&self) -> &'static str {
            self.0
        }

        fn attest<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Sighting, AttestError>> {
            Box::pin(async {
                if self.2 {
                    std::future::pending::<()>().await;
                }
                (self.1)()
            })
        }
    }

    fn one(namespace: &str, key: &str) -> Vec<Fact> {
        vec![Fact::new(namespace, key, ["1"]).unwrap()]
    }

    async fn ask(attestors: Vec<Told>) -> Result<Observed, AttestError> {
        let (socket, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&socket).unwrap();
        let attestors = attestors
            .into_iter()
            .map(|a| Arc::new(a) as Arc<dyn WorkloadAttestor>)
            .collect();
        Workloads::of(attestors)
            .attest(&peer, Duration::from_millis(30))
            .await
    }

    #[tokio::test]
    async fn facts_of_all_are_joined_and_changing_ones_stay_out_of_the_digest() {
        let a = Told(
            "a",
            || {
                Ok(Sighting {
                    facts: one("a", "x"),
                    changing: one("a", "y"),
                    notes: vec![],
                })
            },
            false,
        );
        let b = Told(
            "b",
            || {
                Ok(Sighting {
                    facts: one("b", "x"),
                    ..Sighting::default()
                })
            },
            false,
        );
        let seen = ask(vec![a, b]).await.unwrap();
        assert_eq!(
            seen.facts.selectors().iter().collect::<Vec<_>>(),
            ["a:x:1", "a:y:1", "b:x:1"]
        );
        assert_eq!(
            seen.digest_facts().selectors().iter().collect::<Vec<_>>(),
            ["a:x:1", "b:x:1"]
        );
    }

    #[tokio::test]
    async fn one_that_fails_fails_all_and_is_named() {
        let good = || {
            Told(
                "good",
                || {
                    Ok(Sighting {
                        facts: one("good", "x"),
                        ..Sighting::default()
                    })
                },
                false,
            )
        };
        let failed = Told(
            "failed",
            || Err(AttestError::failed("failed", "no disk")),
            false,
        );
        let late = Told("late", || Ok(Sighting::default()), true);
        let liar = Told(
            "liar",
            || {
                Ok(Sighting {
                    facts: one("unix", "uid"),
                    ..Sighting::default()
                })
            },
            false,
        );
        let error = ask(vec![good(), failed, late, liar]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "workload attestation failed: failed: no disk, late: gave no answer within 30 ms, liar: gave a fact of unix"
        );
        let refused = Told(
            "refused",
            || Err(AttestError::refused("refused", "another user")),
            false,
        );
        assert_eq!(
            ask(vec![good(), refused]).await.unwrap_err(),
            AttestError::refused("refused", "another user")
        );
    }

    #[test]
    fn the_table_builds_what_is_switched_on() {
        assert_eq!(
            Workloads::new(&WorkloadSettings::default()).names().count(),
            0
        );
        let all = WorkloadSettings {
            unix: Some(unix::Settings::default()),
        };
        let built: Vec<_> = Workloads::new(&all).names().collect();
        let table: Vec<_> = WORKLOAD_ATTESTORS.iter().map(|p| p.name).collect();
        assert_eq!(built, table);
    }
}
