//! Why a command ends with something else than 0, and how that is told.
//!
//! Must not know any command.

use std::{fmt, io::Write, process::ExitCode};

use crate::args::Output;

/// The exit codes, as `--help` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was refused, or it failed.
    Failed = 1,
    /// The command line or the configuration is wrong: the same call fails again.
    Usage = 2,
    /// Nobody answers: no server, no agent.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with its exit code and the way out. Any other error of a command ends it with [`Exit::Failed`].
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    details: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), details: Vec::new(), hint: None }
    }

    /// One line each below the error.
    pub(crate) fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// What to do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Tells of the error on stderr and gives the exit code.
pub(crate) fn report(error: &anyhow::Error, output: Output) -> ExitCode {
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    let exit = failure.map_or(Exit::Failed, |failure| failure.exit);
    let text = match output {
        Output::Text => text(error, failure),
        Output::Json => json(error, failure, exit),
    };
    // With stderr gone the exit code still tells.
    drop(std::io::stderr().write_all(text.as_bytes()));
    exit.into()
}

fn text(error: &anyhow::Error, failure: Option<&Failure>) -> String {
    let mut lines = vec![format!("error: {error}")];
    lines.extend(causes(error, failure).into_iter().map(|cause| format!("cause: {cause}")));
    lines.extend(failure.and_then(|f| f.hint.as_ref()).map(|hint| format!("hint: {hint}")));
    lines.iter().map(|line| line.to_owned() + "\n").collect()
}

fn json(error: &anyhow::Error, failure: Option<&Failure>, exit: Exit) -> String {
    let value = serde_json::json!({
        "error": error.to_string(),
        "causes": causes(error, failure),
        "hint": failure.and_then(|f| f.hint.as_ref()),
        "exit": exit as u8,
    });
    format!("{value}\n")
}

/// What lies below the error; a cause that only repeats what stands above it (a transparent error) is left out.
fn causes(error: &anyhow::Error, failure: Option<&Failure>) -> Vec<String> {
    let mut above = error.to_string();
    let mut causes = Vec::new();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !above.contains(&cause) {
            causes.push(cause.clone());
        }
        above = cause;
    }
    causes.extend(failure.map(|f| f.details.clone()).unwrap_or_default());
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_first_line_causes_and_a_way_out() {
        let failure = Failure::new(Exit::Usage, "bad file").with_details(vec!["a.toml:1: x".to_owned()]).with_hint("fix it");
        let error = anyhow::Error::new(failure).context("starting");
        let failure = error.downcast_ref::<Failure>();
        assert_eq!(text(&error, failure), "error: starting\ncause: bad file\ncause: a.toml:1: x\nhint: fix it\n");
        let json: serde_json::Value = serde_json::from_str(&json(&error, failure, Exit::Usage)).unwrap();
        assert_eq!(json["exit"], 2);
        assert_eq!(json["causes"][0], "bad file");
        let plain = anyhow::anyhow!("a: b").context("a: b");
        assert_eq!(text(&plain, None), "error: a: b\n");
    }
}
