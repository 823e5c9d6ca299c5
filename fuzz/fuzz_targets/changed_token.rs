//! A genuine token of which bytes are replaced.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_policy::fuzzing::changed_token(bytes));
