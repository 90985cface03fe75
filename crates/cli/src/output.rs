//! How commands answer: results on stdout, errors on stderr, and the exit code. Text from outside is made safe here.
//!
//! Must not know any command, nor what a server is. The exit codes are part of the interface: 0 all is well, 1 refused
//! or failed, 2 wrong use or configuration, 3 nobody there to ask.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use attesta_model::text;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::Output;

/// Longest line that text from outside may make on a terminal, in bytes.
const LINE: usize = 4096;

/// How a command failed, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Refused, or an item of a batch was.
    Failed = 1,
    /// The command line or the configuration is wrong: the same call fails again.
    Usage = 2,
    /// There is no server or agent to ask.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure that knows its exit code and the way out. Any other error counts as [`Exit::Failed`].
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    cause: Option<String>,
    hint: Option<String>,
    code: Option<&'static str>,
    decision: Option<String>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            cause: None,
            hint: None,
            code: None,
            decision: None,
        }
    }

    /// What was asked was refused, or did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The command line or a file it names is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Nobody answers there.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::failed(format!("cannot {what} {}", path.display())).with_cause(error)
    }

    /// Says why.
    pub(crate) fn with_cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Says what to do next.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The word of gRPC's code, for programs.
    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// By which the refusal's record is found.
    pub(crate) fn with_decision(mut self, decision: Option<String>) -> Self {
        self.decision = decision;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

/// Writes an error to stderr and gives the exit code. A reader that closed stdout early is no error worth a word.
pub(crate) fn report(error: &anyhow::Error, output: Output) -> ExitCode {
    if error.chain().any(|e| {
        e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    }) {
        return Exit::Failed.into();
    }
    note(rendered(error, output));
    failure_in(error).map_or(Exit::Failed, |f| f.exit).into()
}

fn failure_in(error: &anyhow::Error) -> Option<&Failure> {
    error.chain().find_map(|e| e.downcast_ref())
}

fn rendered(error: &anyhow::Error, output: Output) -> String {
    let failure = failure_in(error);
    let message = shown(&error.to_string());
    let mut causes: Vec<String> = Vec::new();
    for cause in error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .chain(failure.and_then(|f| f.cause.clone()))
    {
        let cause = shown(&cause);
        // A transparent error only repeats what stands above it.
        if !causes.last().unwrap_or(&message).contains(&cause) {
            causes.push(cause);
        }
    }
    let hint = failure.and_then(|f| f.hint.as_deref()).map(shown);
    let decision = failure.and_then(|f| f.decision.as_deref()).map(shown);
    match output {
        Output::Text => {
            let mut lines = vec![format!("error: {message}")];
            lines.extend(causes.iter().map(|c| format!("cause: {c}")));
            lines.extend(hint.map(|h| format!("hint: {h}")));
            lines.extend(
                decision.map(|d| {
                    format!("hint: an administrator finds it with: attesta audit show {d}")
                }),
            );
            lines.join("\n")
        }
        Output::Json => json!({
            "error": message,
            "code": failure.and_then(|f| f.code),
            "causes": causes,
            "hint": hint,
            "decision_id": decision,
            "exit_code": failure.map_or(Exit::Failed, |f| f.exit) as u8,
        })
        .to_string(),
    }
}

/// Writes text to stdout as it is; what came from outside went through [`shown`] before.
pub(crate) fn say(words: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{words}")?;
    out.flush()
}

/// Writes one JSON value to stdout, on one line.
pub(crate) fn emit(value: &Value) -> io::Result<()> {
    say(value)
}

/// Writes bytes to stdout, and nothing else.
pub(crate) fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Tells a person something beside the result, on stderr.
pub(crate) fn note(words: impl fmt::Display) {
    // A closed stderr leaves nobody to tell.
    drop(writeln!(io::stderr().lock(), "{words}"));
}

/// Text from outside, safe on a terminal.
pub(crate) fn shown(words: &str) -> String {
    text::bounded(words, LINE)
}

/// A block of `label : value` lines, aligned; text from outside is made safe here.
#[derive(Debug, Default)]
pub(crate) struct Block(String);

impl Block {
    /// One line.
    pub(crate) fn line(&mut self, label: &str, value: impl AsRef<str>) -> &mut Self {
        self.0
            .push_str(&format!("{label:<17}: {}\n", shown(value.as_ref())));
        self
    }

    /// One line that is not cut, however long it is.
    pub(crate) fn whole(&mut self, label: &str, value: &str) -> &mut Self {
        self.0.push_str(&format!(
            "{label:<17}: {}\n",
            text::bounded(value, usize::MAX)
        ));
        self
    }

    /// One line, unless there is nothing to say.
    pub(crate) fn some(&mut self, label: &str, value: impl AsRef<str>) -> &mut Self {
        if !value.as_ref().is_empty() {
            self.line(label, value);
        }
        self
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A time and how far it is from now: `2026-01-02T03:04:05Z (in 59m 2s)`.
pub(crate) fn moment(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.as_second().saturating_sub(now.as_second());
    let far = span(Duration::from_secs(seconds.unsigned_abs()));
    // Whole seconds: nobody reads the rest.
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
    if seconds < 0 {
        format!("{at} ({far} ago)")
    } else {
        format!("{at} (in {far})")
    }
}

/// A duration in its two largest units: `1h 30m`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [
        ("d", 86_400, u64::MAX),
        ("h", 3600, 24),
        ("m", 60, 60),
        ("s", 1, 60),
    ];
    let parts = units
        .iter()
        .map(|(unit, size, wrap)| (unit, (seconds / size) % wrap));
    let shown: Vec<String> = parts
        .skip_while(|(_, n)| *n == 0)
        .take(2)
        .filter(|(_, n)| *n > 0)
        .map(|(unit, n)| format!("{n}{unit}"))
        .collect();
    if shown.is_empty() {
        "0s".to_owned()
    } else {
        shown.join(" ")
    }
}

/// RFC 3339 in whole seconds from Unix seconds; nothing for 0, which stands for "never" or "not known" on the wire.
pub(crate) fn unix_time(seconds: i64) -> Option<Timestamp> {
    (seconds != 0)
        .then(|| Timestamp::from_second(seconds).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, expect) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m 1s"),
            (3600, "1h"),
            (3661, "1h 1m"),
            (86_400, "1d"),
            (90_000, "1d 1h"),
            (86_460, "1d"),
            (864_000, "10d"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expect, "{seconds}");
        }
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(
            moment(Timestamp::from_second(1090).unwrap(), now),
            "1970-01-01T00:18:10Z (in 1m 30s)"
        );
        assert_eq!(
            moment(Timestamp::from_second(940).unwrap(), now),
            "1970-01-01T00:15:40Z (1m ago)"
        );
    }

    #[test]
    fn errors_say_cause_and_hint_and_cannot_break_a_line() {
        let failure = Failure::unreachable("no answer at /a\u{1b}[31m")
            .with_cause("gone\nERROR: fake")
            .with_hint("is it running?");
        let error = anyhow::Error::from(failure);
        let text = rendered(&error, Output::Text);
        assert_eq!(
            text,
            "error: no answer at /a\\u{1b}[31m\ncause: gone\\u{a}ERROR: fake\nhint: is it running?"
        );
        let value: Value = serde_json::from_str(&rendered(&error, Output::Json)).unwrap();
        assert_eq!(
            (value["exit_code"].as_u64(), value["hint"].as_str()),
            (Some(3), Some("is it running?"))
        );
        let plain = anyhow::anyhow!("inner").context("outer");
        assert_eq!(rendered(&plain, Output::Text), "error: outer\ncause: inner");
        let twice = anyhow::anyhow!("a: b").context("a: b");
        assert_eq!(rendered(&twice, Output::Text), "error: a: b");
        let refused = Failure::failed("no")
            .with_code("PermissionDenied")
            .with_decision(Some("01".to_owned()))
            .into();
        assert!(rendered(&refused, Output::Text).ends_with("attesta audit show 01"));
    }

    #[test]
    fn a_block_is_aligned_and_safe() {
        let mut block = Block::default();
        block
            .line("Entry ID", "a")
            .some("Hint", "")
            .line("Owner", "x\u{1b}]0;evil\u{7}");
        assert_eq!(
            block.to_string(),
            "Entry ID         : a\nOwner            : x\\u{1b}]0;evil\\u{7}\n"
        );
    }
}
