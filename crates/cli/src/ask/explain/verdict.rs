//! What follows from what the agent sees and what the server sees.
//!
//! Pure.

use std::fmt;

use attesta_wire::proto::attesta::types::v1::Candidate;

/// The end of an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It gets these.
    Matches(Vec<String>),
    /// The server has entries for it that the agent has not heard of.
    NotPropagated(Vec<String>),
    /// The agent still has entries that the server no longer has.
    Withdrawn(Vec<String>),
    /// An entry fits and is refused.
    Refused {
        /// Its SPIFFE ID.
        id: String,
        /// Why.
        why: String,
    },
    /// The nearest entry lacks these selectors.
    Missing {
        /// Its SPIFFE ID.
        id: String,
        /// As `type:value`.
        selectors: Vec<String>,
    },
    /// No entry comes near.
    NoEntry,
}

impl Verdict {
    /// Compares; the server's word counts where there is one, the agent's is what is served meanwhile.
    pub(super) fn of(agent: &[Candidate], server: Option<&[Candidate]>) -> Self {
        let matching = |all: &[Candidate]| -> Vec<Candidate> {
            all.iter().filter(|c| c.matches).cloned().collect()
        };
        let ids = |all: &[Candidate]| all.iter().map(|c| c.spiffe_id.clone()).collect::<Vec<_>>();
        let here = matching(agent);
        if let Some(server) = server {
            let there = matching(server);
            let lacks =
                |all: &[Candidate], c: &Candidate| !all.iter().any(|o| o.entry_id == c.entry_id);
            let ahead: Vec<_> = there.iter().filter(|c| lacks(&here, c)).cloned().collect();
            if here.is_empty() && !ahead.is_empty() {
                return Self::NotPropagated(ids(&ahead));
            }
            // Only the nearest are shown: an entry that is not there at all is withdrawn, one that is refused is refused.
            if !here.is_empty() && there.is_empty() {
                return match server.iter().find(|c| !c.denial.is_empty()) {
                    Some(c) => Self::Refused {
                        id: c.spiffe_id.clone(),
                        why: c.denial.clone(),
                    },
                    None => Self::Withdrawn(ids(&here)),
                };
            }
        }
        if !here.is_empty() {
            return Self::Matches(ids(&here));
        }
        let nearest = || server.into_iter().flatten().chain(agent);
        if let Some(c) = nearest()
            .find(|c| c.missing_selectors.is_empty() && !(c.denial.is_empty() && c.note.is_empty()))
        {
            let why = if c.denial.is_empty() {
                &c.note
            } else {
                &c.denial
            };
            return Self::Refused {
                id: c.spiffe_id.clone(),
                why: why.clone(),
            };
        }
        match nearest().find(|c| !c.missing_selectors.is_empty()) {
            Some(c) => Self::Missing {
                id: c.spiffe_id.clone(),
                selectors: c.missing_selectors.clone(),
            },
            None => Self::NoEntry,
        }
    }

    /// The stable word of `--output json`.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Matches(_) => "matches",
            Self::NotPropagated(_) => "not_propagated",
            Self::Withdrawn(_) => "withdrawn",
            Self::Refused { .. } => "refused",
            Self::Missing { .. } => "missing_selectors",
            Self::NoEntry => "no_entry",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matches(ids) => write!(f, "it is entitled to {}", ids.join(", ")),
            Self::NotPropagated(ids) => {
                write!(f, "not propagated yet: the server has an entry for it ({}), the agent has not heard of it; try again in a moment", ids.join(", "))
            }
            Self::Withdrawn(ids) => {
                write!(f, "not propagated yet: the agent still has an entry for it ({}) that the server no longer has", ids.join(", "))
            }
            Self::Refused { id, why } => write!(f, "it would be {id}, but is refused: {why}"),
            Self::Missing { id, selectors } => write!(f, "no entry matches; the nearest ({id}) asks for {}", selectors.join(", ")),
            Self::NoEntry => f.write_str("no entry comes near; create one with: attesta entry create --spiffe-id … --selector …"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let c = |id: &str, missing: &[&str], denial: &str| Candidate {
            entry_id: id.to_owned(),
            spiffe_id: format!("spiffe://td/{id}"),
            matches: missing.is_empty() && denial.is_empty(),
            missing_selectors: missing.iter().map(|s| (*s).to_owned()).collect(),
            denial: denial.to_owned(),
            ..Default::default()
        };
        let fits = c("a", &[], "");
        let lacks = c("a", &["unix:uid:0"], "");
        let refused = c("a", &[], "policy forbade");
        for (agent, server, expect) in [
            (vec![fits.clone()], None, "matches"),
            (vec![fits.clone()], Some(vec![fits.clone()]), "matches"),
            (vec![], Some(vec![fits.clone()]), "not_propagated"),
            (
                vec![lacks.clone()],
                Some(vec![fits.clone(), lacks.clone()]),
                "not_propagated",
            ),
            (vec![fits.clone()], Some(vec![]), "withdrawn"),
            (vec![fits.clone()], Some(vec![refused.clone()]), "refused"),
            (vec![refused.clone()], None, "refused"),
            (
                vec![lacks.clone()],
                Some(vec![lacks.clone()]),
                "missing_selectors",
            ),
            (vec![], Some(vec![lacks]), "missing_selectors"),
            (vec![], Some(vec![]), "no_entry"),
            (vec![], None, "no_entry"),
        ] {
            let verdict = Verdict::of(&agent, server.as_deref());
            assert_eq!(verdict.word(), expect, "{agent:?} {server:?}");
        }
        assert!(
            Verdict::of(&[], Some(&[fits]))
                .to_string()
                .contains("not propagated yet")
        );
    }
}
