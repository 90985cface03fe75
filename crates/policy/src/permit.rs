//! Leave to do one thing. It must not know how it was decided; only `Policies::decide` makes one.

use std::sync::Arc;

use attesta_model::{Action, Outcome};
use attesta_spiffe::SpiffeId;
use jiff::Timestamp;

use crate::Want;

/// Leave to do one thing once. It cannot be made, copied or cloned outside this room, and is consumed by use:
///
/// ```
/// fn once(permit: attesta_policy::Permit) -> attesta_policy::Spent {
///     permit.spend()
/// }
/// ```
///
/// It is not spent twice:
/// ```compile_fail,E0382
/// fn twice(permit: attesta_policy::Permit) -> (attesta_policy::Spent, attesta_policy::Spent) {
///     (permit.spend(), permit.spend())
/// }
/// ```
///
/// It is not cloned:
/// ```compile_fail,E0599
/// fn two(permit: &attesta_policy::Permit) -> attesta_policy::Permit {
///     permit.clone()
/// }
/// ```
///
/// It is not made by hand:
/// ```compile_fail,E0451
/// fn forge(other: attesta_policy::Permit) -> attesta_policy::Permit {
///     attesta_policy::Permit { subject: None, ..other }
/// }
/// ```
#[must_use = "a permit that is not used is a decision that nobody recorded"]
#[derive(Debug)]
pub struct Permit {
    action: Action,
    subject: Option<SpiffeId>,
    want: Want,
    at: Timestamp,
    digest: Arc<str>,
    policies: Vec<String>,
}

impl Permit {
    pub(crate) fn new(
        action: Action,
        subject: Option<SpiffeId>,
        want: Want,
        at: Timestamp,
        digest: Arc<str>,
        policies: Vec<String>,
    ) -> Self {
        Self {
            action,
            subject,
            want,
            at,
            digest,
            policies,
        }
    }

    /// What was asked.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// The SPIFFE ID it is about, where it is about one.
    #[must_use]
    pub fn subject(&self) -> Option<&SpiffeId> {
        self.subject.as_ref()
    }

    /// The credential it allows.
    #[must_use]
    pub fn want(&self) -> &Want {
        &self.want
    }

    /// When it was asked.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// What its record says: the set's digest and the policies that allowed it, by id, sorted.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome::Permitted {
            policy_digest: self.digest.as_ref().to_owned(),
            policies: self.policies.clone(),
        }
    }

    /// Uses it up; what is left is plain data.
    #[must_use]
    pub fn spend(self) -> Spent {
        Spent {
            action: self.action,
            subject: self.subject,
            want: self.want,
            at: self.at,
        }
    }
}

/// A permit that was used: plain data, which allows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// What was asked.
    pub action: Action,
    /// The SPIFFE ID it is about.
    pub subject: Option<SpiffeId>,
    /// The credential.
    pub want: Want,
    /// When it was asked.
    pub at: Timestamp,
}
