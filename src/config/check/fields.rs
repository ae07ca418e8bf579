//! Which fields an operator may set, remove, rename identity to, or take keys from.

use super::super::unit::HeaderName;
use crate::http::Known;
use crate::http::field::twin_of;
use crate::http::forward::is_identity;

/// Fields that frame a message, belong to one connection, or say where it goes: written by Ringwall alone.
fn is_of_the_message(name: &str) -> bool {
    const NAMES: [&str; 5] = ["expect", "host", "max-forwards", "trailer", "via"];
    let known = Known::of(name.as_bytes());
    known.is_framing() || known.is_hop_by_hop() || NAMES.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Fields that tell an upstream where a request came from: written by Ringwall on every request.
fn is_forwarding(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    Known::of(name.as_bytes()).is_forwarding() || lower == "x-request-id" || lower.starts_with("x-forwarded-")
}

/// Why a field may not be edited; `None` if it may.
pub(super) fn forbidden_edit(name: &HeaderName, request: bool) -> Option<&'static str> {
    let name = name.as_str();
    if is_of_the_message(name) {
        return Some(
            "it frames the message or belongs to one connection: Ringwall writes it, and nothing else does",
        );
    }
    if is_identity(name.as_bytes()) {
        return Some("it tells upstreams who the caller is: only a login may say that");
    }
    if request && is_forwarding(name) {
        return Some("it tells upstreams where a request came from: Ringwall writes it on every request");
    }
    if request && (Known::of(name.as_bytes()).is_override() || twin_of(name.as_bytes()).is_override()) {
        return Some(
            "it tells upstreams to see another method or path than the one that was authorized: Ringwall \
             drops it from every request",
        );
    }
    None
}

/// Why a field may not hold an identity; `None` if it may.
pub(super) fn refuses_identity(name: &HeaderName) -> Option<&'static str> {
    let name = name.as_str();
    if is_of_the_message(name) {
        return Some("it frames the message or belongs to one connection");
    }
    if is_forwarding(name) && !is_identity(name.as_bytes()) {
        return Some("it tells upstreams where a request came from");
    }
    const NAMES: [&str; 8] = [
        "authorization",
        "cookie",
        "content-type",
        "content-encoding",
        "accept",
        "accept-encoding",
        "user-agent",
        "origin",
    ];
    NAMES
        .iter()
        .any(|other| other.eq_ignore_ascii_case(name))
        .then_some("the client's own value has a meaning there")
}

/// Why a field may not carry an API key; `None` if it may.
pub(super) fn refuses_credential(name: &HeaderName) -> Option<&'static str> {
    let text = name.as_str();
    if text.eq_ignore_ascii_case("authorization") {
        return Some(
            "`Authorization` is read as a token; two kinds of credential in one field cannot be told apart",
        );
    }
    if text.eq_ignore_ascii_case("cookie") {
        return Some("browsers send cookies by themselves, on behalf of any page");
    }
    if is_identity(text.as_bytes()) {
        return Some("identity fields are stripped from every request");
    }
    refuses_identity(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_hop_by_hop_and_identity_fields_are_not_edited() {
        for name in
            ["Content-Length", "transfer-encoding", "Host", "X-Ringwall-Subject", "X-User-Id", "Connection"]
        {
            let name = HeaderName::parse(name).unwrap();
            assert!(forbidden_edit(&name, true).is_some(), "{name:?}");
            assert!(forbidden_edit(&name, false).is_some(), "{name:?}");
        }
        for name in ["X-HTTP-Method-Override", "x-method-override", "X-HTTP-Method", "X-Original-URL"] {
            let name = HeaderName::parse(name).unwrap();
            assert!(forbidden_edit(&name, true).is_some(), "{name:?}");
            assert!(forbidden_edit(&name, false).is_none(), "{name:?}");
        }
        let forwarded = HeaderName::parse("X-Forwarded-For").unwrap();
        assert!(forbidden_edit(&forwarded, true).is_some());
        assert!(forbidden_edit(&forwarded, false).is_none());
        for name in ["Cache-Control", "X-Api-Version", "Server", "Strict-Transport-Security"] {
            assert!(forbidden_edit(&HeaderName::parse(name).unwrap(), true).is_none(), "{name}");
        }
    }

    #[test]
    fn identity_goes_into_fields_made_for_it() {
        for (name, refused) in
            [("X-User", false), ("Remote-User", false), ("Authorization", true), ("Host", true)]
        {
            assert_eq!(refuses_identity(&HeaderName::parse(name).unwrap()).is_some(), refused, "{name}");
        }
    }
}
