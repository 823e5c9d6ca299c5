//! A connection of HTTP/2.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_dataplane::fuzzing::http2_connection(bytes));
