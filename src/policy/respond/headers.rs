//! `headers`: fields set and removed, in either direction, and the security fields of a response.
//!
//! # What it does
//! `remove` drops every field of a name, and of each name that is the same where `-` and `_` are; `set` drops them and adds one of ours. Values are literal. A response without
//! `X-Content-Type-Options`, `Referrer-Policy` or (over TLS, to a name) `Strict-Transport-Security` gets ours; one that says
//! nothing of who may frame it, in `Content-Security-Policy` or `X-Frame-Options`, gets `frame-ancestors 'none'`; `Server` and
//! `X-Powered-By` are not passed on. What the operator sets or removes is the operator's: none of ours is added then.
//!
//! # Configuration
//! `headers: { request: { set: {X-A: b}, remove: [X-C] }, response: { … } }`. Framing, hop-by-hop and identity names are
//! config errors.
//!
//! # Cost
//! One look at the table of known names per edit, a comparison of names for those that have no id; no allocation.
//!
//! # References
//! RFC 9110 §7.6; RFC 6797; OWASP Secure Headers.

use crate::http::field::{FieldSet, FieldTable, Known, KnownSet, are_twins};

/// The edits of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edits {
    /// Names, lower case, whose fields are dropped.
    drop: Vec<(Known, Box<[u8]>)>,
    /// Those of them that have an id.
    decided: KnownSet,
    /// Encoded lines that are added.
    lines: Vec<u8>,
}

impl Default for Edits {
    fn default() -> Edits {
        Edits { drop: Vec::new(), decided: KnownSet::EMPTY, lines: Vec::new() }
    }
}

impl Edits {
    /// Drops every field called `name`.
    pub fn remove(&mut self, name: &str) {
        let name = name.to_ascii_lowercase().into_bytes();
        self.decided = self.decided.with(Known::of(&name));
        if !self.drop.iter().any(|(_, other)| **other == *name) {
            self.drop.push((Known::of(&name), name.into_boxed_slice()));
        }
    }

    /// Drops every field called `name` and adds one with `value`. Both have been checked by the configuration.
    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.lines.extend_from_slice(name.as_bytes());
        self.lines.extend_from_slice(b": ");
        self.lines.extend_from_slice(value.as_bytes());
        self.lines.extend_from_slice(b"\r\n");
    }

    /// The known fields that are set or removed: nobody else decides about those.
    pub fn decided(&self) -> KnownSet {
        self.decided
    }

    /// The encoded lines that are added.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty()
    }

    /// Marks what is dropped in `skip` and appends what is added to `inserts`.
    pub fn apply(&self, fields: &FieldTable, bytes: &[u8], skip: &mut FieldSet, inserts: &mut Vec<u8>) {
        self.drop_from(fields, bytes, skip);
        inserts.extend_from_slice(&self.lines);
    }

    /// Marks what is dropped, or would be replaced, in `skip`.
    pub fn drop_from(&self, fields: &FieldTable, bytes: &[u8], skip: &mut FieldSet) {
        for (known, name) in &self.drop {
            match known {
                Known::Other => {
                    for (index, _) in fields.find_names(bytes, name) {
                        skip.insert(index);
                    }
                }
                known => {
                    for (index, _) in fields.find_all(*known) {
                        skip.insert(index);
                    }
                }
            }
        }
        if !fields.odd().is_empty() {
            self.drop_twins(fields, bytes, skip);
        }
    }

    /// Whoever takes `X_Debug` for `X-Debug` (CGI, WSGI) must not get the one where the other was dropped.
    #[cold]
    fn drop_twins(&self, fields: &FieldTable, bytes: &[u8], skip: &mut FieldSet) {
        for field in fields.iter(bytes) {
            if self.drop.iter().any(|(_, name)| are_twins(name, field.name)) {
                skip.insert(field.index);
            }
        }
    }
}

/// Marks the fields that tell what an upstream is made of in `skip`.
pub fn drop_banners(fields: &FieldTable, skip: &mut FieldSet) {
    const DISCLOSING: KnownSet = KnownSet::of(&[Known::Server, Known::XPoweredBy]);
    if fields.has_any(&DISCLOSING) {
        for known in [Known::Server, Known::XPoweredBy] {
            for (index, _) in fields.find_all(known) {
                skip.insert(index);
            }
        }
    }
}

/// The security fields that a response of an upstream gets, and the banners that it loses. About fields in `decided` the
/// operator has decided.
pub fn secure_response(
    status: u16,
    fields: &FieldTable,
    bytes: &[u8],
    decided: KnownSet,
    strict_transport: bool,
    skip: &mut FieldSet,
    inserts: &mut Vec<u8>,
) {
    drop_banners(fields, skip);
    if status == 304 {
        // RFC 9111 §3.2: a cache puts the fields of a 304 in the place of those that it has stored. Upstreams leave out there what
        // does not change, and ours would replace it; what is stored has ours already if it lacked its own.
    } else if !decided.meets(&SECURITY) && !fields.has_any(&SECURITY) {
        inserts.extend_from_slice(ALL);
    } else {
        let settled = |known: Known| fields.has(known) || decided.contains(known);
        let framing = says_who_may_frame(fields, bytes);
        push_missing(settled, framing, decided, inserts);
    }
    if strict_transport && !fields.has(Known::StrictTransportSecurity) {
        push_strict_transport(decided, inserts);
    }
}

/// The security fields of an answer of our own.
pub fn secure_answer(decided: KnownSet, strict_transport: bool, out: &mut Vec<u8>) {
    match decided.meets(&SECURITY) {
        false => out.extend_from_slice(ALL),
        true => push_missing(|known| decided.contains(known), false, decided, out),
    }
    if strict_transport {
        push_strict_transport(decided, out);
    }
}

/// The fields on which it hangs what of [`ALL`] is added.
const SECURITY: KnownSet = KnownSet::of(&[
    Known::XContentTypeOptions,
    Known::ReferrerPolicy,
    Known::ContentSecurityPolicy,
    Known::XFrameOptions,
]);

const NO_SNIFF: &[u8] = b"x-content-type-options: nosniff\r\n";
const NO_REFERRER: &[u8] = b"referrer-policy: no-referrer\r\n";
const NO_FRAMES: &[u8] = b"content-security-policy: frame-ancestors 'none'\r\n";
const ALL: &[u8] = b"x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n\
    content-security-policy: frame-ancestors 'none'\r\n";

#[cold]
fn push_missing(settled: impl Fn(Known) -> bool, framing: bool, decided: KnownSet, inserts: &mut Vec<u8>) {
    if !settled(Known::XContentTypeOptions) {
        inserts.extend_from_slice(NO_SNIFF);
    }
    if !settled(Known::ReferrerPolicy) {
        inserts.extend_from_slice(NO_REFERRER);
    }
    // A second policy narrows the first one and replaces nothing of it (CSP 3 §8.1): the upstream's stays in force.
    let decided = decided.contains(Known::ContentSecurityPolicy) || decided.contains(Known::XFrameOptions);
    if !framing && !decided {
        inserts.extend_from_slice(NO_FRAMES);
    }
}

/// Whether the upstream has said who may frame its answer. `frame-ancestors` overrides `X-Frame-Options` (CSP 3 §6.4.2), so
/// ours would undo an upstream's `SAMEORIGIN`.
fn says_who_may_frame(fields: &FieldTable, bytes: &[u8]) -> bool {
    let values = |known| fields.find_all(known).map(|(_, field)| field.value().of(bytes));
    let ancestors = |policy: &[u8]| {
        policy.split(|&byte| byte == b';' || byte == b',').any(|directive| {
            let directive = directive.trim_ascii_start();
            let end = directive.iter().position(u8::is_ascii_whitespace).unwrap_or(directive.len());
            directive[..end].eq_ignore_ascii_case(b"frame-ancestors")
        })
    };
    // Other words, `ALLOW-FROM` among them, are ignored by browsers.
    let words: [&[u8]; 2] = [b"deny", b"sameorigin"];
    values(Known::ContentSecurityPolicy).any(ancestors)
        || values(Known::XFrameOptions).any(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word)))
}

fn push_strict_transport(decided: KnownSet, inserts: &mut Vec<u8>) {
    if !decided.contains(Known::StrictTransportSecurity) {
        inserts.extend_from_slice(b"strict-transport-security: max-age=31536000\r\n");
    }
}

/// Whether `Strict-Transport-Security` makes sense for `host` (canonical): not for IP literals, which RFC 6797 §8.1.1 tells
/// clients to ignore, and not for this machine itself, whose other ports serve others.
pub fn takes_strict_transport(host: &[u8]) -> bool {
    let address = host.starts_with(b"[") || host.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    !address && host != b"localhost" && !host.ends_with(b".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::parse::{Parse, parse_response};
    use crate::http::{HeadLimits, Method, ResponseTable};

    /// What is added to a response with these fields, one name and value a line.
    fn added(lines: &str, edits: &Edits, strict: bool) -> (Vec<String>, usize) {
        added_to(200, lines, edits, strict)
    }

    fn added_to(status: u16, lines: &str, edits: &Edits, strict: bool) -> (Vec<String>, usize) {
        let head = format!("HTTP/1.1 {status} x\r\n{lines}\r\n");
        let mut table = ResponseTable::new();
        let parsed = parse_response(head.as_bytes(), &HeadLimits::DEFAULT, Method::Get, &mut table);
        assert_eq!(parsed, Ok(Parse::Complete { head_bytes: head.len() }), "{lines}");
        let (mut skip, mut inserts) = (FieldSet::EMPTY, Vec::new());
        let status = table.status;
        secure_response(
            status,
            &table.fields,
            head.as_bytes(),
            edits.decided(),
            strict,
            &mut skip,
            &mut inserts,
        );
        (String::from_utf8(inserts).expect("text").lines().map(str::to_owned).collect(), skip.len())
    }

    const SNIFF: &str = "x-content-type-options: nosniff";
    const REFERRER: &str = "referrer-policy: no-referrer";
    const FRAMES: &str = "content-security-policy: frame-ancestors 'none'";
    const STRICT: &str = "strict-transport-security: max-age=31536000";

    #[test]
    fn what_the_upstream_says_is_not_said_again() {
        for (lines, expected) in [
            ("", &[SNIFF, REFERRER, FRAMES][..]),
            ("X-Content-Type-Options: x\r\n", &[REFERRER, FRAMES]),
            ("Referrer-Policy: origin\r\n", &[SNIFF, FRAMES]),
            ("Content-Security-Policy: default-src 'self'; Frame-Ancestors 'self'\r\n", &[SNIFF, REFERRER]),
            ("Content-Security-Policy: a, frame-ancestors b\r\n", &[SNIFF, REFERRER]),
            // A policy that says nothing of frames leaves them open.
            ("Content-Security-Policy: default-src 'self'\r\n", &[SNIFF, REFERRER, FRAMES]),
            ("Content-Security-Policy: x-frame-ancestors a\r\n", &[SNIFF, REFERRER, FRAMES]),
            ("X-Frame-Options: SameOrigin\r\n", &[SNIFF, REFERRER]),
            ("X-Frame-Options: ALLOW-FROM https://a.example\r\n", &[SNIFF, REFERRER, FRAMES]),
        ] {
            assert_eq!(added(lines, &Edits::default(), false).0, expected, "{lines}");
        }
    }

    #[test]
    fn what_is_stored_somewhere_is_not_overwritten() {
        assert_eq!(added_to(304, "Server: a\r\n", &Edits::default(), true), (vec![STRICT.to_owned()], 1));
    }

    #[test]
    fn what_the_operator_decided_is_not_decided_again() {
        let mut edits = Edits::default();
        edits.set("Content-Security-Policy", "frame-ancestors 'self'");
        edits.remove("referrer-policy");
        assert_eq!(added("", &edits, true).0, [SNIFF, STRICT]);
        edits.set("Strict-Transport-Security", "max-age=1");
        edits.set("X-Frame-Options", "DENY");
        edits.remove("x-content-type-options");
        assert_eq!(added("", &edits, true).0, [""; 0]);
        let mut out = Vec::new();
        secure_answer(edits.decided(), true, &mut out);
        assert!(out.is_empty());
        secure_answer(KnownSet::EMPTY, false, &mut out);
        assert_eq!(out, ALL);
        assert_eq!(ALL, [NO_SNIFF, NO_REFERRER, NO_FRAMES].concat());
    }

    #[test]
    fn banners_are_dropped() {
        assert_eq!(
            added("Server: a\r\nX-Powered-By: b\r\nX-Powered-By: c\r\nDate: d\r\n", &Edits::default(), false)
                .1,
            3
        );
    }

    #[test]
    fn strict_transport_is_for_names() {
        for host in ["example.com", "localhost.example.com", "1.example"] {
            assert!(takes_strict_transport(host.as_bytes()), "{host}");
        }
        for host in ["", "127.0.0.1", "[::1]", "localhost", "app.localhost"] {
            assert!(!takes_strict_transport(host.as_bytes()), "{host}");
        }
    }
}
