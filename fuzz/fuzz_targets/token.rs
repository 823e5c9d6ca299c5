//! A signed token (JWT).
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_policy::fuzzing::token(bytes));
