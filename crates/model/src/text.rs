//! Text from outside on its way into records, errors and terminals: bounded, and unable to break a line.

use crate::limits;

/// Makes free text safe to keep and to print: control characters and bidirectional overrides are escaped,
/// and what is longer than [`limits::TEXT_BYTES`] ends in an ellipsis.
#[must_use]
pub fn printable(text: &str) -> String {
    bounded(text, limits::TEXT_BYTES)
}

/// [`printable`] with a bound of the caller's, in bytes of output.
#[must_use]
pub fn bounded(text: &str, bound: usize) -> String {
    let mut out = String::with_capacity(text.len().min(bound));
    for c in text.chars() {
        let before = out.len();
        if is_unsafe(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        if out.len() > bound {
            out.truncate(before);
            out.push('…');
            break;
        }
    }
    out
}

/// Control characters, line and paragraph separators, and the marks that reorder text on a terminal.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_and_lines_cannot_pass() {
        for (input, expect) in [
            ("plain", "plain"),
            ("a\nb", "a\\u{a}b"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("abc\u{202e}cba", "abc\\u{202e}cba"),
            ("naïve", "naïve"),
        ] {
            assert_eq!(printable(input), expect);
        }
        assert!(printable(&"x".repeat(10_000)).len() <= limits::TEXT_BYTES + '…'.len_utf8());
    }
}
