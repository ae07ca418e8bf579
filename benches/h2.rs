//! The HTTP/2 connection: frames to events, answers to frames; field blocks are not decoded here, they have a bench of their own.
//!
//! `cargo bench --bench h2`: nanoseconds per request, or per 64 KiB of a body, medians over [`rounds`], which says what may be added.

mod rounds;

use std::hint::black_box;

use ringwall::h2::connection::{
    Connection, Decoded, Event, FieldBlocks, Opening, Role, Section, Undecodable,
};
use ringwall::h2::frame::{self, END_STREAM, Kind, PREFACE, StreamId};
use ringwall::h2::{Settings, StreamKey};

use rounds::{Contender, measure};

/// What a browser's request is once it is compressed, about.
const BLOCK: &[u8] = &[0x82; 60];
/// The head of a small answer.
const ANSWER: &[u8] = &[0x88; 40];
/// Its body.
const BODY: &[u8] = &[b'.'; 200];
const STREAMS: u32 = 10;
const BULK: usize = 64 * 1024;
const RUNS: u32 = 5_000;

struct Blind;

impl FieldBlocks for Blind {
    fn decode(
        &mut self,
        section: Section,
        _: StreamId,
        _: bool,
        block: &[u8],
    ) -> Result<Decoded, Undecodable> {
        black_box(block);
        Ok(Decoded { status: if let Section::Response(_) = section { 200 } else { 0 }, ..Decoded::default() })
    }

    fn encoder_table_bytes(&mut self, _: u32) {}
}

/// A connection on which everything that comes first is over.
fn connected(role: Role) -> Connection {
    let mut out = Vec::new();
    let mut connection = Connection::new(role, &Settings::DEFAULT, 1, &mut out);
    let mut input = Vec::new();
    if role == Role::Server {
        input.extend_from_slice(PREFACE);
    }
    frame::push_settings(&mut input, [(0x4, 16 << 20)].into_iter());
    frame::push_head(&mut input, 0, Kind::Settings, frame::ACK, StreamId::CONNECTION);
    frame::push_window_update(&mut input, StreamId::CONNECTION, 1 << 30);
    feed(&mut connection, &input, &mut out, |_, _, _| ());
    connection
}

fn feed(
    connection: &mut Connection,
    mut input: &[u8],
    out: &mut Vec<u8>,
    mut act: impl FnMut(&mut Connection, Event<'_>, &mut Vec<u8>),
) {
    loop {
        let (bytes, event) = connection.receive(input, 1, &mut Blind, out).expect("a good peer");
        input = &input[bytes..];
        match event {
            Event::Idle => return,
            event => act(connection, event, out),
        }
    }
}

/// Ten requests arrive at once and are answered in turn. One run is ten requests.
fn requests(answer: bool) -> impl FnMut() {
    let mut connection = connected(Role::Server);
    let mut id = 1;
    let (mut input, mut out) = (Vec::new(), Vec::new());
    let mut open: Vec<StreamKey> = Vec::new();
    move || {
        input.clear();
        out.clear();
        for _ in 0..STREAMS {
            frame::push_block(&mut input, StreamId(id), true, 16_384, |out| out.extend_from_slice(BLOCK));
            id += 2;
        }
        // What the client grants for what it was sent.
        frame::push_window_update(&mut input, StreamId::CONNECTION, STREAMS * BODY.len() as u32);
        let mut connection = &mut connection;
        feed(connection, &input, &mut out, |_, event, _| {
            if let Event::Head { stream, .. } = event {
                open.push(stream);
            }
        });
        for stream in open.drain(..) {
            if answer {
                let head = |out: &mut Vec<u8>| out.extend_from_slice(ANSWER);
                connection.send_head(stream, false, &mut out, head).expect("open");
                assert_eq!(connection.send_data(stream, BODY, true, &mut out), Ok(BODY.len()));
            } else {
                connection.send_head(stream, true, &mut out, |_| ()).expect("open");
            }
        }
        connection = black_box(connection);
        assert_eq!(connection.streams_open(), 0);
        // Numbers are used up after a thousand million requests.
        if id > 0x7000_0000 {
            *connection = connected(Role::Server);
            id = 1;
        }
    }
}

/// Ten requests of ours are sent at once, and their answers come interleaved. One run is ten requests.
fn exchanges() -> impl FnMut() {
    let mut connection = connected(Role::Client);
    let (mut input, mut out) = (Vec::new(), Vec::new());
    let mut open: Vec<StreamKey> = Vec::new();
    move || {
        input.clear();
        out.clear();
        for _ in 0..STREAMS {
            let opening = Opening { end: true, head_request: false };
            let stream =
                connection.open(opening, &mut out, |out| out.extend_from_slice(BLOCK)).expect("room");
            open.push(stream);
        }
        for stream in &open {
            frame::push_block(&mut input, stream.id(), false, 16_384, |out| out.extend_from_slice(ANSWER));
        }
        for stream in open.drain(..) {
            frame::push_head(&mut input, BODY.len(), Kind::Data, END_STREAM, stream.id());
            input.extend_from_slice(BODY);
        }
        feed(&mut connection, &input, &mut out, |connection, event, out| {
            if let Event::Data { stream, bytes, .. } = event {
                connection.consumed(stream, bytes.len(), out);
            }
        });
        if connection.openable() == 0 {
            connection = connected(Role::Client);
        }
    }
}

/// 64 KiB of an upload arrive in frames of 16 KiB, in reads of 16 KiB, and are consumed.
fn upload() -> impl FnMut() {
    let mut connection = connected(Role::Server);
    let (mut input, mut out) = (Vec::new(), Vec::new());
    frame::push_block(&mut input, StreamId(1), false, 16_384, |out| out.extend_from_slice(BLOCK));
    feed(&mut connection, &input, &mut out, |_, _, _| ());
    input.clear();
    for _ in 0..BULK / 16_384 {
        frame::push_head(&mut input, 16_384, Kind::Data, 0, StreamId(1));
        input.resize(input.len() + 16_384, b'.');
    }
    // The window has one byte less than four frames: an upload begins with less.
    let mut first = true;
    move || {
        out.clear();
        let whole = if first { &input[..32_768 + 18] } else { &input[..] };
        first = false;
        for read in whole.chunks(16_384) {
            feed(&mut connection, read, &mut out, |connection, event, out| {
                if let Event::Data { stream, bytes, .. } = event {
                    connection.consumed(stream, black_box(bytes).len(), out);
                }
            });
        }
    }
}

/// 64 KiB of a download are framed and copied; or only framed.
fn download(copied: bool) -> impl FnMut() {
    let mut connection = connected(Role::Server);
    let (mut input, mut out) = (Vec::new(), Vec::new());
    frame::push_block(&mut input, StreamId(1), true, 16_384, |out| out.extend_from_slice(BLOCK));
    let mut stream = None;
    feed(&mut connection, &input, &mut out, |_, event, _| {
        if let Event::Head { stream: opened, .. } = event {
            stream = Some(opened);
        }
    });
    let stream = stream.expect("a head");
    connection.send_head(stream, false, &mut out, |_| ()).expect("open");
    let body = vec![b'.'; BULK];
    let mut update = Vec::new();
    frame::push_window_update(&mut update, StreamId(1), BULK as u32);
    frame::push_window_update(&mut update, StreamId::CONNECTION, BULK as u32);
    move || {
        out.clear();
        if copied {
            assert_eq!(connection.send_data(stream, &body, false, &mut out), Ok(BULK));
        } else {
            let mut left = BULK;
            while left > 0 {
                left -= connection.data_head(stream, left, false, &mut out).expect("open");
            }
        }
        feed(&mut connection, &update, &mut out, |_, _, _| ());
        black_box(&out);
    }
}

fn contenders() -> Vec<Contender> {
    let body = vec![b'.'; BULK];
    let mut copy = Vec::with_capacity(BULK);
    let copying = move || {
        copy.clear();
        copy.extend_from_slice(black_box(&body));
        black_box(&copy);
    };
    let ten = |contender| Contender { count: STREAMS, ..contender };
    vec![
        ten(Contender::new("request, 10 at once", RUNS, requests(false))),
        ten(Contender::new("request and answer of 200 B", RUNS, requests(true))),
        ten(Contender::new("request of ours and its answer", RUNS, exchanges())),
        Contender::new("64 KiB up", RUNS, upload()),
        Contender::new("64 KiB down", RUNS, download(true)),
        Contender::new("64 KiB down, framed only", RUNS, download(false)),
        Contender::new("64 KiB copied", RUNS, copying),
    ]
}

fn main() {
    for figure in measure(contenders()) {
        println!("{:<32} {:>8.1} ns  ({})", figure.name, figure.median, figure.spread());
    }
}
