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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        h1::{
            laws,
            parse::{Parse, parse_request, parse_response},
        },
        http::{
            HeadLimits, RequestTable, ResponseTable,
            forward::{RenamedIdentity, request_skip, response_skip},
        },
    };

    fn request(head: &str, inserts: &str, framing: BodyLength) -> String {
        laws::round_trip(&[&[0][..], head.as_bytes()].concat());
        let mut table = RequestTable::new();
        let parsed = parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut table);
        assert_eq!(parsed, Ok(Parse::Complete { head_bytes: head.len() }));
        let head = head.as_bytes();
        let skip = request_skip(head, &table, &RenamedIdentity::default());
        let line = RequestLine { method: table.method_span.of(head), path: b"/p", query: Some(b"q") };
        let mut out = Vec::new();
        encode_request(&mut out, &line, head, &table.fields, &skip, inserts.as_bytes(), framing);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_goes_out_in_one_form() {
        let head = "POST /x HTTP/1.1\r\nHost: a\r\nAccept:  */*\r\nConnection: close\r\nX-A: 1\r\nX-B: 2\r\n\
            X-C:\r\nContent-Length: 7\r\nX-User: evil\r\nLast: z\r\n\r\n";
        assert_eq!(
            request(head, "X-New: n\r\n", BodyLength::Length(7)),
            "POST /p?q HTTP/1.1\r\nX-New: n\r\nHost: a\r\nAccept: */*\r\nX-A: 1\r\nX-B: 2\r\nX-C: \r\nLast: z\r\n\
             Content-Length: 7\r\n\r\n"
        );
        assert!(
            request(head, "", BodyLength::Chunked).ends_with("Last: z\r\nTransfer-Encoding: chunked\r\n\r\n")
        );
    }

    #[test]
    fn framing_is_ours_even_if_nothing_is_skipped() {
        let head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n";
        let mut table = RequestTable::new();
        assert!(parse_request(head, &HeadLimits::DEFAULT, &mut table).is_ok());
        let line = RequestLine { method: b"PUT", path: b"/", query: None };
        let mut out = Vec::new();
        encode_request(&mut out, &line, head, &table.fields, &FieldSet::EMPTY, b"", BodyLength::Length(3));
        assert_eq!(out, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
    }

    #[test]
    fn a_missing_body_is_said_where_one_is_expected() {
        for (method, framing, expected) in [
            ("POST", BodyLength::None, "Content-Length: 0\r\n"),
            ("PUT", BodyLength::Length(0), "Content-Length: 0\r\n"),
            ("GET", BodyLength::Length(0), ""),
            ("GET", BodyLength::None, ""),
            ("DELETE", BodyLength::Length(0), ""),
            ("DELETE", BodyLength::Length(1), "Content-Length: 1\r\n"),
        ] {
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            let expected = format!("{method} /p?q HTTP/1.1\r\nHost: a\r\n{expected}\r\n");
            assert_eq!(request(&head, "", framing), expected);
        }
    }

    #[test]
    fn a_response_goes_out_in_one_form() {
        let head = "HTTP/1.0 404 Whatever\r\nServer: s\r\nKeep-Alive: x\r\nSet-Cookie: a=b\r\nset-cookie:c=d\r\n\
            Content-Length: 3\r\nX: y\r\n\r\n";
        laws::round_trip(&[&[1][..], head.as_bytes()].concat());
        laws::round_trip(&[&[3][..], head.as_bytes()].concat());
        let mut table = ResponseTable::new();
        assert!(parse_response(head.as_bytes(), &HeadLimits::DEFAULT, Method::Get, &mut table).is_ok());
        let mut out = Vec::new();
        let skip = response_skip(&table);
        encode_response(
            &mut out,
            404,
            head.as_bytes(),
            &table.fields,
            &skip,
            CONNECTION_CLOSE,
            table.framing,
        );
        assert_eq!(
            String::from_utf8_lossy(&out),
            "HTTP/1.1 404 Not Found\r\nConnection: close\r\nServer: s\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nX: y\r\n\
             Content-Length: 3\r\n\r\n"
        );
    }

    #[test]
    fn status_lines_carry_our_own_phrases() {
        for status in 100..600 {
            let mut out = Vec::new();
            push_status_line(&mut out, status);
            let expected = format!("HTTP/1.1 {status} {}\r\n", status::phrase(status));
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn chunk_heads_are_hexadecimal() {
        for len in [1, 9, 10, 15, 16, 255, 4096, 65_535, usize::MAX] {
            let mut buffer = [0; CHUNK_HEAD_BYTES_MAX];
            assert_eq!(chunk_head(len, &mut buffer), format!("{len:x}\r\n").as_bytes());
        }
        let mut out = Vec::new();
        push_last_chunk(&mut out, b"");
        assert_eq!(out, LAST_CHUNK);
    }
}
