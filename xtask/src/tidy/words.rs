//! Words that must stand in no file: paths of a machine, hosts of package registries.

use super::Text;

/// In two halves, so that this file is not its own finding.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("/wor", "k/", "a path of one machine"),
    ("/roo", "t/", "a path of one machine"),
    ("static.", "crates.io", "a registry's host"),
    ("index.", "crates.io", "a registry's host"),
    ("pypi", ".org", "a registry's host"),
    ("pythonhosted", ".org", "a registry's host"),
    ("registry.npm", "js.org", "a registry's host"),
    ("proxy.gol", "ang.org", "a registry's host"),
    ("sum.gol", "ang.org", "a registry's host"),
];

pub(super) fn check(text: &Text) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.words.lines()) {
        for (front, back, what) in FORBIDDEN {
            let word = format!("{front}{back}");
            if line.match_indices(&word).any(|(at, _)| starts(line, at)) {
                findings.push(format!("{}:{number}: '{word}' is {what}", text.path));
            }
        }
    }
    findings
}

/// Whether a word begins there: inside a longer path it is a folder's name, not the machine's.
fn starts(line: &str, at: usize) -> bool {
    !line
        .get(..at)
        .and_then(|before| before.chars().next_back())
        .is_some_and(|before| before.is_alphanumeric() || "-_.".contains(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let case = |line: String, expect: usize| {
            let text = Text {
                path: "a.md".to_owned(),
                words: line,
            };
            assert_eq!(check(&text).len(), expect, "{}", text.words);
        };
        for (front, back, _) in FORBIDDEN {
            case(format!("see {front}{back}x"), 1);
            case(format!("see docs{front}{back}x"), 0);
        }
        case("plain words".to_owned(), 0);
    }
}
