//! SPIFFE IDs and trust domain names: what is accepted is spelled one way and stays accepted.
#![no_main]

use attesta_spiffe::{SpiffeId, TrustDomain, check_segment};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    if let Ok(id) = SpiffeId::parse(input) {
        assert_eq!(SpiffeId::parse(id.as_str()).as_ref(), Ok(&id));
        assert!(id.as_str().eq_ignore_ascii_case(input));
        let domain = id.trust_domain();
        assert!(id.is_member_of(&domain));
        if id.has_path() {
            assert_eq!(domain.with_path(id.path()).as_ref(), Ok(&id));
            for segment in id.path().split('/').skip(1) {
                assert_eq!(check_segment(segment), Ok(()));
            }
        } else {
            assert_eq!(domain.id(), id);
        }
    }
    if let Ok(domain) = TrustDomain::from_name_or_id(input) {
        assert_eq!(TrustDomain::parse(domain.as_str()).as_ref(), Ok(&domain));
    }
});
