//! The shape of Rust files: their length, their first line, their name.

use super::Text;

/// Lines without tests; STYLE aims at half of it.
const LONGEST: usize = 800;

pub(super) fn check(text: &Text) -> Vec<String> {
    let path = text.path.as_str();
    let mut findings = Vec::new();
    if !path.ends_with(".rs") {
        return findings;
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    if name == "mod.rs" {
        findings.push(format!("{path}:1: a module is 'foo.rs' beside 'foo/'"));
    }
    if name != "tests.rs" && !path.contains("/tests/") {
        let lines = text
            .words
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]")
            .count();
        if lines > LONGEST {
            findings.push(format!(
                "{path}:{LONGEST}: {lines} lines without tests; a file is one noun"
            ));
        }
    }
    let first = text.words.lines().find(|line| !line.trim().is_empty());
    if must_say(path) && !first.is_some_and(|line| line.starts_with("//!")) {
        findings.push(format!(
            "{path}:1: must open with '//!': what it is and what it must not know"
        ));
    }
    findings
}

/// Whether the file must open with its own description.
fn must_say(path: &str) -> bool {
    path.starts_with("xtask/") || (path.starts_with("crates/") && path.contains("/src/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let case = |path: &str, words: &str, expect: &[&str]| {
            let findings = check(&Text {
                path: path.to_owned(),
                words: words.to_owned(),
            });
            assert_eq!(findings.len(), expect.len(), "{path}: {findings:?}");
            for (finding, expect) in findings.iter().zip(expect) {
                assert!(finding.contains(expect), "{finding}");
            }
        };
        let long = format!("//! Long.\n{}", "// x\n".repeat(LONGEST));
        let tested = format!("//! Tested.\n#[cfg(test)]\n{}", "// x\n".repeat(LONGEST));
        case("crates/a/src/b.rs", "//! Fine.\n", &[]);
        case("crates/a/src/b.rs", "\n// no\n", &["must open"]);
        case("crates/a/src/b.rs", "", &["must open"]);
        case("crates/a/tests/b.rs", "use a;\n", &[]);
        case("crates/a/src/b/mod.rs", "//! B.\n", &["beside"]);
        case("crates/a/src/b.rs", &long, &["801 lines"]);
        case("crates/a/src/b.rs", &tested, &[]);
        case("crates/a/src/b/tests.rs", &long, &[]);
        case("crates/a/tests/c.rs", &long, &[]);
        case("README.md", &long, &[]);
    }
}
