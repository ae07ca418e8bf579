//! Whether a request is a call of gRPC, and in which of its styles.
//!
//! For: the pipeline, once per request, before anything is answered: a refusal of a call is a `grpc-status`. Not for: the
//! path, which the router reads like any other.
//!
//! Cost for all other requests: the four bytes of the content type that would be `grpc` are compared, where there are as many.

use memchr::memchr;

use crate::http::media_type::MediaType;
use crate::http::{Known, Method, RequestTable, Span, scan};

const GRPC: &[u8] = b"application/grpc";
const WEB: &[u8] = b"-web";
const WEB_TEXT: &[u8] = b"-web-text";

/// How messages and status of a call lie in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// gRPC over HTTP/2: the status is in the trailers.
    Grpc,
    /// gRPC-Web: the status is in the last frame of the body.
    Web,
    /// gRPC-Web, and the body is in base64.
    WebText,
}

impl Style {
    /// Every style.
    pub const ALL: [Style; 3] = [Style::Grpc, Style::Web, Style::WebText];

    /// Whether the status is in the body.
    pub fn is_web(self) -> bool {
        self != Style::Grpc
    }

    /// The media type of an answer of ours. It has no message, so that its format stands for nothing; but PROTOCOL-WEB,
    /// "Content-Type", has the sender always specify one.
    pub fn answer_type(self) -> &'static str {
        match self {
            Style::Grpc => "application/grpc",
            Style::Web => "application/grpc-web+proto",
            Style::WebText => "application/grpc-web-text+proto",
        }
    }

    fn essence(self) -> &'static [u8] {
        match self {
            Style::Grpc => GRPC,
            Style::Web => b"application/grpc-web",
            Style::WebText => b"application/grpc-web-text",
        }
    }
}

/// A request that is a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// How the request is sent.
    pub style: Style,
    /// How the client wants the response: as the request, or as text where `Accept` says so.
    pub answer: Style,
    /// Where the format of the messages stands in the head (`proto`); empty where it is not named.
    pub format: Span,
}

impl Call {
    /// The call that a request is; `None` if it is none. `head` is what the table was made from.
    ///
    /// Strict (PROTOCOL-HTTP2, "Requests"): POST, and one content type of exactly `application/grpc`, `application/grpc-web` or
    /// `application/grpc-web-text`, whatever its case, behind which `+` and a format may stand, and parameters that are
    /// well-formed. `application/grpcx` is something else.
    #[inline]
    pub fn of(table: &RequestTable, head: &[u8]) -> Option<Call> {
        let value = table.fields.find(Known::ContentType)?.value();
        let word = value.of(head).get(12..GRPC.len())?.first_chunk::<4>()?;
        match u32::from_le_bytes(*word) | 0x2020_2020 == u32::from_le_bytes(*b"grpc") {
            true => Call::read(table, head, value),
            false => None,
        }
    }

    #[inline(never)]
    fn read(table: &RequestTable, head: &[u8], value: Span) -> Option<Call> {
        if table.method != Method::Post || table.fields.is_repeated(Known::ContentType) {
            return None;
        }
        let essence = essence(value.of(head))?;
        let (style, format) = split(essence)?;
        // The essence is what the value begins with, and the format what the essence ends with.
        let end = usize::from(value.start) + essence.len();
        let format = Span::new(end - format.len(), end);
        let wants_text = style == Style::Web && accepts_text(table, head);
        Some(Call { style, answer: if wants_text { Style::WebText } else { style }, format })
    }

    /// Appends the line of the content type with which the call goes to an upstream that speaks gRPC.
    pub fn push_upstream_type(&self, head: &[u8], out: &mut Vec<u8>) {
        push_type(Style::Grpc, self.format.of(head), out);
    }

    /// Appends the line of the content type with which a response goes to the client: the upstream's `value` in the style that
    /// the client wants. `false`, and nothing is appended, where the upstream did not answer in gRPC: then the client gets a
    /// status in its place ([`super::Status::from_http`]).
    pub fn push_response_type(&self, value: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((Style::Grpc, format)) = essence(value).and_then(split) else { return false };
        push_type(self.answer, format, out);
        true
    }
}

/// PROTOCOL-WEB, "Text-encoded (response) streams": the client says in `Accept` that it needs text.
fn accepts_text(table: &RequestTable, head: &[u8]) -> bool {
    let values = table.fields.find_all(Known::Accept).map(|(_, field)| field.value().of(head));
    values.flat_map(|value| value.split(|&byte| byte == b',')).any(|member| {
        let essence = member.split(|&byte| byte == b';').next().unwrap_or_default();
        split(essence.trim_ascii()).is_some_and(|(style, _)| style == Style::WebText)
    })
}

/// The media type without its parameters, where they are well-formed; most have none.
fn essence(value: &[u8]) -> Option<&[u8]> {
    match memchr(b';', value) {
        Some(_) => MediaType::parse(value).ok().map(|media_type| media_type.essence),
        None => Some(value),
    }
}

/// The style that a media type stands for, and the format of the messages where it is named.
fn split(essence: &[u8]) -> Option<(Style, &[u8])> {
    let rest = behind(essence, GRPC)?;
    let (style, rest) = if let Some(rest) = behind(rest, WEB_TEXT) {
        (Style::WebText, rest)
    } else if let Some(rest) = behind(rest, WEB) {
        (Style::Web, rest)
    } else {
        (Style::Grpc, rest)
    };
    match rest {
        [] => Some((style, rest)),
        [b'+', format @ ..] if scan::is_token(format) => Some((style, format)),
        _ => None,
    }
}

fn behind<'a>(bytes: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = bytes.split_at_checked(start.len())?;
    found.eq_ignore_ascii_case(start).then_some(rest)
}

fn push_type(style: Style, format: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"content-type: ");
    out.extend_from_slice(style.essence());
    match (style, format) {
        (Style::Grpc, []) => {}
        // PROTOCOL-WEB, "Content-Type": who receives it without a format assumes `+proto`, who sends it names one.
        (_, []) => out.extend_from_slice(b"+proto"),
        (_, format) => {
            out.push(b'+');
            out.extend_from_slice(format);
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::parse::{Parse, parse_request};
    use crate::http::HeadLimits;

    fn head(method: &str, fields: &str) -> (RequestTable, Vec<u8>) {
        let head =
            format!("{method} /pkg.Service/Method HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{fields}\r\n");
        let mut table = RequestTable::new();
        let parsed = parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut table);
        assert_eq!(parsed, Ok(Parse::Complete { head_bytes: head.len() }), "{head}");
        (table, head.into_bytes())
    }

    fn typed(content_type: &str) -> Option<(Style, String)> {
        let (table, head) = head("POST", &format!("Content-Type: {content_type}\r\n"));
        let call = Call::of(&table, &head)?;
        assert_eq!(call.answer, call.style);
        Some((call.style, String::from_utf8_lossy(call.format.of(&head)).into_owned()))
    }

    #[test]
    fn calls_are_known_by_their_content_type() {
        // PROTOCOL-HTTP2 "Requests", Content-Type; PROTOCOL-WEB "Content-Type".
        for (content_type, style, format) in [
            ("application/grpc", Style::Grpc, ""),
            ("application/grpc+proto", Style::Grpc, "proto"),
            ("application/grpc+json", Style::Grpc, "json"),
            ("application/grpc+vnd.x", Style::Grpc, "vnd.x"),
            ("Application/GRPC+Proto", Style::Grpc, "Proto"),
            ("application/grpc;charset=utf-8", Style::Grpc, ""),
            ("application/grpc+proto ; charset=utf-8", Style::Grpc, "proto"),
            ("application/grpc-web", Style::Web, ""),
            ("application/grpc-web+proto", Style::Web, "proto"),
            ("application/grpc-web+thrift", Style::Web, "thrift"),
            ("application/grpc-web-text", Style::WebText, ""),
            ("application/grpc-web-text+proto", Style::WebText, "proto"),
            ("APPLICATION/GRPC-WEB-TEXT+proto", Style::WebText, "proto"),
        ] {
            assert_eq!(typed(content_type), Some((style, format.to_owned())), "{content_type}");
        }
    }

    #[test]
    fn what_only_looks_like_a_call_is_none() {
        for content_type in [
            "application/grpcx",
            "application/grpc-",
            "application/grpc+",
            "application/grpc-web+",
            "application/grpc-webx",
            "application/grpc-web-",
            "application/grpc-web-textual",
            "application/grpc-web-text-base64",
            "application/grpc/proto",
            "application/grpc, application/json",
            "application/grpc proto",
            "application/grpc;x",
            "application/grp",
            "application/gzip",
            "application/json",
            "xapplication/grpc",
            "text/xxxxxxxgrpc",
            "a/b",
            "",
        ] {
            assert_eq!(typed(content_type), None, "{content_type}");
        }
        for method in ["GET", "PUT", "OPTIONS"] {
            let (table, head) = head(method, "Content-Type: application/grpc\r\n");
            assert_eq!(Call::of(&table, &head), None, "{method}");
        }
        let (table, head) = head("POST", "");
        assert_eq!(Call::of(&table, &head), None);
    }

    #[test]
    fn the_answer_is_text_where_the_client_needs_it() {
        for (accept, answer) in [
            ("application/grpc-web-text", Style::WebText),
            ("text/html, application/grpc-web-text+proto;q=0.5", Style::WebText),
            ("*/*", Style::Web),
            ("application/grpc-web-texts", Style::Web),
            (",,;", Style::Web),
        ] {
            let (table, head) =
                head("POST", &format!("Accept: {accept}\r\nContent-Type: application/grpc-web\r\n"));
            let call = Call::of(&table, &head).expect("a call");
            assert_eq!((call.style, call.answer), (Style::Web, answer), "{accept}");
        }
        let (table, head) =
            head("POST", "Accept: application/grpc-web-text\r\nContent-Type: application/grpc\r\n");
        assert_eq!(Call::of(&table, &head).map(|call| call.answer), Some(Style::Grpc));
    }

    #[test]
    fn content_types_are_translated_both_ways() {
        let lines = |content_type: &str, upstream: &str| {
            let (table, head) = head("POST", &format!("Content-Type: {content_type}\r\n"));
            let call = Call::of(&table, &head).expect("a call");
            let (mut there, mut back) = (Vec::new(), Vec::new());
            call.push_upstream_type(&head, &mut there);
            let is_grpc = call.push_response_type(upstream.as_bytes(), &mut back);
            assert_eq!(is_grpc, !back.is_empty());
            (String::from_utf8(there).expect("text"), String::from_utf8(back).expect("text"))
        };
        for (content_type, upstream, there, back) in [
            ("application/grpc-web", "application/grpc", "application/grpc", "application/grpc-web+proto"),
            (
                "application/grpc-web+json",
                "application/grpc+json",
                "application/grpc+json",
                "application/grpc-web+json",
            ),
            (
                "application/grpc-web-text+proto",
                "Application/grpc",
                "application/grpc+proto",
                "application/grpc-web-text+proto",
            ),
            ("application/grpc+proto", "application/grpc", "application/grpc+proto", "application/grpc"),
        ] {
            let found = lines(content_type, upstream);
            let line = |value: &str| format!("content-type: {value}\r\n");
            assert_eq!(found, (line(there), line(back)), "{content_type}");
        }
        for upstream in ["text/html", "application/grpc-web+proto", "application/grpcx", ""] {
            assert_eq!(lines("application/grpc-web", upstream).1, "", "{upstream}");
        }
    }
}
