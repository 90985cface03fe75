//! PEM (RFC 7468), written.
//!
//! Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Characters of a line (RFC 7468 section 2).
const LINE: usize = 64;

/// One block, with its final line feed.
pub(in crate::ask) fn encode(label: &str, der: &[u8]) -> String {
    let mut out = String::with_capacity(der.len() * 3 / 2 + 2 * label.len() + 64);
    write(label, der, &mut out);
    out
}

/// One block that is wiped when it is dropped.
pub(super) fn secret(label: &str, der: &[u8]) -> Zeroizing<String> {
    // Room for all of it: a string that grows leaves copies behind.
    let mut out = Zeroizing::new(String::with_capacity(
        der.len() * 3 / 2 + 2 * label.len() + 64,
    ));
    write(label, der, &mut out);
    out
}

fn write(label: &str, der: &[u8], out: &mut String) {
    let body = Zeroizing::new(STANDARD.encode(der));
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    for (i, c) in body.chars().enumerate() {
        if i > 0 && i % LINE == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.push_str("\n-----END ");
    out.push_str(label);
    out.push_str("-----\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_64_characters() {
        let text = encode("CERTIFICATE", &[0; 49]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            (lines[0], lines[1].len(), lines[2].len(), lines[3]),
            (
                "-----BEGIN CERTIFICATE-----",
                64,
                4,
                "-----END CERTIFICATE-----"
            )
        );
        assert_eq!(encode("A", &[0; 48]).lines().count(), 3);
        assert_eq!(*secret("A", &[1, 2, 3]), encode("A", &[1, 2, 3]));
        assert!(
            secret("PRIVATE KEY", &[7; 2000]).capacity() < 3100,
            "did not grow"
        );
    }
}
