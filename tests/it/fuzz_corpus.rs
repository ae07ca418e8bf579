//! Every sample of every fuzz corpus, replayed without a fuzzer: what was found once stays found.

use std::{fs, path::Path};

use ringwall::fuzzing;

/// Each target by the name of its corpus.
const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("h1_head", fuzzing::h1_head),
    ("h1_chunked", fuzzing::h1_chunked),
    ("h1_roundtrip", fuzzing::h1_roundtrip),
    ("h1_stream", fuzzing::h1_stream),
    ("h2_frames", fuzzing::h2_frames),
    ("h2_operations", fuzzing::h2_operations),
    ("target", fuzzing::target),
    ("config", fuzzing::config),
    ("json_schema", fuzzing::json_schema),
    ("jwks", fuzzing::jwks),
    ("jwt", fuzzing::jwt),
    ("log_line", fuzzing::log_line),
    ("client_hello", fuzzing::client_hello),
    ("tls_session", fuzzing::tls_session),
    ("address_list", fuzzing::address_list),
    ("media_type", fuzzing::media_type),
    ("certificate_names", fuzzing::certificate_names),
    ("forwarded", fuzzing::forwarded),
    ("proxy_protocol", fuzzing::proxy_protocol),
    ("hpack", fuzzing::hpack),
    ("hpack_roundtrip", fuzzing::hpack_roundtrip),
    ("grpc_messages", fuzzing::grpc_messages),
    ("grpc_filter", fuzzing::grpc_filter),
    ("websocket_frames", fuzzing::websocket_frames),
];

#[test]
fn every_kept_sample_obeys_the_laws() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in TARGETS {
        let mut samples = 0;
        for entry in fs::read_dir(corpora.join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
            samples += 1;
        }
        assert!(samples > 0, "{name} has no corpus");
    }
}

#[test]
fn every_target_is_replayed() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    for entry in fs::read_dir(targets).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name} is not replayed");
    }
}
