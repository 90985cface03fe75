//! Tokens: no input breaks the reader, and nothing verifies without a key.
#![no_main]

use attesta_spiffe::{Bundle, SpiffeId, TrustDomain, UnverifiedJwt, lint_jwt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let domain = TrustDomain::parse("example.org").expect("a name");
    let id = SpiffeId::parse("spiffe://example.org/web").expect("an id");
    let bundle = Bundle::new(domain, Vec::new(), Vec::new(), 1, None).expect("a bundle");
    if let Ok(token) = UnverifiedJwt::parse(input) {
        let now = jiff::Timestamp::UNIX_EPOCH;
        assert!(token.verify(&bundle, &["db"], now).is_err());
    }
    if lint_jwt(input, &id).is_ok() {
        let token = format!("{input}.AAAA");
        let parsed = UnverifiedJwt::parse(&token).expect("what may be signed parses");
        assert_eq!(parsed.unverified_subject(), &id);
    }
});
