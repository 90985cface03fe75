//! How commands answer: results on stdout, what is beside them on stderr, and text from outside made safe.
//!
//! Must not know any command, nor what a server is.

use std::{
    fmt,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use attesta_model::text;
use jiff::Timestamp;
use serde_json::Value;

use crate::failure::{Exit, Failure};

/// Longest line that text from outside may make on a terminal, in bytes.
const LINE: usize = 4096;

/// What was asked was refused, or did not work. Words from outside are made safe here, as in the others.
pub(crate) fn failed(message: impl AsRef<str>) -> Failure {
    Failure::new(Exit::Failed, shown(message.as_ref()))
}

/// The command line, or a file it names, is wrong.
pub(crate) fn usage(message: impl AsRef<str>) -> Failure {
    Failure::new(Exit::Usage, shown(message.as_ref()))
}

/// Nobody answers.
pub(crate) fn unreachable(message: impl AsRef<str>) -> Failure {
    Failure::new(Exit::Unreachable, shown(message.as_ref()))
}

/// A file that cannot be read or written.
pub(crate) fn file(what: &str, path: &Path, error: &io::Error) -> Failure {
    because(failed(format!("cannot {what} {}", path.display())), error)
}

/// The failure with its cause.
pub(crate) fn because(failure: Failure, cause: impl fmt::Display) -> Failure {
    failure.with_details(vec![shown(&cause.to_string())])
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
        self.0.push_str(&format!("{label:<17}: {}\n", shown(value.as_ref())));
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
    if seconds < 0 { format!("{at} ({far} ago)") } else { format!("{at} (in {far})") }
}

/// A duration in its two largest units: `1h 30m`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400, u64::MAX), ("h", 3600, 24), ("m", 60, 60), ("s", 1, 60)];
    let parts = units.iter().map(|(unit, size, wrap)| (unit, (seconds / size) % wrap));
    let shown: Vec<String> =
        parts.skip_while(|(_, n)| *n == 0).take(2).filter(|(_, n)| *n > 0).map(|(unit, n)| format!("{n}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// RFC 3339 in whole seconds from Unix seconds; nothing for 0, which stands for "never" or "not known" on the wire.
pub(crate) fn unix_time(seconds: i64) -> Option<Timestamp> {
    (seconds != 0).then(|| Timestamp::from_second(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, expect) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m 1s"), (3600, "1h"), (3661, "1h 1m"), (86_400, "1d"), (90_000, "1d 1h"), (86_460, "1d"), (864_000, "10d")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), expect, "{seconds}");
        }
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(moment(Timestamp::from_second(1090).unwrap(), now), "1970-01-01T00:18:10Z (in 1m 30s)");
        assert_eq!(moment(Timestamp::from_second(940).unwrap(), now), "1970-01-01T00:15:40Z (1m ago)");
    }

    #[test]
    fn words_from_outside_cannot_break_a_line() {
        let failure = format!("{:?}", because(failed("no answer at /a\u{1b}[31m"), "gone\nERROR: fake"));
        assert!(failure.contains("u{1b}[31m") && failure.contains("u{a}ERROR") && !failure.contains('\u{1b}'), "{failure}");
    }

    #[test]
    fn a_block_is_aligned_and_safe() {
        let mut block = Block::default();
        block.line("Entry ID", "a").some("Hint", "").line("Owner", "x\u{1b}]0;evil\u{7}");
        assert_eq!(block.to_string(), "Entry ID         : a\nOwner            : x\\u{1b}]0;evil\\u{7}\n");
    }
}
