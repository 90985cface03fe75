//! Links between the pages: each relative link in a Markdown file must lead to a file of the tree.

use super::Text;

pub(super) fn check(text: &Text, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.path.ends_with(".md") {
        return findings;
    }
    let folder = text.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut fenced = false;
    for (number, line) in (1..).zip(text.words.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in targets(line) {
            let inside = resolve(folder, target).is_some_and(|path| exists(&path));
            if !inside {
                findings.push(format!("{}:{number}: no such file: {target}", text.path));
            }
        }
    }
    findings
}

/// The relative targets of `[words](target)` outside of code spans, without anchor and title.
fn targets(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    // Every second piece between backticks is code.
    for words in line.split('`').step_by(2) {
        for piece in words.split("](").skip(1) {
            let target = piece.split([')', ' ', '#']).next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !elsewhere {
                targets.push(target);
            }
        }
    }
    targets
}

/// The path from the root; nothing when it leads out of the tree.
fn resolve(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let folder = if target.starts_with('/') { "" } else { folder };
    for part in folder.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        let case = |words: &str, expect: usize| {
            let text = Text {
                path: "docs/a.md".to_owned(),
                words: words.to_owned(),
            };
            let exists = |path: &str| ["README.md", "docs/b.md", "docs"].contains(&path);
            assert_eq!(check(&text, exists).len(), expect, "{words}");
        };
        case(
            "[b](b.md) and [top](../README.md#start), [t](/README.md)",
            0,
        );
        case("[titled](b.md \"B\") [anchor](#here) [f](./)", 0);
        case("[web](https://example.org/x) [m](mailto:a@b)", 0);
        case("[gone](c.md) [b](b.md) [gone](../d.md)", 2);
        case("[out](../../README.md)", 1);
        case("`[code](c.md)`\n```\n[fenced](c.md)\n```\n[gone](c.md)", 1);
    }
}
