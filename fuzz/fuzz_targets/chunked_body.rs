//! A chunked body, split anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_dataplane::fuzzing::chunked_body(bytes));
