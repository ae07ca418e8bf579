//! What must hold for every input: the laws that the fuzz targets run and the tests replay.
//!
//! For: [`crate::fuzzing`] and tests. Not for: the data path. Each law compares the codec with itself (bytes cut
//! differently, parsed again after encoding) or with a slow oracle that is written the obvious way.

use super::{
    chunked::{Body, Step},
    encode::{
        CHUNK_HEAD_BYTES_MAX, RequestLine, chunk_head, encode_request, encode_response, push_last_chunk,
    },
    parse::{Parse, parse_request, parse_response},
};
use crate::http::{
    BodyLength, FieldTable, HeadLimits, Known, Method, Reason, RequestTable, ResponseTable, Version,
    forward::{self, RenamedIdentity},
    target::{self, EncodedSlash, Form, Place},
};

const SMALL: HeadLimits = HeadLimits {
    target_bytes_max: 24,
    head_bytes_max: 160,
    fields_max: 4,
    http10_without_host: true,
    body_on_get: true,
    obs_text: false,
};

/// Heads: the verdict does not depend on how the bytes were cut, and what is accepted is what the oracle reads.
/// The first byte chooses the direction and the limits, the second how the bytes are cut.
pub fn heads(data: &[u8]) {
    let [choice, step, bytes @ ..] = data else { return };
    let limits = if choice & 2 == 0 { &HeadLimits::DEFAULT } else { &SMALL };
    let step = usize::from(step % 9) + 1;
    if choice & 1 == 0 {
        let mut table = RequestTable::new();
        let whole = parse_request(bytes, limits, &mut table);
        let mut pieces = RequestTable::new();
        same_in_pieces(bytes, step, whole, |bytes| parse_request(bytes, limits, &mut pieces));
        if let Ok(Parse::Complete { head_bytes }) = whole {
            assert!(head_bytes <= limits.head_bytes_max && table.fields.len() <= limits.fields_max);
            assert!(usize::from(table.target_span.len) <= limits.target_bytes_max);
            assert_eq!(format!("{:?}", pieces.fields.as_slice()), format!("{:?}", table.fields.as_slice()));
            assert_eq!(
                (pieces.framing, pieces.keep_alive, pieces.target_span, pieces.host, pieces.plain_path),
                (table.framing, table.keep_alive, table.target_span, table.host, table.plain_path),
            );
            let head = &bytes[..head_bytes];
            let first = oracle_fields(head, &table.fields);
            let words: Vec<&[u8]> = first.split(|b| *b == b' ').collect();
            assert_eq!(words.len(), 3);
            assert_eq!(words[0], table.method_span.of(head));
            assert_eq!(words[1], table.target_span.of(head));
            assert_eq!(words[2], if table.version == Version::Http11 { b"HTTP/1.1" } else { b"HTTP/1.0" });
            assert!(!matches!(table.method, Method::Connect | Method::Trace));
            oracle_framing(head, &table.fields, table.framing);
        }
    } else {
        let method = if choice & 4 == 0 { Method::Get } else { Method::Head };
        let mut table = ResponseTable::new();
        let whole = parse_response(bytes, limits, method, &mut table);
        let mut pieces = ResponseTable::new();
        same_in_pieces(bytes, step, whole, |bytes| parse_response(bytes, limits, method, &mut pieces));
        if let Ok(Parse::Complete { head_bytes }) = whole {
            assert_eq!(format!("{:?}", pieces.fields.as_slice()), format!("{:?}", table.fields.as_slice()));
            assert_eq!((pieces.status, pieces.framing), (table.status, table.framing));
            let head = &bytes[..head_bytes];
            let first = oracle_fields(head, &table.fields);
            assert!(first.starts_with(b"HTTP/1.") && (100..600).contains(&table.status));
            oracle_framing(head, &table.fields, table.declared);
        }
    }
}

/// Feeds ever longer beginnings of `bytes`; the verdict must be that of the whole. It may come later: a line that is
/// refused before its end is then refused at its end, for the same reason.
fn same_in_pieces(
    bytes: &[u8],
    step: usize,
    whole: Result<Parse, Reason>,
    mut parse: impl FnMut(&[u8]) -> Result<Parse, Reason>,
) {
    for len in (0..bytes.len()).step_by(step) {
        match parse(&bytes[..len]) {
            Ok(Parse::Partial) => {}
            early => return assert_eq!(early, whole),
        }
    }
    let last = parse(bytes);
    if last != whole {
        assert_eq!(last, Ok(Parse::Partial));
        let ended = [bytes, b"\n"].concat();
        assert_eq!(parse(&ended), whole);
    }
}

/// Cuts a head at its CRLFs and compares the fields; returns the first line.
fn oracle_fields<'a>(head: &'a [u8], fields: &FieldTable) -> &'a [u8] {
    assert!(head.ends_with(b"\r\n\r\n"));
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n'), "bare CR"),
            b'\n' => assert!(at > 0 && head[at - 1] == b'\r', "bare LF"),
            b'\t' => {}
            0..=0x1f | 0x7f => panic!("control accepted"),
            _ => {}
        }
    }
    let text: Vec<&[u8]> = head[..head.len() - 4].split(|b| *b == b'\n').collect();
    let mut lines = text.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let mut sent = fields.iter(head);
    for line in lines {
        let colon = line.iter().position(|b| *b == b':').expect("a line without colon was accepted");
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let field = sent.next().expect("a field is missing");
        assert_eq!(field.name, name);
        // ASCII white space besides SP and HTAB are controls, which were refused above.
        assert_eq!(field.value, value);
        assert!(
            !name.is_empty()
                && name.iter().all(|b| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(b))
        );
        let lower = name.to_ascii_lowercase();
        let known = Known::ALL.into_iter().find(|k| k.name().as_bytes() == lower).unwrap_or_default();
        assert_eq!(field.known, known);
        let regular = line == [name, b": ", value].concat() && !value.is_empty();
        assert_eq!(fields.irregular().contains(field.index), !regular);
    }
    assert_eq!(sent.next(), None, "a field too many");
    first
}

/// The framing fields, judged by counting them.
fn oracle_framing(head: &[u8], fields: &FieldTable, framing: BodyLength) {
    let values = |name: &[u8]| -> Vec<&[u8]> {
        fields.iter(head).filter(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value).collect()
    };
    match (&values(b"content-length")[..], &values(b"transfer-encoding")[..]) {
        ([], []) => assert_eq!(framing, BodyLength::None),
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"));
            assert_eq!(framing, BodyLength::Chunked);
        }
        ([length], []) => {
            let length = str::from_utf8(length).ok().and_then(|l| l.parse().ok()).expect("a length");
            assert!(framing == BodyLength::Length(length) || length == 0 && framing == BodyLength::None);
        }
        _ => panic!("ambiguous framing accepted"),
    }
}

/// Bodies: data, trailers, verdict and end do not depend on how the bytes were cut, and what we encode we decode.
/// The first byte chooses the framing, the second how the bytes are cut.
pub fn chunked(data: &[u8]) {
    let [choice, step, bytes @ ..] = data else { return };
    let body = match choice % 4 {
        0 => Body::of_request(BodyLength::Length(u64::from(*step))),
        1 => Body::of_response(BodyLength::Chunked),
        _ => Body::of_request(BodyLength::Chunked),
    };
    let whole = collect(&mut body.clone(), bytes, usize::MAX);
    assert_eq!(whole, collect(&mut body.clone(), bytes, usize::from(step % 9) + 1));
    assert_eq!(whole, collect(&mut body.clone(), bytes, 1));
    let Ok((content, trailers, Some(end))) = whole else { return };
    assert!(end <= bytes.len() && content.len() <= end);
    let Body::Chunked(_) = body else {
        assert_eq!(content, &bytes[..end]);
        return;
    };
    let mut encoded = Vec::new();
    for piece in content.chunks(usize::from(*step) + 1) {
        encoded.extend_from_slice(chunk_head(piece.len(), &mut [0; CHUNK_HEAD_BYTES_MAX]));
        encoded.extend_from_slice(piece);
        encoded.extend_from_slice(b"\r\n");
    }
    push_last_chunk(&mut encoded, &trailers);
    let end = encoded.len();
    encoded.extend_from_slice(b"GET / HTTP/1.1\r\n");
    assert_eq!(collect(&mut body.clone(), &encoded, 7), Ok((content, trailers, Some(end))));
}

/// Content, trailers, and where the body ended if it did.
type Collected = (Vec<u8>, Vec<u8>, Option<usize>);

fn collect(body: &mut Body, bytes: &[u8], step: usize) -> Result<Collected, Reason> {
    let mut content = Vec::new();
    let mut at = 0;
    let mut limit = step.min(bytes.len());
    loop {
        let input = &bytes[at..limit];
        match body.decode(input)? {
            Step::Data { start, end, consumed } => {
                assert!(start < end && end <= consumed && consumed <= input.len());
                content.extend_from_slice(&input[start..end]);
                at += consumed;
            }
            Step::NeedMore { consumed } => {
                assert_eq!(consumed, input.len());
                assert!(!body.is_complete());
                at += consumed;
                if limit == bytes.len() {
                    return Ok((content, body.trailers().to_vec(), None));
                }
                limit = limit.saturating_add(step).min(bytes.len());
            }
            Step::End { consumed } => {
                assert!(body.is_complete() && body.close().is_ok());
                at += consumed;
                return Ok((content, body.trailers().to_vec(), Some(at)));
            }
        }
    }
}

/// What is accepted, forwarded and encoded is accepted again, means the same, and is a fixed point. The first byte
/// chooses the direction.
pub fn round_trip(data: &[u8]) {
    let [choice, bytes @ ..] = data else { return };
    let again = HeadLimits { head_bytes_max: 65_535, fields_max: 128, ..HeadLimits::DEFAULT };
    if choice & 1 == 0 {
        let Some(first) = forwarded_request(bytes, &HeadLimits::DEFAULT) else { return };
        let second = forwarded_request(&first, &again).expect("our own request was refused");
        assert_eq!(str::from_utf8(&first), str::from_utf8(&second));
    } else {
        let method = if choice & 2 == 0 { Method::Get } else { Method::Head };
        let Some(first) = forwarded_response(bytes, method, &HeadLimits::DEFAULT) else { return };
        let second = forwarded_response(&first, method, &again).expect("our own response was refused");
        assert_eq!(first, second);
    }
}

/// Parses, brings into canonical form, applies the forwarding law, encodes; checks the encoded head against the table.
fn forwarded_request(bytes: &[u8], limits: &HeadLimits) -> Option<Vec<u8>> {
    let mut table = RequestTable::new();
    let Ok(Parse::Complete { head_bytes }) = parse_request(bytes, limits, &mut table) else { return None };
    let head = &bytes[..head_bytes];
    let mut scratch = Vec::new();
    let target = target::canonical(head, &table, EncodedSlash::Refuse, &mut scratch).ok()?;
    let skip = forward::request_skip(head, &table, &RenamedIdentity::default());
    let mut out = Vec::new();
    let line = RequestLine {
        method: table.method_span.of(head),
        path: target.path.of(head, &scratch),
        query: target.query.map(|query| query.of(head)),
    };
    encode_request(&mut out, &line, head, &table.fields, &skip, b"", table.framing);
    let kept: Vec<_> =
        table.fields.iter(head).filter(|f| !skip.contains(f.index)).map(|f| (f.name, f.value)).collect();
    let mut again = RequestTable::new();
    let wide =
        HeadLimits { head_bytes_max: 65_535, fields_max: 128, target_bytes_max: 16_384, ..limits.clone() };
    assert_eq!(parse_request(&out, &wide, &mut again), Ok(Parse::Complete { head_bytes: out.len() }));
    let written: Vec<_> =
        again.fields.iter(&out).filter(|f| !f.known.is_framing()).map(|f| (f.name, f.value)).collect();
    assert_eq!(written, kept);
    assert!(again.framing == table.framing || again.framing.is_empty() && table.framing.is_empty());
    assert!(again.keep_alive && !again.upgrade && !again.expect_continue);
    for field in again.fields.iter(&out) {
        let ours = field.known.is_framing();
        assert!(
            ours || !field.known.is_hop_by_hop()
                && !field.known.is_forwarding()
                && !field.known.is_override()
        );
        assert!(!forward::is_identity(field.name));
    }
    Some(out)
}

fn forwarded_response(bytes: &[u8], method: Method, limits: &HeadLimits) -> Option<Vec<u8>> {
    let mut table = ResponseTable::new();
    let Ok(Parse::Complete { head_bytes }) = parse_response(bytes, limits, method, &mut table) else {
        return None;
    };
    let head = &bytes[..head_bytes];
    let skip = forward::response_skip(&table);
    let without_body = matches!(table.status, 100..=199 | 204 | 304) || method == Method::Head;
    let framing = if without_body { table.declared } else { table.framing };
    let mut out = Vec::new();
    encode_response(&mut out, table.status, head, &table.fields, &skip, b"", framing);
    let kept: Vec<_> =
        table.fields.iter(head).filter(|f| !skip.contains(f.index)).map(|f| (f.name, f.value)).collect();
    let mut again = ResponseTable::new();
    let wide = HeadLimits { head_bytes_max: 65_535, fields_max: 128, ..limits.clone() };
    assert_eq!(
        parse_response(&out, &wide, method, &mut again),
        Ok(Parse::Complete { head_bytes: out.len() })
    );
    let written: Vec<_> =
        again.fields.iter(&out).filter(|f| !f.known.is_framing()).map(|f| (f.name, f.value)).collect();
    assert_eq!(written, kept);
    assert_eq!((again.status, again.framing, again.declared), (table.status, table.framing, table.declared));
    Some(out)
}

/// Requests one behind another: each that is taken goes out as one, and whoever reads what went out by the plainest rules
/// there are finds the same requests with the same bodies, and nothing between them. The first byte says how the bytes
/// are cut.
pub fn stream(data: &[u8]) {
    let [step, bytes @ ..] = data else { return };
    let (mut sent, mut out) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    while let Some((head_bytes, table)) = next_request(rest) {
        let mut body = Body::of_request(table.framing);
        let Ok((content, _, Some(end))) = collect(&mut body, &rest[head_bytes..], usize::from(*step) + 1)
        else {
            break;
        };
        let head = &rest[..head_bytes];
        let from = out.len();
        let Some(target) = forward_request(head, &table, &mut out) else { break };
        let line = [table.method_span.of(head).to_vec(), target];
        match table.framing {
            BodyLength::Chunked => {
                for piece in content.chunks(usize::from(*step) + 1) {
                    out.extend_from_slice(chunk_head(piece.len(), &mut [0; CHUNK_HEAD_BYTES_MAX]));
                    out.extend_from_slice(piece);
                    out.extend_from_slice(b"\r\n");
                }
                push_last_chunk(&mut out, b"");
            }
            _ => out.extend_from_slice(&content),
        }
        assert!(out.len() > from);
        sent.push((line, content));
        rest = &rest[head_bytes + end..];
        if !table.keep_alive {
            break;
        }
    }
    assert_eq!(read_plainly(&out), sent);
}

fn next_request(bytes: &[u8]) -> Option<(usize, RequestTable)> {
    let mut table = RequestTable::new();
    match parse_request(bytes, &HeadLimits::DEFAULT, &mut table) {
        Ok(Parse::Complete { head_bytes }) => Some((head_bytes, table)),
        _ => None,
    }
}

/// Encodes one head as it goes upstream; gives the path and query that it has there.
fn forward_request(head: &[u8], table: &RequestTable, out: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut scratch = Vec::new();
    let target = target::canonical(head, table, EncodedSlash::Keep, &mut scratch).ok()?;
    let skip = forward::request_skip(head, table, &RenamedIdentity::default());
    let path = target.path.of(head, &scratch);
    let query = target.query.map(|query| query.of(head));
    let line = RequestLine { method: table.method_span.of(head), path, query };
    encode_request(out, &line, head, &table.fields, &skip, b"", table.framing);
    Some([path, if query.is_some() { b"?" } else { b"" }, query.unwrap_or_default()].concat())
}

/// Method and target, and the body.
type Plain = ([Vec<u8>; 2], Vec<u8>);

/// Reads requests as somebody would who knows RFC 9112 from hearsay: up to the empty line, by Content-Length if there is
/// one, by chunks if there is any Transfer-Encoding.
fn read_plainly(bytes: &[u8]) -> Vec<Plain> {
    let find = |at: usize, what: &[u8]| memchr::memmem::find(&bytes[at..], what).map(|found| at + found);
    let mut requests = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = find(at, b"\r\n\r\n").expect("a whole head") + 4;
        let head = bytes[at..end].to_ascii_lowercase();
        let value = |name: &[u8]| {
            let start = memchr::memmem::find(&head, name)? + name.len();
            str::from_utf8(&head[start..start + memchr::memchr(b'\r', &head[start..])?]).ok()
        };
        let mut words = bytes[at..end].split(|byte| matches!(byte, b' ' | b'\r'));
        let line = [words.next(), words.next()].map(|word| word.unwrap_or_default().to_vec());
        let mut body = Vec::new();
        at = end;
        if value(b"\r\ntransfer-encoding:").is_some() {
            loop {
                let line_end = find(at, b"\r\n").expect("a size");
                let digits = str::from_utf8(&bytes[at..line_end]).expect("digits");
                let size = usize::from_str_radix(digits, 16).expect("a number");
                at = line_end + 2 + size + 2;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&bytes[line_end + 2..line_end + 2 + size]);
            }
        } else if let Some(length) = value(b"\r\ncontent-length:") {
            let length: usize = length.trim().parse().expect("a length");
            body.extend_from_slice(&bytes[at..at + length]);
            at += length;
        }
        requests.push((line, body));
    }
    requests
}

/// Targets: the canonical form is canonical, means the same bytes, and is found by the fast way exactly when the slow
/// way would leave the path alone.
pub fn target(data: &[u8]) {
    let head = [b"OPTIONS ", data, b" HTTP/1.1\r\nHost: Example.com:8080\r\n\r\n"].concat();
    let mut table = RequestTable::new();
    let parsed = parse_request(&head, &HeadLimits::DEFAULT, &mut table);
    // A target that ends within the data leaves a head of its own behind it.
    if !matches!(parsed, Ok(Parse::Complete { .. })) || table.target_span.of(&head) != data {
        return;
    }
    let mut scratch = Vec::new();
    let found = target::canonical(&head, &table, EncodedSlash::Refuse, &mut scratch);
    if !table.plain_path.is_empty() {
        // The fast way and the slow way agree.
        let mut slow = table.clone();
        slow.plain_path = crate::http::Span::default();
        assert_eq!(target::canonical(&head, &slow, EncodedSlash::Refuse, &mut Vec::new()), found);
    }
    kept_slash(&head, &table);
    let Ok(found) = found else { return };
    assert_eq!((found.host.of(&head, &scratch), found.port), (&b"example.com"[..], 8080));
    let path = found.path.of(&head, &scratch);
    if path == b"*" {
        return assert_ne!(found.form, Form::Origin);
    }
    assert!(path.starts_with(b"/"));
    for segment in path[1..].split(|b| *b == b'/') {
        assert!(segment != b"." && segment != b"..");
    }
    let segments = path[1..].split(|b| *b == b'/').count();
    let empty = path[1..].split(|b| *b == b'/').take(segments - 1).any(<[u8]>::is_empty);
    assert!(!empty, "an empty segment before the last");
    assert!(!path.iter().any(|b| !b.is_ascii_graphic() || b";\\\"<>^`{|}#?[]".contains(b)));
    let decoded = decode(path);
    assert!(str::from_utf8(&decoded).is_ok_and(|text| !text.chars().any(char::is_control)));
    for window in path.windows(3).filter(|w| w[0] == b'%') {
        assert!(window[1..].iter().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(b)));
        assert!(!decode(window)[0].is_ascii_alphanumeric());
    }
    assert!(decoded.iter().filter(|b| **b == b'/').count() == segments, "an encoded slash");
    assert_eq!(decode(&decoded), decoded, "who decodes twice sees another path");
    // What was sent decodes to the same bytes.
    let sent = table.target_span.of(&head);
    let sent = &sent[..sent.iter().position(|b| *b == b'?').unwrap_or(sent.len())];
    if found.form == Form::Origin {
        assert_eq!(decoded, decode(sent));
    }
    // It is a fixed point, found by the fast way.
    let again = [b"OPTIONS ", path, b" HTTP/1.1\r\nHost: example.com:8080\r\n\r\n"].concat();
    assert!(matches!(parse_request(&again, &HeadLimits::DEFAULT, &mut table), Ok(Parse::Complete { .. })));
    let mut unused = Vec::new();
    let second =
        target::canonical(&again, &table, EncodedSlash::Refuse, &mut unused).expect("a canonical path");
    assert!(matches!(second.path, Place::Head(_)));
    assert_eq!(second.path.of(&again, &unused), path);
}

/// Where encoded slashes are kept: only there is anything else found, and dots stay away from them.
fn kept_slash(head: &[u8], table: &RequestTable) {
    let mut scratch = Vec::new();
    let refused = target::canonical(head, table, EncodedSlash::Refuse, &mut scratch);
    let Ok(kept) = target::canonical(head, table, EncodedSlash::Keep, &mut scratch) else {
        return assert!(refused.is_err());
    };
    let path = kept.path.of(head, &scratch).to_vec();
    assert_eq!(kept.encoded_slash, path.windows(3).any(|escape| escape == b"%2F"));
    assert_eq!(kept.encoded_slash, refused.is_err());
    let mut decoded = path.clone();
    target::decode_slashes(&mut decoded, 0);
    assert_eq!(
        decoded.iter().filter(|b| **b == b'/').count(),
        decode(&path).iter().filter(|b| **b == b'/').count()
    );
    assert!(decoded.split(|b| *b == b'/').all(|segment| segment != b"." && segment != b".."));
}

/// Percent-decodes once.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        // `from_str_radix` would take a sign.
        let digits = |escape: &&[u8]| path[at] == b'%' && escape.iter().all(u8::is_ascii_hexdigit);
        let escape = path.get(at + 1..at + 3).filter(digits);
        match escape.and_then(|e| str::from_utf8(e).ok()).and_then(|e| u8::from_str_radix(e, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}
