//! From text to policies with names and places. It must not know what policies mean; it bounds what Cedar's parser and
//! evaluator, which recurse, are given.

use std::collections::HashMap;

use attesta_model::text;
use cedar_policy::{Policy, PolicyId};

use crate::{Place, PolicyError};

/// Longest file, in bytes.
pub(crate) const FILE_BYTES: usize = 1024 * 1024;
/// Most policies of a set.
pub(crate) const POLICIES: usize = 10_000;
/// Longest policy, in bytes.
pub(crate) const POLICY_BYTES: usize = 64 * 1024;
/// Deepest nesting of brackets in one policy.
pub(crate) const NESTING: usize = 16;
/// Most operators and `if`s in one policy: a chain of them nests as brackets do.
pub(crate) const OPERATORS: usize = 64;
/// Most dots and indexes in one policy. A chain of them nests too, but no type of the schema is deeper than two.
pub(crate) const DOTS: usize = 256;

/// One policy with its place.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) id: String,
    pub(crate) place: Place,
    pub(crate) text: String,
    pub(crate) policy: Policy,
}

/// Every policy of these texts, sorted by id.
pub(crate) fn statements(texts: &[(&str, &str)]) -> Result<Vec<Statement>, PolicyError> {
    let mut all: Vec<Statement> = Vec::new();
    let mut places: HashMap<String, Place> = HashMap::new();
    for (file, source) in texts {
        for (place, source) in split(file, source)? {
            let statement = parse(place, source)?;
            if let Some(first) = places.insert(statement.id.clone(), statement.place.clone()) {
                return Err(PolicyError::Duplicate {
                    place: statement.place,
                    id: statement.id,
                    first,
                });
            }
            if all.len() >= POLICIES {
                let what = format!("more than {POLICIES} policies");
                return Err(PolicyError::TooLarge {
                    place: statement.place,
                    what,
                });
            }
            all.push(statement);
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

fn parse(place: Place, source: &str) -> Result<Statement, PolicyError> {
    // What reads otherwise than it stands: controls, and marks that reorder text.
    if source
        .chars()
        .any(|c| text::is_unsafe(c) && !matches!(c, '\n' | '\r' | '\t'))
    {
        return Err(PolicyError::Syntax {
            place,
            why: "the policy carries a control or bidirectional character".to_owned(),
        });
    }
    let policy = match Policy::parse(None, source) {
        Ok(policy) => policy,
        Err(e) => {
            return Err(PolicyError::Syntax {
                place,
                why: text::printable(&e.to_string()),
            });
        }
    };
    let Some(id) = policy.annotation("id").map(str::to_owned) else {
        return Err(PolicyError::NoId { place });
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if id.is_empty() || id.len() > 128 || !id.chars().all(plain) {
        return Err(PolicyError::BadId {
            place,
            id: text::bounded(&id, 128),
        });
    }
    let policy = policy.new_id(PolicyId::new(&id));
    Ok(Statement {
        id,
        place,
        text: source.to_owned(),
        policy,
    })
}

/// Splits a file at the semicolons that end policies. Cedar parses each part as exactly one policy, so a wrong split
/// could only be a refusal.
fn split<'t>(file: &str, source: &'t str) -> Result<Vec<(Place, &'t str)>, PolicyError> {
    let place = |line, column| Place {
        file: text::bounded(file, 256),
        line,
        column,
    };
    if source.len() > FILE_BYTES {
        return Err(PolicyError::TooLarge {
            place: place(1, 1),
            what: format!("the file is longer than {FILE_BYTES} bytes"),
        });
    }
    let mut parts = Vec::new();
    let mut open: Option<Open> = None;
    let (mut line, mut column) = (1, 0);
    let mut inside = Inside::Code;
    let mut before = ' ';
    let mut chars = source.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        column += 1;
        match inside {
            Inside::Comment if c == '\n' => inside = Inside::Code,
            Inside::Comment => {}
            Inside::Text if c == '\\' => inside = Inside::Escape,
            Inside::Text if c == '"' => inside = Inside::Code,
            Inside::Text => {}
            Inside::Escape => inside = Inside::Text,
            Inside::Code if c == '/' && chars.peek().is_some_and(|(_, next)| *next == '/') => {
                inside = Inside::Comment
            }
            Inside::Code if c.is_whitespace() => {}
            Inside::Code => {
                let policy = open.get_or_insert_with(|| Open {
                    start: at,
                    place: place(line, column),
                    depth: 0,
                    operators: 0,
                    dots: 0,
                });
                if c == '"' {
                    inside = Inside::Text;
                }
                let next = chars.peek().map_or(' ', |(_, next)| *next);
                policy.count(before, c, next, at)?;
                if c == ';'
                    && let Some(done) = open.take()
                {
                    parts.push((done.place, source.get(done.start..=at).unwrap_or_default()));
                }
            }
        }
        before = c;
        if c == '\n' {
            (line, column) = (line + 1, 0);
        }
    }
    // Without its semicolon: Cedar says so, better than we could.
    if let Some(rest) = open {
        parts.push((rest.place, source.get(rest.start..).unwrap_or_default()));
    }
    Ok(parts)
}

/// What follows a policy's scope: its conditions and the semicolon. `None` for what is no policy.
pub(crate) fn conditions(policy: &str) -> Option<&str> {
    let mut inside = Inside::Code;
    let (mut depth, mut before, mut annotation) = (0_usize, ' ', false);
    let mut chars = policy.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match inside {
            Inside::Code if c == '/' && chars.peek().is_some_and(|(_, next)| *next == '/') => {
                inside = Inside::Comment
            }
            Inside::Code if c == '"' => inside = Inside::Text,
            Inside::Code if c.is_whitespace() => {}
            Inside::Code => {
                match c {
                    // `@name("value")`, or `permit (...)`.
                    '@' if depth == 0 => annotation = true,
                    '(' => depth += 1,
                    ')' => {
                        depth = depth.saturating_sub(1);
                        if depth == 0 && !annotation {
                            return policy.get(at + 1..);
                        }
                    }
                    // A word that no `@` stands before is the effect; an annotation's value is optional.
                    _ if depth == 0 && !is_word(before) && before != '@' => annotation = false,
                    _ => {}
                }
                before = c;
                continue;
            }
            Inside::Comment if c == '\n' => inside = Inside::Code,
            Inside::Text if c == '\\' => inside = Inside::Escape,
            Inside::Text if c == '"' => inside = Inside::Code,
            Inside::Escape => inside = Inside::Text,
            Inside::Comment | Inside::Text => {}
        }
        // A space between two words ends the first; one after an `@` does not.
        if before != '@' {
            before = ' ';
        }
    }
    None
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[derive(Clone, Copy)]
enum Inside {
    Code,
    Text,
    Escape,
    Comment,
}

/// A policy that has begun.
struct Open {
    start: usize,
    place: Place,
    depth: usize,
    operators: usize,
    dots: usize,
}

impl Open {
    fn count(&mut self, before: char, c: char, next: char, at: usize) -> Result<(), PolicyError> {
        match c {
            '(' | '[' | '{' => self.depth += 1,
            ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
            // Each of `&&` and `||` once.
            '&' | '|' if before == c => self.operators += 1,
            '+' | '-' | '*' | '!' => self.operators += 1,
            '.' => self.dots += 1,
            'i' if next == 'f' && !is_word(before) => self.operators += 1,
            _ => {}
        }
        // An index is a link as a dot is.
        if c == '[' && (is_word(before) || matches!(before, ')' | ']' | '}')) {
            self.dots += 1;
        }
        let what = if at - self.start > POLICY_BYTES {
            format!("the policy is longer than {POLICY_BYTES} bytes")
        } else if self.depth > NESTING {
            format!("the policy nests brackets deeper than {NESTING}")
        } else if self.operators > OPERATORS {
            format!("the policy has more than {OPERATORS} operators; write several policies")
        } else if self.dots > DOTS {
            format!("the policy has more than {DOTS} dots and indexes; write several policies")
        } else {
            return Ok(());
        };
        Err(PolicyError::TooLarge {
            place: self.place.clone(),
            what,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_scope() {
        for (head, tail) in [
            ("permit (principal, action, resource)", ";"),
            (
                r#"@id("a)(") @permit @x ("permit (") forbid(principal, action in [A::"(", B::"\")"], resource)"#,
                " when { (true) };",
            ),
            (
                "// ) (\n@ id (\"a\") permit // (\n (principal, action, resource)",
                " unless { false };",
            ),
            ("@id(\"a\")@b permit(principal, action, resource)", ";"),
        ] {
            assert_eq!(conditions(&format!("{head}{tail}")), Some(tail), "{head}");
        }
        for none in ["", "permit", "@id(\"a\")", "permit (principal, \")"] {
            assert_eq!(conditions(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_bare_means_the_same() {
        let text = "@id(\"a\")\n@note permit // (\n (principal, action, resource) when { 1 == 2 };";
        let all = statements(&[("f", text)]).unwrap();
        assert_eq!(
            all.first().map(|s| (s.id.as_str(), conditions(&s.text))),
            Some(("a", Some(" when { 1 == 2 };")))
        );
    }
}
