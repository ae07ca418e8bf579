//! Frames of WebSockets in passing: what a small one costs, and how fast large ones go by, beside a copy of their bytes.
//!
//! `cargo bench --bench websocket`: medians over alternating rounds. With `--once` (or `--test`) everything runs once. With
//! `--callgrind NAME` only that contender runs, a fixed number of times, to count its instructions.

use std::{hint::black_box, time::Instant};

use ringwall::{
    http::Reason,
    websocket::{
        Filter, Judge, Look, Onward, Rules, Sender, Then,
        filter::Kind,
        frame::{HEAD_BYTES_MAX, Mask, Opcode, write_head},
    },
    worker::buffer::Buffer,
};

const ROUNDS: usize = 9;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

struct Contender {
    name: String,
    bytes: usize,
    frames: usize,
    run: Box<dyn FnMut()>,
}

/// Takes everything, and looks as if it did not.
struct Anything;

impl Judge for Anything {
    fn admit(&mut self, _: Kind) -> Result<(), &'static Reason> {
        Ok(())
    }

    fn message(&mut self, _: Kind, payload: &[u8]) -> Result<(), &'static Reason> {
        black_box(payload);
        Ok(())
    }
}

fn frames(sender: Sender, count: usize, payload: &[u8]) -> Vec<u8> {
    let mask = (sender == Sender::Client).then_some(Mask::of(KEY));
    let mut one = [0; HEAD_BYTES_MAX].to_vec();
    let head = write_head(one.first_chunk_mut().expect("room"), Opcode::Text, payload.len(), mask);
    one.truncate(head);
    one.extend_from_slice(payload);
    mask.unwrap_or_default().apply(&mut one[head..]);
    one.repeat(count)
}

fn filter(name: &str, look: Look, sender: Sender, count: usize, payload: &[u8]) -> Contender {
    let stream = frames(sender, count, payload);
    let bytes = stream.len();
    let run = Box::new(move || {
        let rules = Rules { look, message_bytes_max: 1 << 20, ..Rules::new(sender) };
        let mut filter = Filter::new(rules);
        let mut out = Buffer::empty();
        let verdict = filter.pass(black_box(&stream), &mut out, 0, &mut Anything);
        assert_eq!((verdict.onward, verdict.then), (Onward::Prefix(stream.len()), Then::GoOn));
        black_box(&filter);
    });
    Contender { name: name.to_owned(), bytes, frames: count, run }
}

fn contenders() -> Vec<Contender> {
    let ascii = b"{\"instrument\":\"XS0123456789\",\"bid\":101.25,\"ask\":101.5,\"time\":1718000000}";
    let large = ascii.repeat(64 * 1024 / ascii.len());
    let greek: Vec<u8> = "Ωραίος κόσμος, πολύ κείμενο. ".repeat(64 * 1024 / 52).into_bytes();
    let copied = frames(Sender::Client, 16, &large);
    let bytes = copied.len();
    let mut room = vec![0; bytes];
    let copy = Box::new(move || {
        room.copy_from_slice(black_box(&copied));
        black_box(&room);
    });
    let (client, upstream) = (Sender::Client, Sender::Upstream);
    vec![
        Contender { name: "copy of 16 × 64 KiB".to_owned(), bytes, frames: 16, run: copy },
        filter("small frames, heads, client", Look::Heads, client, 1000, &ascii[..32]),
        filter("small frames, heads, upstream", Look::Heads, upstream, 1000, &ascii[..32]),
        filter("small frames, text, client", Look::Text, client, 1000, &ascii[..32]),
        filter("small frames, messages, client", Look::Messages, client, 1000, &ascii[..32]),
        filter("64 KiB frames, heads, client", Look::Heads, client, 16, &large),
        filter("64 KiB frames, ASCII, client", Look::Text, client, 16, &large),
        filter("64 KiB frames, ASCII, upstream", Look::Text, upstream, 16, &large),
        filter("64 KiB frames, Greek, client", Look::Text, client, 16, &greek),
        filter("64 KiB frames, Greek, upstream", Look::Text, upstream, 16, &greek),
        filter("64 KiB frames, messages, client", Look::Messages, client, 16, &large),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut contenders = contenders();
    if let Some(at) = arguments.iter().position(|argument| argument == "--callgrind") {
        let name = arguments.get(at + 1).map_or("", String::as_str);
        match contenders.iter_mut().find(|contender| contender.name == name) {
            Some(contender) => (0..100).for_each(|_| (contender.run)()),
            None => eprintln!("no contender `{name}`"),
        }
        return;
    }
    let once = arguments.iter().any(|argument| argument == "--once" || argument == "--test");
    let (rounds, bytes) = if once { (1, 1) } else { (ROUNDS, 64 << 20) };
    let mut results = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for (contender, results) in contenders.iter_mut().zip(&mut results) {
            let turns = bytes / contender.bytes + 1;
            let start = Instant::now();
            (0..turns).for_each(|_| (contender.run)());
            results.push(start.elapsed().as_secs_f64() * 1e9 / turns as f64);
        }
    }
    let mut copy = 0.0;
    for (contender, results) in contenders.iter().zip(&mut results) {
        results.sort_by(f64::total_cmp);
        let ns = results[rounds / 2];
        let speed = contender.bytes as f64 / ns;
        if copy == 0.0 {
            copy = speed;
        }
        let each = ns / contender.frames as f64;
        let name = &contender.name;
        println!("{name:34} {each:10.1} ns a frame {speed:8.2} GB/s {:7.2} × copy", speed / copy);
    }
}
