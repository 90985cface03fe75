//! The one "no": a code, a sentence, what to do next, and the rule and attribute that failed.

use std::fmt;

use crate::{DecisionId, FieldError};

/// What kind of "no"; the same words as gRPC's status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "gRPC's own words")]
pub enum Code {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    Unauthenticated,
    FailedPrecondition,
    ResourceExhausted,
    Aborted,
    Unavailable,
    Unimplemented,
    DeadlineExceeded,
    Internal,
}

/// Exactly why, for programs and records. New reasons are only added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "each name is its sentence; `as_str` is the stable word"
)]
pub enum Reason {
    /// A field of the request is malformed.
    Field,
    NotFound,
    AlreadyExists,
    NoEntry,
    NotAuthorized,
    Policy,
    PolicyError,
    Template,
    Banned,
    NotAttested,
    NotActive,
    Expired,
    MustReattest,
    TokenUnknown,
    TokenExpired,
    Replay,
    Evidence,
    Clock,
    Ledger,
    Overloaded,
    Stale,
    Signing,
    Unsupported,
    NotReady,
}

impl Reason {
    /// The stable word that records and `--output json` carry.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Field => "field",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::NoEntry => "no_entry",
            Self::NotAuthorized => "not_authorized",
            Self::Policy => "policy",
            Self::PolicyError => "policy_error",
            Self::Template => "template",
            Self::Banned => "banned",
            Self::NotAttested => "not_attested",
            Self::NotActive => "not_active",
            Self::Expired => "expired",
            Self::MustReattest => "must_reattest",
            Self::TokenUnknown => "token_unknown",
            Self::TokenExpired => "token_expired",
            Self::Replay => "replay",
            Self::Evidence => "evidence",
            Self::Clock => "clock",
            Self::Ledger => "ledger",
            Self::Overloaded => "overloaded",
            Self::Stale => "stale",
            Self::Signing => "signing",
            Self::Unsupported => "unsupported",
            Self::NotReady => "not_ready",
        }
    }
}

/// A refusal. The operator reads all of it; a stranger gets [`Denial::public`] and the decision id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What kind.
    pub code: Code,
    /// Exactly why.
    pub reason: Reason,
    /// What was wrong, as a sentence.
    pub message: String,
    /// The rule that refused: a policy's id, an entry's id.
    pub rule: Option<Box<str>>,
    /// The attribute or field that failed.
    pub attribute: Option<Box<str>>,
    /// What to do next.
    pub hint: Option<Box<str>>,
    /// By which the operator finds the record.
    pub decision: Option<DecisionId>,
}

impl Denial {
    /// A denial with its sentence; the rest is added by the `with_` methods.
    #[must_use]
    pub fn new(code: Code, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            rule: None,
            attribute: None,
            hint: None,
            decision: None,
        }
    }

    /// A malformed field.
    #[must_use]
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, Reason::Field, message).with_attribute(field)
    }

    /// Something that is not there.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, Reason::NotFound, message)
    }

    /// Names the rule.
    #[must_use]
    pub fn with_rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into().into_boxed_str());
        self
    }

    /// Names the attribute.
    #[must_use]
    pub fn with_attribute(mut self, attribute: impl Into<String>) -> Self {
        self.attribute = Some(attribute.into().into_boxed_str());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into_boxed_str());
        self
    }

    /// Ties the denial to its record.
    #[must_use]
    pub fn with_decision(mut self, decision: DecisionId) -> Self {
        self.decision = Some(decision);
        self
    }

    /// What a stranger may read: no rule, no attribute.
    #[must_use]
    pub fn public(&self) -> &'static str {
        match self.code {
            Code::InvalidArgument => "invalid request",
            Code::Unavailable | Code::DeadlineExceeded => "temporarily unavailable",
            Code::ResourceExhausted => "too many requests",
            _ => "denied",
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(rule) = &self.rule {
            write!(f, " (rule {rule})")?;
        }
        if let Some(attribute) = &self.attribute {
            write!(f, " (attribute {attribute})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Denial {}

impl From<FieldError> for Denial {
    fn from(e: FieldError) -> Self {
        Self::field(e.field, e.to_string())
    }
}
