#![no_main]
libfuzzer_sys::fuzz_target!(|d: &[u8]| ringwall::fuzzing::proxy_protocol(d));
