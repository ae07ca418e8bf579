#![no_main]
libfuzzer_sys::fuzz_target!(|d: &[u8]| ringwall::fuzzing::h2_frames(d));
