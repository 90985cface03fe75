//! What no compiler checks. Each check gives findings, `file:line: what`; one finding fails.

mod arrows;
mod generated;
mod links;
mod source;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::Workspace;

/// One text file of the tree.
struct Text {
    /// From the root, with `/`.
    path: String,
    words: String,
}

/// Runs all checks and prints all findings.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut paths = Vec::new();
    walk(&workspace.root, &mut paths)?;
    paths.sort();
    let mut texts = Vec::new();
    for path in &paths {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        // What is not UTF-8 is not text.
        if let (Ok(words), Ok(relative)) =
            (String::from_utf8(bytes), path.strip_prefix(&workspace.root))
        {
            texts.push(Text {
                path: relative.to_string_lossy().into_owned(),
                words,
            });
        }
    }

    let mut findings = arrows::check(&workspace.metadata, &texts);
    for text in &texts {
        findings.extend(source::check(text));
        findings.extend(words::check(text));
        findings.extend(links::check(text, |target| {
            workspace.root.join(target).exists()
        }));
    }
    findings.extend(generated::check(&texts)?);

    for finding in &findings {
        println!("    {finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    println!("    tidy: {} files", texts.len());
    Ok(())
}

/// All files but what git or a tool keeps for itself.
fn walk(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let name = entry.file_name();
        let kind = entry.file_type().context("cannot read a file's type")?;
        if kind.is_dir() {
            if name != ".git" && name != "target" && name != "node_modules" {
                walk(&entry.path(), paths)?;
            }
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
    Ok(())
}
