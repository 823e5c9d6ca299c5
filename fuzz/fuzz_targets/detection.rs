//! The first bytes of a connection of unknown protocol.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outrigger_dataplane::fuzzing::detection(bytes));
