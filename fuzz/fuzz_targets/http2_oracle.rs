//! Frames of HTTP/2, of which our server and that of the `h2` crate must make the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_dataplane::fuzzing::http2_oracle(bytes));
