//! Generated files are checked in; here is the table of them, and each must be what its generator makes now.

use std::{
    ffi::OsString,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::Text;

/// Path from the root, and what makes it. A new generated file is one line here.
const FILES: &[(&str, Generate)] = &[
    ("docs/cli.md", || attesta(&["docs", "cli"])),
    ("docs/configuration.md", || {
        attesta(&["config", "reference"])
    }),
];

type Generate = fn() -> Result<String>;

/// What the product itself prints.
fn attesta(arguments: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let output = Command::new(cargo)
        .current_dir(root)
        .args(["run", "--quiet", "--locked", "-p", "attesta-cli", "--"])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "`attesta {}` failed",
        arguments.join(" ")
    );
    Ok(String::from_utf8(output.stdout)?)
}

pub(super) fn check(texts: &[Text]) -> Result<Vec<String>> {
    compare(FILES, texts)
}

fn compare(files: &[(&str, Generate)], texts: &[Text]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (path, generate) in files {
        let now = generate().with_context(|| format!("cannot generate {path}"))?;
        match texts.iter().find(|text| text.path == *path) {
            None => findings.push(format!("{path}:1: generated, but not checked in")),
            Some(text) => {
                let mut pairs = (1..).zip(text.words.lines().zip(now.lines()));
                let line = pairs
                    .find(|(_, (old, new))| old != new)
                    .map(|(line, _)| line);
                if text.words != now {
                    let line =
                        line.unwrap_or_else(|| text.words.lines().count().min(now.lines().count()));
                    findings.push(format!(
                        "{path}:{line}: is not what its generator makes now"
                    ));
                }
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_current() {
        let text = |path: &str, words: &str| Text {
            path: path.to_owned(),
            words: words.to_owned(),
        };
        let files: &[(&str, Generate)] = &[("a.md", || Ok("one\ntwo\n".to_owned()))];
        let check = |words: &str| compare(files, &[text("a.md", words)]).unwrap();
        assert!(check("one\ntwo\n").is_empty());
        assert!(check("one\n2\n")[0].starts_with("a.md:2:"));
        assert!(check("one\n")[0].starts_with("a.md:1:"));
        assert!(compare(files, &[]).unwrap()[0].contains("not checked in"));
    }
}
