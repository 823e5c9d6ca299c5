//! Random scripts, and those of the corpus.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::differences::Difference;
use super::{compare, first_difference};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn both_servers_agree_or_are_known_to_differ(script in prop::collection::vec(any::<u8>(), 0..200)) {
        compare(&script);
    }
}

/// The corpus has a script for each known difference, so that none stays listed that is no more.
#[test]
fn the_corpus_shows_each_known_difference_and_no_other() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/http2_oracle");
    let mut seen = BTreeSet::new();
    for file in std::fs::read_dir(corpus).unwrap() {
        let script = std::fs::read(file.unwrap().path()).unwrap();
        compare(&script);
        seen.extend(first_difference(&script).and_then(|difference| difference.reason()));
    }
    let missing: Vec<_> = Difference::reasons().filter(|reason| !seen.contains(reason)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
