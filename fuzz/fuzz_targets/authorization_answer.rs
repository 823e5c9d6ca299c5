//! The answer of an authorization service.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_policy::fuzzing::authorization_answer(bytes));
