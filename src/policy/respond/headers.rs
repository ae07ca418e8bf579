//! `headers`: fields set and removed, in either direction, and the security fields of a response.
//!
//! # What it does
//! `remove` drops every field of a name; `set` drops them and adds one of ours. Values are literal. A response without
//! `X-Content-Type-Options`, `Referrer-Policy`, `Content-Security-Policy` or (over TLS, to a name)
//! `Strict-Transport-Security` gets ours; `Server` and `X-Powered-By` are not passed on.
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

use crate::http::field::{FieldSet, FieldTable, Known, KnownSet};

/// The edits of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Names, lower case, whose fields are dropped.
    drop: Vec<(Known, Box<[u8]>)>,
    /// Encoded lines that are added.
    lines: Vec<u8>,
}

impl Edits {
    /// Drops every field called `name`.
    pub fn remove(&mut self, name: &str) {
        let name = name.to_ascii_lowercase().into_bytes();
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

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty()
    }

    /// Marks what is dropped in `skip` and appends what is added to `inserts`.
    pub fn apply(&self, fields: &FieldTable, bytes: &[u8], skip: &mut FieldSet, inserts: &mut Vec<u8>) {
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
        inserts.extend_from_slice(&self.lines);
    }
}

/// The security fields that a response gets where the upstream sent none, and those it loses.
pub fn secure_response(
    fields: &FieldTable,
    strict_transport: bool,
    skip: &mut FieldSet,
    inserts: &mut Vec<u8>,
) {
    const DISCLOSING: KnownSet = KnownSet::of(&[Known::Server, Known::XPoweredBy]);
    if fields.has_any(&DISCLOSING) {
        for known in [Known::Server, Known::XPoweredBy] {
            for (index, _) in fields.find_all(known) {
                skip.insert(index);
            }
        }
    }
    const ALL: &[u8] = b"x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n\
        content-security-policy: frame-ancestors 'none'\r\n";
    const SENT: KnownSet =
        KnownSet::of(&[Known::XContentTypeOptions, Known::ReferrerPolicy, Known::ContentSecurityPolicy]);
    if !fields.has_any(&SENT) {
        inserts.extend_from_slice(ALL);
    } else {
        if !fields.has(Known::XContentTypeOptions) {
            inserts.extend_from_slice(b"x-content-type-options: nosniff\r\n");
        }
        if !fields.has(Known::ReferrerPolicy) {
            inserts.extend_from_slice(b"referrer-policy: no-referrer\r\n");
        }
        if !fields.has(Known::ContentSecurityPolicy) {
            inserts.extend_from_slice(b"content-security-policy: frame-ancestors 'none'\r\n");
        }
    }
    // RFC 6797 §7.2: not over plain HTTP; and not for IP literals, which §8.1.1 tells clients to ignore.
    if strict_transport && !fields.has(Known::StrictTransportSecurity) {
        inserts.extend_from_slice(b"strict-transport-security: max-age=31536000\r\n");
    }
}
