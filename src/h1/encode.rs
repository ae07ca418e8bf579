//! HTTP/1.1 heads and chunk framing: tables in, bytes out, in one form.
//!
//! For: `upstream` (requests) and `downstream` (responses), behind whatever codec the other side speaks. Not for:
//! deciding what is forwarded ([`crate::http::forward`]) or where the message ends.
//!
//! **Law.** Framing fields are written by us and never copied, whatever `skip` says. Everything else goes out in the
//! order it came. Runs of fields that lie in the head as lines of the one form `Name: value` CRLF are copied whole: one
//! `memcpy` per run, not per field.

use crate::http::{
    BodyLength, Method,
    field::{FieldSet, FieldTable},
    status,
};

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// The end of the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";
/// Most bytes of a chunk's first line: 16 digits and CRLF.
pub const CHUNK_HEAD_BYTES_MAX: usize = 18;
/// Asks the peer to close, or tells it that we shall; for `inserts`.
pub const CONNECTION_CLOSE: &[u8] = b"Connection: close\r\n";
/// Tells an HTTP/1.0 client that the connection stays; for `inserts`.
pub const CONNECTION_KEEP_ALIVE: &[u8] = b"Connection: keep-alive\r\n";
/// The interim response to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The first line of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestLine<'a> {
    /// The method's token.
    pub method: &'a [u8],
    /// The canonical path.
    pub path: &'a [u8],
    /// The query without `?`, if there is one.
    pub query: Option<&'a [u8]>,
}

/// Appends a request head: request line, `inserts`, the fields of `fields` that are not in `skip`, framing, empty line.
///
/// `head` is what `fields` was made from; `inserts` are whole lines `Name: value` CRLF. `framing` says how the body
/// will be sent; a POST, PUT or PATCH without body says `Content-Length: 0` (RFC 9110 §8.6), other methods without body
/// say nothing. One copy of each byte; allocates only if `out` must grow.
#[inline]
pub fn encode_request(
    out: &mut Vec<u8>,
    line: &RequestLine<'_>,
    head: &[u8],
    fields: &FieldTable,
    skip: &FieldSet,
    inserts: &[u8],
    framing: BodyLength,
) {
    let query = line.query;
    let line_bytes = line.method.len() + line.path.len() + query.map_or(0, |query| query.len() + 1) + 12;
    out.reserve(line_bytes + inserts.len() + head.len() + 2 * fields.irregular().len() + 40);
    out.extend_from_slice(line.method);
    out.push(b' ');
    out.extend_from_slice(line.path);
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    out.extend_from_slice(inserts);
    push_fields(out, head, fields, skip);
    let anticipated = matches!(Method::of(line.method), Method::Post | Method::Put | Method::Patch);
    match framing {
        BodyLength::Length(0) | BodyLength::None if !anticipated => out.extend_from_slice(b"\r\n"),
        BodyLength::None => push_framing(out, BodyLength::Length(0)),
        framing => push_framing(out, framing),
    }
}

/// Appends a response head: status line, `inserts`, the fields that are not in `skip`, framing, empty line.
///
/// For a response without body (to HEAD, or 304) give [`crate::http::ResponseTable::declared`] as `framing`, for 1xx
/// and 204 [`BodyLength::None`]; an `UntilClose` body that is sent as it comes needs [`CONNECTION_CLOSE`] among the
/// inserts.
#[inline]
pub fn encode_response(
    out: &mut Vec<u8>,
    status: u16,
    head: &[u8],
    fields: &FieldTable,
    skip: &FieldSet,
    inserts: &[u8],
    framing: BodyLength,
) {
    out.reserve(inserts.len() + head.len() + 2 * fields.irregular().len() + 100);
    push_status_line(out, status);
    out.extend_from_slice(inserts);
    push_fields(out, head, fields, skip);
    push_framing(out, framing);
}

/// Appends `HTTP/1.1 200 OK` CRLF and its like.
#[inline]
pub fn push_status_line(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    debug_assert!((100..1000).contains(&status));
    out.extend_from_slice(b"HTTP/1.1 ");
    let digit = |place: u16| b'0' + (status / place % 10) as u8;
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(status::phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the framing field and the empty line that ends a head.
#[inline]
pub fn push_framing(out: &mut Vec<u8>, framing: BodyLength) {
    match framing {
        BodyLength::None | BodyLength::UntilClose => out.extend_from_slice(b"\r\n"),
        BodyLength::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n"),
        BodyLength::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n\r\n");
        }
    }
}

/// Appends the fields that are neither in `skip` nor hop-by-hop or framing.
#[inline]
pub fn push_fields(out: &mut Vec<u8>, head: &[u8], fields: &FieldTable, skip: &FieldSet) {
    let skip = skip.union(fields.hop_by_hop());
    let slice = fields.as_slice();
    let mut next = 0;
    // Between two fields that are skipped or irregular lies a run of whole lines.
    for index in skip.union(fields.irregular()).iter() {
        if index >= slice.len() {
            break;
        }
        push_run(out, head, slice.get(next..index));
        next = index + 1;
        if !skip.contains(index) {
            let field = &slice[index];
            out.extend_from_slice(field.name().of(head));
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value().of(head));
            out.extend_from_slice(b"\r\n");
        }
    }
    push_run(out, head, slice.get(next..));
}

/// Appends the lines from the first to the last of these fields.
#[inline]
fn push_run(out: &mut Vec<u8>, head: &[u8], run: Option<&[crate::http::Field]>) {
    if let Some([first, ..]) = run
        && let Some([.., last]) = run
    {
        let lines = head.get(usize::from(first.name_start)..last.value().end() + 2);
        out.extend_from_slice(lines.unwrap_or_default());
    }
}

/// The first line of a chunk of `len` bytes (`len` > 0: the chunk of length 0 is the last), written into `buffer`.
#[inline]
pub fn chunk_head(len: usize, buffer: &mut [u8; CHUNK_HEAD_BYTES_MAX]) -> &[u8] {
    debug_assert!(len > 0);
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    buffer[16] = b'\r';
    buffer[17] = b'\n';
    let mut at = 16;
    let mut left = len;
    loop {
        at -= 1;
        buffer[at] = DIGITS[left & 15];
        left >>= 4;
        if left == 0 || at == 0 {
            return &buffer[at..];
        }
    }
}

/// Appends the last chunk, `trailers` (whole lines, as [`super::chunked::Body::trailers`] has them) and the final empty
/// line.
pub fn push_last_chunk(out: &mut Vec<u8>, trailers: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}
