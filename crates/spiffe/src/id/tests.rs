//! Tables for C001 to C020: what is a SPIFFE ID, and where exactly what is not goes wrong.

use super::*;

fn check(input: &str, expect: Result<(&str, &str), IdError>) {
    let got = SpiffeId::parse(input);
    match (got, expect) {
        (Ok(id), Ok((name, path))) => {
            assert_eq!(id.trust_domain_name(), name, "{input:?}");
            assert_eq!(id.path(), path, "{input:?}");
            assert_eq!(id.as_str(), format!("spiffe://{name}{path}"), "{input:?}");
            assert_eq!(id.has_path(), !path.is_empty(), "{input:?}");
            assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        }
        (got, expect) => assert_eq!(got.err(), expect.err(), "{input:?}"),
    }
}

fn domain_char(found: char, at: usize) -> Result<(&'static str, &'static str), IdError> {
    Err(IdError::TrustDomainChar { found, at })
}

fn path_char(found: char, at: usize) -> Result<(&'static str, &'static str), IdError> {
    Err(IdError::PathChar { found, at })
}

#[test]
fn c001_scheme() {
    check("spiffe://example.org/a", Ok(("example.org", "/a")));
    check("SPIFFE://example.org/a", Ok(("example.org", "/a")));
    check("sPiFfE://example.org", Ok(("example.org", "")));
    for input in [
        "http://example.org/a",
        "spiffe:/example.org",
        "spiffe:example.org",
        "spiffes://example.org",
        " spiffe://example.org",
        "//example.org",
        "example.org",
        "spiff\u{e9}://example.org",
    ] {
        check(input, Err(IdError::Scheme));
    }
    check("", Err(IdError::Empty));
}

#[test]
fn c002_trust_domain_present() {
    check("spiffe://", Err(IdError::TrustDomainEmpty));
    check("spiffe:///path", Err(IdError::TrustDomainEmpty));
}

#[test]
fn c003_no_query_c004_no_fragment() {
    check("spiffe://td?q", domain_char('?', 2));
    check("spiffe://td#f", domain_char('#', 2));
    check("spiffe://td/p?q=1", path_char('?', 2));
    check("spiffe://td/p#f", path_char('#', 2));
    check("spiffe://td/p?", path_char('?', 2));
    check("spiffe://td/p#", path_char('#', 2));
}

#[test]
fn c005_no_userinfo_c006_no_port() {
    check("spiffe://user@td/p", domain_char('@', 4));
    check("spiffe://user:pw@td/p", domain_char(':', 4));
    check("spiffe://td:8080/p", domain_char(':', 2));
    check("spiffe://td:/p", domain_char(':', 2));
    check("spiffe://@td/p", domain_char('@', 0));
}

#[test]
fn c007_c008_c009_host_alphabet() {
    check("spiffe://Td/p", domain_char('T', 0));
    check("spiffe://tD/p", domain_char('D', 1));
    check("spiffe://t%41/p", domain_char('%', 1));
    check("spiffe://t\u{e4}/p", domain_char('\u{e4}', 1));
    check("spiffe://t\u{0}/p", domain_char('\0', 1));
    check("spiffe://t d/p", domain_char(' ', 1));
    check("spiffe://t\\d/p", domain_char('\\', 1));
    check("spiffe://a-b_c.d0/p", Ok(("a-b_c.d0", "/p")));
    check("spiffe://-._/p", Ok(("-._", "/p")));
    for byte in 0u8..128 {
        let c = char::from(byte);
        let ok = c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        assert_eq!(
            TrustDomain::parse(&format!("x{c}x")).is_ok(),
            ok,
            "character {c:?}"
        );
    }
}

#[test]
fn c010_c011_addresses_are_names() {
    check("spiffe://192.0.2.1/p", Ok(("192.0.2.1", "/p")));
    check("spiffe://999.1/p", Ok(("999.1", "/p")));
    check("spiffe://[2001:db8::1]/p", domain_char('[', 0));
}

#[test]
fn c012_c015_path_alphabet() {
    check("spiffe://td/a%20b", path_char('%', 2));
    check("spiffe://td/a%2fb", path_char('%', 2));
    check("spiffe://td/A-b_C.9", Ok(("td", "/A-b_C.9")));
    check("spiffe://td/a\u{1b}[31m", path_char('\u{1b}', 2));
    check("spiffe://td/a/\u{202e}b", path_char('\u{202e}', 3));
    check("spiffe://td/a b", path_char(' ', 2));
    check("spiffe://td/a:b", path_char(':', 2));
    check("spiffe://td/a\n", path_char('\n', 2));
    for byte in 0u8..128 {
        let c = char::from(byte);
        let ok = c.is_ascii_alphanumeric() || "-._".contains(c);
        assert_eq!(
            check_segment(&format!("x{c}x")).is_ok(),
            ok,
            "character {c:?}"
        );
    }
}

#[test]
fn c013_c014_segments() {
    check("spiffe://td/", Err(IdError::TrailingSlash));
    check("spiffe://td/a/", Err(IdError::TrailingSlash));
    check("spiffe://td//", Err(IdError::TrailingSlash));
    check("spiffe://td//a", Err(IdError::EmptySegment { at: 1 }));
    check("spiffe://td/a//b", Err(IdError::EmptySegment { at: 3 }));
    check("spiffe://td/a//", Err(IdError::TrailingSlash));
    check("spiffe://td/.", Err(IdError::DotSegment { at: 1 }));
    check("spiffe://td/a/../b", Err(IdError::DotSegment { at: 3 }));
    check("spiffe://td/a/./b", Err(IdError::DotSegment { at: 3 }));
    check("spiffe://td/...", Ok(("td", "/...")));
    check("spiffe://td/.a/a./..a", Ok(("td", "/.a/a./..a")));
    assert_eq!(check_segment(""), Err(IdError::EmptySegment { at: 0 }));
    assert_eq!(check_segment(".."), Err(IdError::DotSegment { at: 0 }));
    assert_eq!(
        check_segment("a/b"),
        Err(IdError::PathChar { found: '/', at: 1 })
    );
}

#[test]
fn c016_c017_c018_lengths() {
    let fits = format!("spiffe://td/{}", "a".repeat(MAX_ID_BYTES - 12));
    assert_eq!(SpiffeId::parse(&fits).unwrap().as_str().len(), MAX_ID_BYTES);
    let long = format!("{fits}a");
    assert_eq!(
        SpiffeId::parse(&long),
        Err(IdError::TooLong {
            len: MAX_ID_BYTES + 1
        })
    );
    let domain = TrustDomain::parse("td").unwrap();
    assert!(
        domain
            .with_path(fits.strip_prefix("spiffe://td").unwrap())
            .is_ok()
    );
    assert_eq!(
        domain.with_path(long.strip_prefix("spiffe://td").unwrap()),
        Err(IdError::TooLong {
            len: MAX_ID_BYTES + 1
        })
    );
    assert!(TrustDomain::parse(&"a".repeat(MAX_TRUST_DOMAIN_BYTES)).is_ok());
    assert_eq!(
        TrustDomain::parse(&"a".repeat(MAX_TRUST_DOMAIN_BYTES + 1)),
        Err(IdError::TrustDomainTooLong {
            len: MAX_TRUST_DOMAIN_BYTES + 1
        })
    );
}

#[test]
fn c020_the_domain_itself() {
    let domain = TrustDomain::parse("example.org").unwrap();
    let id = domain.id();
    assert_eq!(id.as_str(), "spiffe://example.org");
    assert!(!id.has_path());
    assert!(id.is_member_of(&domain));
    assert_eq!(id.trust_domain(), domain);
}

#[test]
fn names_and_ids() {
    let domain = TrustDomain::parse("example.org").unwrap();
    for input in [
        "example.org",
        "spiffe://example.org",
        "SPIFFE://example.org",
    ] {
        assert_eq!(TrustDomain::from_name_or_id(input).unwrap(), domain);
    }
    assert_eq!(
        TrustDomain::from_name_or_id("spiffe://example.org/a"),
        Err(IdError::TrustDomainChar { found: '/', at: 11 })
    );
    assert_eq!(
        TrustDomain::from_name_or_id("spiffe://"),
        Err(IdError::TrustDomainEmpty)
    );
    assert_eq!(
        "spiffe://example.org".parse::<TrustDomain>(),
        Err(IdError::TrustDomainChar { found: ':', at: 6 })
    );
    assert_eq!(
        domain.with_path("/a/b").unwrap(),
        SpiffeId::parse("spiffe://example.org/a/b").unwrap()
    );
    for path in ["", "a", "a/b"] {
        assert_eq!(domain.with_path(path), Err(IdError::PathStart), "{path:?}");
    }
    assert_eq!(domain.with_path("/"), Err(IdError::TrailingSlash));
    let near = SpiffeId::parse("spiffe://example.org.evil/a").unwrap();
    assert!(!near.is_member_of(&domain));
}

#[test]
fn errors_carry_no_control_characters_and_stay_short() {
    for input in [
        "spiffe://td/\u{1b}[2J",
        "spiffe://\u{7}td",
        "spiffe://td/\u{202e}x",
        "spiffe://td/\r\nx",
    ] {
        let text = SpiffeId::parse(input).unwrap_err().to_string();
        assert!(text.chars().all(|c| (' '..='~').contains(&c)), "{text:?}");
        assert!(text.len() < 120, "{text:?}");
    }
}

#[test]
fn an_id_is_two_words() {
    assert_eq!(size_of::<SpiffeId>(), 16);
    assert_eq!(size_of::<Option<SpiffeId>>(), 16);
}
