//! Certificates: no input breaks the reader, and nothing verifies without an authority's key.
#![no_main]

use attesta_spiffe::{
    Bundle, SpiffeId, TrustDomain, X509Authority, leaf_id, lint_authority, lint_authority_tbs,
    lint_leaf, lint_leaf_tbs, verify_chain,
};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;

fuzz_target!(|input: &[u8]| {
    let domain = TrustDomain::parse("example.org").expect("a name");
    let id = SpiffeId::parse("spiffe://example.org/web").expect("an id");
    let now = jiff::Timestamp::UNIX_EPOCH;
    if lint_leaf(input, &id).is_ok() {
        assert_eq!(leaf_id(input), Ok(id.clone()));
        assert!(X509Authority::from_der(input).is_err());
    }
    if lint_authority(input, &domain).is_ok() {
        assert!(leaf_id(input).is_err());
    }
    assert!(lint_leaf_tbs(input, &id).is_err() || lint_authority_tbs(input, &domain).is_err());
    let mut authorities = Vec::new();
    if let Ok(authority) = X509Authority::from_der(input) {
        assert_eq!(authority.der(), input);
        authorities.push(authority);
    }
    let bundle = Bundle::new(domain.clone(), authorities, Vec::new(), 1, None).expect("a bundle");
    assert_eq!(
        Bundle::parse(&domain, &bundle.to_json()),
        Ok(bundle.clone())
    );
    assert!(verify_chain(&[CertificateDer::from(input)], &bundle, now).is_err());
});
