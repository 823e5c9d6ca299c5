//! The path and the cookies of a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_policy::fuzzing::credentials(bytes));
