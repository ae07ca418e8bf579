#![no_main]
libfuzzer_sys::fuzz_target!(|d: &[u8]| ringwall::fuzzing::tls_session(d));
