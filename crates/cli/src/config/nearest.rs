//! The known name that an unknown one was probably meant to be.

/// The nearest of `known` by edits (a change, an insertion, a removal, a swap of neighbours), if it is near enough to
/// be meant: a third of the name's length.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let (edits, best) = known
        .into_iter()
        .map(|candidate| (edits(name, candidate), candidate))
        .min()?;
    (edits <= (name.chars().count() / 3).max(1)).then_some(best)
}

/// Damerau and Levenshtein's distance, neighbours swapped at most once. Names are short, so quadratic is fine.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut two_above: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (row, from) in a.chars().enumerate() {
        let mut line = vec![row + 1];
        for (column, to) in b.iter().enumerate() {
            let at =
                |line: &[usize], column: usize| line.get(column).copied().unwrap_or(usize::MAX - 1);
            let change = at(&above, column) + usize::from(from != *to);
            let mut best = change
                .min(at(&above, column + 1) + 1)
                .min(at(&line, column) + 1);
            let before = column.checked_sub(1).and_then(|c| b.get(c));
            if column > 0 && before == Some(&from) && previous == Some(*to) {
                best = best.min(at(&two_above, column - 1) + 1);
            }
            line.push(best);
        }
        two_above = std::mem::replace(&mut above, line);
        previous = Some(from);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_enough_to_be_meant() {
        let known = ["trust_domain", "data_dir", "listen", "ca_ttl"];
        for (name, expect) in [
            ("trust_domian", Some("trust_domain")),
            ("trustdomain", Some("trust_domain")),
            ("data-dir", Some("data_dir")),
            ("lisen", Some("listen")),
            ("ca_tll", Some("ca_ttl")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), expect, "{name}");
        }
        assert_eq!(edits("ab", "ba"), 1);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
