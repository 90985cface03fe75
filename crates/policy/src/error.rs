//! What can be wrong with policies as they are written, or with a record that is to be replayed. Refusals of requests
//! are not here: those are `model::Denial`.

use std::fmt;

/// Where a policy stands: a file's name as the caller gave it, and the line and column of its first character, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Why a set of policies, or a record, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The text is no Cedar policy. Templates (`?principal`) are none either.
    #[error("{place}: {why}")]
    Syntax {
        /// Where.
        place: Place,
        /// Cedar's own sentence.
        why: String,
    },
    /// A policy without `@id("...")`: a refusal could not name it.
    #[error("{place}: the policy has no @id(\"...\"); refusals and records name policies by it")]
    NoId {
        /// Where.
        place: Place,
    },
    /// An id outside 1 to 128 of `A-Z a-z 0-9 - _ . /`.
    #[error("{place}: @id({id:?}) is not 1 to 128 of A-Z a-z 0-9 - _ . /")]
    BadId {
        /// Where.
        place: Place,
        /// The id, bounded and printable.
        id: String,
    },
    /// Two policies of one id.
    #[error("{place}: @id({id:?}) is already that of the policy at {first}")]
    Duplicate {
        /// Where the second stands.
        place: Place,
        /// The id.
        id: String,
        /// Where the first stands.
        first: Place,
    },
    /// The policy is Cedar, but not over our schema: an unknown attribute, action or type, or an unguarded optional one.
    #[error("{place}: policy {id}: {why}")]
    Invalid {
        /// Where.
        place: Place,
        /// The policy.
        id: String,
        /// Cedar's own sentence.
        why: String,
    },
    /// A text over a bound of [`crate::Policies`].
    #[error("{place}: {what}")]
    TooLarge {
        /// Where.
        place: Place,
        /// Which bound, with its value.
        what: String,
    },
    /// The schema of this program does not parse, or does not go with the code.
    #[error("built-in policy schema: {0}")]
    Schema(String),
    /// The bytes are no record of ours.
    #[error("record: {0}")]
    Record(String),
    /// The record is not one of a policy's decision: something was noted, or refused before policy was asked.
    #[error("the record is not a policy's decision: {0}")]
    NotDecided(String),
    /// A policy reads what the record does not carry, so the decision cannot be repeated.
    #[error("the record does not carry {}, which policies for this action read", .0.join(", "))]
    Incomplete(Vec<String>),
}
