//! A key set (JWKS).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_policy::fuzzing::key_set(bytes));
