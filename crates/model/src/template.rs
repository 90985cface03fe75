//! Id templates: `spiffe://acme.com/ns/{k8s.ns}/sa/{k8s.sa}`: one entry serves any number of workloads.
//!
//! A missing fact, a fact with several values, an empty segment or a character outside the SPIFFE path alphabet
//! is a refusal, never a repair (DESIGN section 9). Two facts never share a segment.

use std::{fmt, sync::Arc};

use attesta_spiffe::{SpiffeId, TrustDomain};

use crate::{Code, Denial, Facts, Reason, text};

/// A parsed template. It has at least one fact, and stays inside one trust domain outside `/spire`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Template {
    text: Arc<str>,
    trust_domain: TrustDomain,
    segments: Arc<[Segment]>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Plain(Box<str>),
    Fact {
        before: Box<str>,
        namespace: Box<str>,
        key: Box<str>,
        after: Box<str>,
    },
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It does not begin with `spiffe://` and a trust domain.
    #[error("template must begin with spiffe://TRUST-DOMAIN/")]
    Scheme,
    /// The trust domain is malformed or templated.
    #[error("template's trust domain: {0}")]
    TrustDomain(String),
    /// A brace without its partner, or nested.
    #[error("template has an unbalanced brace in segment {0:?}")]
    Brace(String),
    /// Two facts in one segment: `x-y` + `z` and `x` + `y-z` would be one name.
    #[error("template has two facts in segment {0:?}; each needs a segment of its own")]
    TwoFacts(String),
    /// Not `namespace.key`.
    #[error("template names fact {0:?}; write it {{namespace.key}}")]
    FactName(String),
    /// A fixed part outside the SPIFFE path alphabet.
    #[error("template segment {segment:?}: {why}")]
    Segment {
        /// The segment.
        segment: String,
        /// What is wrong with it.
        why: String,
    },
    /// The first segment is reserved or not fixed.
    #[error("template must begin with a fixed segment other than `spire`")]
    Reserved,
    /// No fact at all.
    #[error("template names no fact; write a plain SPIFFE ID instead")]
    NoFact,
}

impl Template {
    /// Whether this text wants to be a template.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.contains(['{', '}'])
    }

    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError`] names the segment.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or(TemplateError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(TemplateError::Scheme)?;
        let trust_domain =
            TrustDomain::parse(domain).map_err(|e| TemplateError::TrustDomain(e.to_string()))?;
        let segments = path
            .split('/')
            .map(Segment::parse)
            .collect::<Result<Vec<_>, _>>()?;
        match segments.first() {
            Some(Segment::Plain(first)) if first.as_ref() != "spire" => {}
            _ => return Err(TemplateError::Reserved),
        }
        if !segments.iter().any(|s| matches!(s, Segment::Fact { .. })) {
            return Err(TemplateError::NoFact);
        }
        Ok(Self {
            text: text.into(),
            trust_domain,
            segments: segments.into(),
        })
    }

    /// The template as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The facts it reads, as `namespace.key`.
    pub fn facts(&self) -> impl Iterator<Item = String> + '_ {
        self.segments.iter().filter_map(|s| match s {
            Segment::Fact { namespace, key, .. } => Some(format!("{namespace}.{key}")),
            Segment::Plain(_) => None,
        })
    }

    /// The id these facts give.
    ///
    /// # Errors
    /// A [`Denial`] that names the fact and what is wrong with it.
    pub fn expand(&self, facts: &Facts) -> Result<SpiffeId, Denial> {
        let mut path = String::new();
        for segment in self.segments.iter() {
            path.push('/');
            match segment {
                Segment::Plain(plain) => path.push_str(plain),
                Segment::Fact {
                    before,
                    namespace,
                    key,
                    after,
                } => {
                    let name = format!("{namespace}.{key}");
                    let refuse = |why: String| {
                        Denial::new(Code::PermissionDenied, Reason::Template, why)
                            .with_rule(self.text.as_ref())
                            .with_attribute(&name)
                    };
                    let fact = facts.find(namespace, key).ok_or_else(|| {
                        refuse(format!(
                            "the template needs fact {name}, which was not attested"
                        ))
                    })?;
                    let value = fact.single().ok_or_else(|| {
                        refuse(format!(
                            "the template needs one value of fact {name}; it has {}",
                            fact.values().len()
                        ))
                    })?;
                    attesta_spiffe::check_segment(value).map_err(|e| {
                        refuse(format!(
                            "fact {name} = {:?} cannot be a path segment: {e}",
                            text::bounded(value, 128)
                        ))
                    })?;
                    path.push_str(before);
                    path.push_str(value);
                    path.push_str(after);
                }
            }
        }
        self.trust_domain.with_path(&path).map_err(|e| {
            Denial::new(
                Code::PermissionDenied,
                Reason::Template,
                format!("the expanded id is no SPIFFE ID: {e}"),
            )
            .with_rule(self.text.as_ref())
        })
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        let bad = |why: String| TemplateError::Segment {
            segment: text::bounded(text, 128),
            why,
        };
        let Some((before, rest)) = text.split_once('{') else {
            if text.contains('}') {
                return Err(TemplateError::Brace(text::bounded(text, 128)));
            }
            attesta_spiffe::check_segment(text).map_err(|e| bad(e.to_string()))?;
            return Ok(Self::Plain(text.into()));
        };
        let (name, after) = rest
            .split_once('}')
            .ok_or_else(|| TemplateError::Brace(text::bounded(text, 128)))?;
        if after.contains('{') {
            return Err(TemplateError::TwoFacts(text::bounded(text, 128)));
        }
        if before.contains('}') || name.contains('{') || after.contains('}') {
            return Err(TemplateError::Brace(text::bounded(text, 128)));
        }
        let fact = || TemplateError::FactName(text::bounded(name, 128));
        let (namespace, key) = name.split_once('.').ok_or_else(fact)?;
        crate::Fact::new(namespace, key, ["x"]).map_err(|_| fact())?;
        // The fixed parts are checked with a stand-in between them, since `.` alone would be a bad segment.
        attesta_spiffe::check_segment(&format!("{before}x{after}"))
            .map_err(|e| bad(e.to_string()))?;
        Ok(Self::Fact {
            before: before.into(),
            namespace: namespace.into(),
            key: key.into(),
            after: after.into(),
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fact;

    fn facts(values: &[(&str, &str, &[&str])]) -> Facts {
        Facts::new(
            values
                .iter()
                .map(|(ns, key, v)| Fact::new(ns, key, v.iter()).unwrap()),
        )
        .unwrap()
    }

    #[test]
    fn templates_expand_or_refuse() {
        let t = Template::parse("spiffe://acme.com/ns/{k8s.ns}/sa/{k8s.sa}").unwrap();
        let check = |values: &[(&str, &str, &[&str])], expect: Result<&str, &str>| match (
            t.expand(&facts(values)),
            expect,
        ) {
            (Ok(id), Ok(e)) => assert_eq!(id.as_str(), e),
            (Err(d), Err(attribute)) => assert_eq!(d.attribute.as_deref(), Some(attribute), "{d}"),
            (got, expect) => panic!("{got:?} is not {expect:?}"),
        };
        check(
            &[("k8s", "ns", &["prod"]), ("k8s", "sa", &["web"])],
            Ok("spiffe://acme.com/ns/prod/sa/web"),
        );
        check(&[("k8s", "ns", &["prod"])], Err("k8s.sa"));
        check(
            &[("k8s", "ns", &["a", "b"]), ("k8s", "sa", &["web"])],
            Err("k8s.ns"),
        );
        for evil in ["..", ".", "a/b", "a%2fb", "é", "a b", "\u{202e}x", "a{b}"] {
            check(
                &[("k8s", "ns", &[evil]), ("k8s", "sa", &["web"])],
                Err("k8s.ns"),
            );
        }
    }

    #[test]
    fn what_is_no_template() {
        for bad in [
            "acme.com/{a.b}",
            "spiffe://acme.com",
            "spiffe://{a.b}/x",
            "spiffe://acme.com/{a.b}",
            "spiffe://acme.com/spire/{a.b}",
            "spiffe://acme.com/x/{a.b}-{c.d}",
            "spiffe://acme.com/x/{a.b",
            "spiffe://acme.com/x/a.b}",
            "spiffe://acme.com/x/{ab}",
            "spiffe://acme.com/x/{{a.b}}",
            "spiffe://acme.com/x//{a.b}",
            "spiffe://acme.com/x/../{a.b}",
            "spiffe://acme.com/x/y",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
