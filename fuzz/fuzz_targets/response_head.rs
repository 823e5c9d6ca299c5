//! The head of an HTTP/1 response.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_dataplane::fuzzing::response_head(bytes));
