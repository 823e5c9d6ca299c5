//! Random peers: whatever bytes come, nothing panics, windows add up, and what is complete arrives whole.

use proptest::prelude::*;

use crate::codec::h2::properties;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_comes_the_connection_keeps_its_invariants(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        properties::connection(&bytes);
    }
}
