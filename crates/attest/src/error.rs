//! Why an attestation gave no answer; no variant ever carries evidence, so any may be recorded.

use std::{borrow::Cow, fmt, time::Duration};

use attesta_model::{Code, Denial, Reason, fact::FactError};

use crate::PeerError;

/// Why there is no verdict. Texts name the attestor and never repeat a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// The evidence or an answer cannot be read.
    #[error("{attestor}: {what}")]
    Malformed {
        /// Which attestor.
        attestor: &'static str,
        /// What is wrong with it.
        what: Cow<'static, str>,
    },
    /// The evidence was read and proves nothing.
    #[error("{attestor}: {why}")]
    Refused {
        /// Which attestor.
        attestor: &'static str,
        /// Which proof failed.
        why: Cow<'static, str>,
    },
    /// No attestor of that name is switched on.
    #[error("could not find node attestor type {name:?}; switched on: {known}")]
    Unknown {
        /// The name that came, made printable.
        name: String,
        /// The names that would have been understood.
        known: String,
    },
    /// The attestor itself could not do its work; the same evidence may be good later.
    #[error("{attestor}: {why}")]
    Failed {
        /// Which attestor.
        attestor: &'static str,
        /// What failed.
        why: Cow<'static, str>,
    },
    /// One workload attestor or several gave no answer, so there is none: a shorter list of facts
    /// would be another caller.
    #[error("workload attestation failed: {}", Listed(.0))]
    Incomplete(Vec<Failure>),
    /// The process on the other end of the socket cannot be described.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// What an attestor saw cannot be facts.
    #[error("{attestor}: {source}")]
    Facts {
        /// Which attestor.
        attestor: &'static str,
        /// What is wrong with them.
        source: FactError,
    },
    /// An attestor's settings do not work; found when the process starts.
    #[error("{attestor}: {setting}: {why}; {hint}")]
    Setting {
        /// Which attestor.
        attestor: &'static str,
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it.
        why: String,
        /// The way out.
        hint: Cow<'static, str>,
    },
}

/// One workload attestor that gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which attestor.
    pub attestor: &'static str,
    /// Why.
    pub why: String,
}

impl Failure {
    pub(crate) fn late(attestor: &'static str, deadline: Duration) -> Self {
        Self {
            attestor,
            why: format!("gave no answer within {} ms", deadline.as_millis()),
        }
    }
}

struct Listed<'a>(&'a [Failure]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, failure) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {}", failure.attestor, failure.why)?;
        }
        Ok(())
    }
}

impl AttestError {
    pub(crate) fn malformed(attestor: &'static str, what: impl Into<Cow<'static, str>>) -> Self {
        Self::Malformed {
            attestor,
            what: what.into(),
        }
    }

    pub(crate) fn refused(attestor: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused {
            attestor,
            why: why.into(),
        }
    }

    pub(crate) fn failed(attestor: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Failed {
            attestor,
            why: why.into(),
        }
    }
}

impl From<AttestError> for Denial {
    /// Malformed evidence is `InvalidArgument`, a failed proof `PermissionDenied`, an unknown
    /// attestor `FailedPrecondition` (as SPIRE has it), and whatever may go better later
    /// `Unavailable`.
    fn from(e: AttestError) -> Self {
        let message = e.to_string();
        match e {
            AttestError::Malformed { attestor, .. } => {
                Self::new(Code::InvalidArgument, Reason::Evidence, message).with_rule(attestor)
            }
            AttestError::Refused { attestor, .. } => {
                Self::new(Code::PermissionDenied, Reason::Evidence, message).with_rule(attestor)
            }
            AttestError::Facts { attestor, .. } => {
                Self::new(Code::PermissionDenied, Reason::Evidence, message).with_rule(attestor)
            }
            AttestError::Unknown { .. } => {
                Self::new(Code::FailedPrecondition, Reason::Unsupported, message)
            }
            AttestError::Failed { attestor, .. } => {
                Self::new(Code::Unavailable, Reason::NotReady, message).with_rule(attestor)
            }
            AttestError::Incomplete(_) => Self::new(Code::Unavailable, Reason::NotReady, message),
            AttestError::Peer(PeerError::Unreadable { .. } | PeerError::Socket(_)) => {
                Self::new(Code::Unavailable, Reason::NotReady, message)
            }
            AttestError::Peer(_) => Self::new(Code::PermissionDenied, Reason::NotAttested, message),
            AttestError::Setting { attestor, .. } => {
                Self::new(Code::Internal, Reason::NotReady, message).with_rule(attestor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_code() {
        let failure = |why: &str| Failure {
            attestor: "unix",
            why: why.to_owned(),
        };
        for (error, code) in [
            (
                AttestError::malformed("x509pop", "no JSON"),
                Code::InvalidArgument,
            ),
            (
                AttestError::refused("x509pop", "wrong key"),
                Code::PermissionDenied,
            ),
            (AttestError::failed("unix", "no memory"), Code::Unavailable),
            (
                AttestError::Incomplete(vec![failure("late")]),
                Code::Unavailable,
            ),
            (AttestError::Peer(PeerError::Gone), Code::PermissionDenied),
            (
                AttestError::Unknown {
                    name: "aws_iid".into(),
                    known: "join_token".into(),
                },
                Code::FailedPrecondition,
            ),
        ] {
            assert_eq!(Denial::from(error.clone()).code, code, "{error}");
        }
        let all = AttestError::Incomplete(vec![failure("a"), failure("b")]);
        assert_eq!(
            all.to_string(),
            "workload attestation failed: unix: a, unix: b"
        );
    }
}
