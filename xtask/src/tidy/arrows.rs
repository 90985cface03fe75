//! The arrows between rooms: the table in ARCHITECTURE.md against what cargo knows, both ways.
//!
//! Only what the library or binary itself depends on counts; tests may look anywhere.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata};

use super::Text;

const PAGE: &str = "ARCHITECTURE.md";
const OPEN: &str = "<!-- arrows -->";
const CLOSE: &str = "<!-- /arrows -->";
const ARROW: char = '\u{2190}';

/// Room to the rooms it may use, with the line that says so.
type Table<'a> = BTreeMap<&'a str, (usize, BTreeSet<&'a str>)>;
type Rooms = BTreeMap<String, BTreeSet<String>>;

pub(super) fn check(metadata: &Metadata, texts: &[Text]) -> Vec<String> {
    match texts.iter().find(|text| text.path == PAGE) {
        Some(page) => compare(&page.words, &rooms(metadata)),
        None => vec![format!("{PAGE}:1: missing; it holds the arrows")],
    }
}

/// A room is a folder in `crates/`.
fn rooms(metadata: &Metadata) -> Rooms {
    let crates = metadata.workspace_root.join("crates");
    let mut rooms = Rooms::new();
    for package in &metadata.packages {
        let Some(room) = package
            .manifest_path
            .parent()
            .and_then(|folder| folder.strip_prefix(&crates).ok())
        else {
            continue;
        };
        let uses = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == DependencyKind::Normal)
            .filter_map(|dependency| dependency.path.as_ref()?.strip_prefix(&crates).ok())
            .map(ToString::to_string)
            .collect();
        rooms.insert(room.to_string(), uses);
    }
    rooms
}

fn compare(page: &str, rooms: &Rooms) -> Vec<String> {
    let (table, mut findings) = read(page);
    for (room, (line, written)) in &table {
        let Some(real) = rooms.get(*room) else {
            findings.push(format!("{PAGE}:{line}: there is no room '{room}'"));
            continue;
        };
        for surplus in written.iter().filter(|used| !real.contains(**used)) {
            findings.push(format!(
                "{PAGE}:{line}: '{room}' does not depend on '{surplus}'; take it out of the line"
            ));
        }
        for missing in real.iter().filter(|used| !written.contains(used.as_str())) {
            findings.push(format!(
                "{PAGE}:{line}: '{room}' depends on '{missing}', which the line does not allow"
            ));
        }
    }
    for (room, real) in rooms {
        if !table.contains_key(room.as_str()) {
            let uses: Vec<_> = real.iter().map(String::as_str).collect();
            findings.push(format!(
                "{PAGE}: no line '{room} {ARROW} {}'",
                uses.join(" ")
            ));
        }
    }
    findings
}

fn read(page: &str) -> (Table<'_>, Vec<String>) {
    let mut table = Table::new();
    let mut findings = Vec::new();
    let mut inside = false;
    let mut seen = false;
    for (number, line) in (1..).zip(page.lines()) {
        let line = line.trim();
        if line == OPEN {
            (inside, seen) = (true, true);
        } else if line == CLOSE {
            inside = false;
        } else if inside && !line.is_empty() && !line.starts_with("```") {
            let Some((room, uses)) = line.split_once(ARROW) else {
                findings.push(format!("{PAGE}:{number}: not a line 'room {ARROW} a b c'"));
                continue;
            };
            let entry = (number, uses.split_whitespace().collect());
            if table.insert(room.trim(), entry).is_some() {
                findings.push(format!(
                    "{PAGE}:{number}: a second line for '{}'",
                    room.trim()
                ));
            }
        }
    }
    if !seen || inside {
        findings.push(format!(
            "{PAGE}:1: the arrows stand between {OPEN} and {CLOSE}"
        ));
    }
    (table, findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_tree_must_agree() {
        let rooms: Rooms = [("a", vec![]), ("b", vec!["a"]), ("c", vec!["a", "b"])]
            .into_iter()
            .map(|(room, uses)| {
                (
                    room.to_owned(),
                    uses.into_iter().map(str::to_owned).collect(),
                )
            })
            .collect();
        let check = |lines: &str, expect: &[&str]| {
            let page = format!("# Map\n{OPEN}\n```text\n{lines}\n```\n{CLOSE}\n");
            assert_eq!(compare(&page, &rooms), expect, "{lines}");
        };
        check("a \u{2190}\nb \u{2190} a\nc \u{2190} b a", &[]);
        check(
            "a \u{2190}\nb \u{2190} a c\nc \u{2190} b",
            &[
                "ARCHITECTURE.md:5: 'b' does not depend on 'c'; take it out of the line",
                "ARCHITECTURE.md:6: 'c' depends on 'a', which the line does not allow",
            ],
        );
        check(
            "a \u{2190}\nb \u{2190} a\nb \u{2190} a\nd \u{2190}\nwords",
            &[
                "ARCHITECTURE.md:6: a second line for 'b'",
                "ARCHITECTURE.md:8: not a line 'room \u{2190} a b c'",
                "ARCHITECTURE.md:7: there is no room 'd'",
                "ARCHITECTURE.md: no line 'c \u{2190} a b'",
            ],
        );
        assert!(
            compare("no markers", &Rooms::new())
                .iter()
                .any(|finding| finding.contains("stand between"))
        );
    }
}
