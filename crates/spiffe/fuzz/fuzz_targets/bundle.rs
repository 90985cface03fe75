//! Bundle documents and maps: what is read is written so that it reads the same.
#![no_main]

use attesta_spiffe::{Bundle, BundleMap, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let domain = TrustDomain::parse("example.org").expect("a name");
    if let Ok(bundle) = Bundle::parse(&domain, input) {
        assert_eq!(Bundle::parse(&domain, &bundle.to_json()), Ok(bundle));
    }
    if let Ok(map) = BundleMap::parse(input) {
        assert_eq!(BundleMap::parse(&map.to_json()), Ok(map));
    }
});
