//! How foreign text may appear in our errors: escaped, and short.

/// The longest piece of foreign text that an error repeats, in characters.
const MAX_SHOWN: usize = 64;

/// A copy that is safe to print: printable ASCII only, at most [`MAX_SHOWN`] characters of the
/// original, with a mark where it was cut.
pub(crate) fn shown(foreign: &str) -> String {
    let mut chars = foreign.chars();
    let mut out: String = chars
        .by_ref()
        .take(MAX_SHOWN)
        .flat_map(char::escape_default)
        .collect();
    if chars.next().is_some() {
        out.push_str("...");
    }
    out
}
