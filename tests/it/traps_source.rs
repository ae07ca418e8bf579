//! The traps of the event loop that nobody can fall into, because what they are about is not used: held by reading the
//! sources, as `tidy` does.

use std::fs;

use crate::tidy::{DATA_THREADS, bare, declared_for_tests, names, root, sources};

/// What no code on a data thread may name, and why.
struct Ban {
    why: &'static str,
    words: &'static [&'static str],
    /// Files that may, and why.
    exceptions: &'static [(&'static str, &'static str)],
}

const BANS: &[Ban] = &[
    Ban {
        why: "a task that wakes itself, or another that wakes it, starves accept, I/O and timers",
        words: &["yield_now", "wake", "wake_by_ref", "Wake", "Waker", "waker", "RawWaker"],
        exceptions: &[
            (
                "policy/limit/cells.rs",
                "yields the thread, not a task, while another core is between two stores",
            ),
            ("worker/core.rs", "wakes the accept loops, once, when the node drains"),
            ("accept/mod.rs", "is woken by it"),
            ("worker/socket.rs", "asks an operation how it is with a waker that does nothing"),
            ("worker/outbox.rs", "is woken once a turn, by the first message that is posted in it"),
            ("worker/bulk.rs", "wakes large messages in line, once, a turn after the one in which they came"),
            ("worker/crew.rs", "wakes a task at rest, once for the job that it is given"),
            ("h2/mux.rs", "wakes the owner of a connection, once for all that its streams say in a turn"),
            ("h2/stream.rs", "wakes an exchange that waits for its stream, once for what came or went"),
            (
                "pipeline/watch.rs",
                "wakes what lasts, once, when the sweep has found something for it to judge",
            ),
            ("h2/owner.rs", "is woken by them"),
            ("h2/share.rs", "wakes a request that waits for another of its client to be answered, once"),
            ("h2/upstream.rs", "wakes the owner of a connection that nothing is begun on any more"),
            (
                "upstream/pool.rs",
                "wakes who waits for a connection that another exchange opens, once it is there",
            ),
            ("upstream/slots.rs", "wakes an exchange that waits, once, with the place that it waits for"),
            ("worker/readiness.rs", "wakes who waits for a socket, once for what the kernel told"),
        ],
    },
    Ban {
        why: "libraries that are polled on a core wake themselves: their budgets are meant for other loops",
        words: &["FuturesUnordered", "FuturesOrdered", "futures", "futures_util", "coop", "LocalSet"],
        exceptions: &[],
    },
    Ban {
        why: "an accept in flight leaks a socket when it is dropped, and keeps a closed listener alive",
        words: &["incoming()", "AcceptFuture", "accept_multi"],
        exceptions: &[],
    },
    Ban {
        why: "cancellers allocate for every operation",
        words: &["Canceller", "CancelHandle", "CancelableAsyncReadRent", "CancelableAsyncWriteRent"],
        exceptions: &[],
    },
    Ban {
        why: "a read that is dropped by a timeout loses what had arrived",
        words: &["timeout(", "timeout_at(", "monoio::select", "select!"],
        exceptions: &[],
    },
    Ban {
        why: "BufReader panics after a cancelled fill, the bounds check of BufWriter is wrong",
        words: &["BufReader", "BufWriter"],
        exceptions: &[],
    },
    Ban {
        why: "files and pipes are not registered on epoll, and splice goes to worker threads",
        words: &["monoio::fs", "Pipe", "splice", "zero_copy"],
        exceptions: &[],
    },
    Ban {
        why: "without a pool it runs on the event loop; with one, a core would wait for another thread",
        words: &["spawn_blocking", "monoio::blocking"],
        exceptions: &[],
    },
    Ban {
        why: "connect operations allocate and cannot be dropped: ours is started by the socket and waited for",
        words: &["TcpStream::connect", "TcpStream::connect_addr", "UnixStream::connect"],
        exceptions: &[],
    },
    Ban {
        why: "one write of several slices sends only the first",
        words: &["writev", "write_vectored", "VecBuf"],
        exceptions: &[],
    },
];

/// The code of every file on the data threads, without tests.
fn data_threads() -> impl Iterator<Item = (String, String)> {
    let src = root().join("src");
    sources(&src).into_iter().filter(|file| !declared_for_tests(file)).filter_map(move |file| {
        let place = file.strip_prefix(&src).expect("below src").display().to_string();
        let on_data_thread =
            DATA_THREADS.iter().any(|folder| place.starts_with(folder)) || place.starts_with("sys/");
        on_data_thread.then(|| (place, bare(&fs::read_to_string(&file).expect("a source is text"))))
    })
}

#[test]
fn what_the_traps_are_made_of_is_not_named_on_data_threads() {
    let mut broken = Vec::new();
    let mut needed = Vec::new();
    for (place, code) in data_threads() {
        for ban in BANS {
            for (number, line) in code.lines().enumerate() {
                let Some(word) = ban.words.iter().find(|word| named(line, word)) else { continue };
                if ban.exceptions.iter().any(|(exception, _)| *exception == place) {
                    needed.push(place.clone());
                } else {
                    broken.push(format!("src/{place}:{}: {word}: {}", number + 1, ban.why));
                }
            }
        }
    }
    for (exception, why) in BANS.iter().flat_map(|ban| ban.exceptions) {
        if !needed.iter().any(|place| place == exception) {
            broken.push(format!("src/{exception} needs no exception ({why})"));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// [`names`], where a word may end in an opening bracket.
fn named(line: &str, word: &str) -> bool {
    match word.strip_suffix('(') {
        Some(name) => line.contains(word) && names(line, name),
        None => names(line, word),
    }
}

#[test]
fn the_only_accept_is_the_bounded_one() {
    for (place, code) in data_threads() {
        assert!(!code.contains(".accept("), "src/{place}: an accept of the driver");
        let ours = place.starts_with("accept/") || place == "sys/socket.rs";
        assert!(ours || !names(&code, "accept4"), "src/{place}: accepting has one home");
    }
}

#[test]
fn every_task_is_guarded() {
    let mut spawned = 0;
    for (place, code) in data_threads() {
        for (at, _) in code.match_indices("monoio::spawn(") {
            let argument = code[at + "monoio::spawn(".len()..].trim_start();
            assert!(argument.starts_with("Guarded::new("), "src/{place}: a panic there would end the core");
            spawned += 1;
        }
        assert!(!code.contains("use monoio::spawn"), "src/{place}: spawn is called by its whole name");
    }
    assert!(spawned >= 2, "connections and accept loops are spawned: {spawned}");
}

#[test]
fn a_loop_is_never_dropped_with_operations_in_flight() {
    let code = bare(&fs::read_to_string(root().join("src/worker/run.rs")).expect("a source"));
    assert!(code.contains("mem::forget(runtime)"));
    let builds: Vec<String> = data_threads()
        .filter(|(_, code)| code.contains("Loop::build(") || code.contains("RuntimeBuilder"))
        .map(|(place, _)| place)
        .collect();
    assert_eq!(builds, ["worker/driver.rs", "worker/run.rs"], "loops are built and kept in one place");
}

#[test]
fn the_event_loop_is_built_without_what_has_races_or_costs() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let line = manifest.lines().find(|line| line.starts_with("monoio = ")).expect("monoio");
    assert!(line.contains("default-features = false"), "{line}");
    let features =
        line.split_once("features = [").and_then(|(_, rest)| rest.split_once(']')).expect("a list").0;
    let features: Vec<&str> = features.split(", ").map(|feature| feature.trim_matches('"')).collect();
    // `sync` has races and a cost for every waker, `signal` is another crate's, `splice` goes to worker threads.
    // Without `legacy` there is no epoll.
    assert_eq!(features, ["async-cancel", "bytes", "iouring", "legacy", "macros", "utils"]);
}

#[test]
fn protocol_crates_that_are_unsafe_for_a_proxy_are_not_linked() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("a lock file");
    for name in ["monoio-http", "monoio-http-client", "monoio-rustls", "monoio-native-tls", "monoio-compat"] {
        assert!(!lock.contains(&format!("name = \"{name}\"")), "{name}");
    }
}

#[test]
fn the_ring_has_the_flags_that_were_measured() {
    let code = bare(&fs::read_to_string(root().join("src/worker/driver.rs")).expect("a source"));
    assert!(
        code.contains("setup_single_issuer().setup_coop_taskrun()"),
        "20–30 % less CPU than the defaults"
    );
    // Completions outnumber submissions: a poll for every idle connection stays in flight.
    assert!(code.contains("setup_cqsize(ENTRIES * 4)"));
    // With it completions wait until the loop asks, and a loop that always has a task to run does not.
    assert!(!code.contains("setup_defer_taskrun") && !code.contains("setup_sqpoll"));
}
