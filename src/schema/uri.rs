//! As much of RFC 3986 as `$id` and `$ref` need: to resolve a reference against a base, and to take fragments off.
//!
//! What it is not for: URIs of requests. Who calls it: [`super::model`]. Nothing is ever fetched.

/// Splits `uri` before its fragment: (uri without `#…`, fragment).
pub(super) fn split_fragment(uri: &str) -> (&str, Option<&str>) {
    match uri.split_once('#') {
        Some((uri, fragment)) => (uri, Some(fragment)),
        None => (uri, None),
    }
}

/// RFC 3986 §5.2.2, the fragment of the reference kept.
pub(super) fn resolve(base: &str, reference: &str) -> String {
    let (reference, fragment) = split_fragment(reference);
    let mut target = resolve_without_fragment(split_fragment(base).0, reference);
    if let Some(fragment) = fragment {
        target.push('#');
        target.push_str(fragment);
    }
    target
}

fn resolve_without_fragment(base: &str, reference: &str) -> String {
    if reference.is_empty() {
        return base.to_owned();
    }
    if let (Some(scheme), rest) = scheme(reference) {
        let (authority, path, query) = parts(rest);
        return join(Some(scheme), authority, &remove_dots(path), query);
    }
    let (base_scheme, base_rest) = scheme(base);
    let (base_authority, base_path, base_query) = parts(base_rest);
    let (authority, path, query) = parts(reference);
    if authority.is_some() {
        return join(base_scheme, authority, &remove_dots(path), query);
    }
    if path.is_empty() {
        return join(base_scheme, base_authority, base_path, query.or(base_query));
    }
    if path.starts_with('/') {
        return join(base_scheme, base_authority, &remove_dots(path), query);
    }
    let merged = match base_path.rfind('/') {
        _ if base_authority.is_some() && base_path.is_empty() => format!("/{path}"),
        Some(slash) => format!("{}{path}", &base_path[..=slash]),
        None => path.to_owned(),
    };
    join(base_scheme, base_authority, &remove_dots(&merged), query)
}

fn scheme(uri: &str) -> (Option<&str>, &str) {
    match uri.find([':', '/', '?', '#']) {
        Some(at) if uri.as_bytes()[at] == b':' && at > 0 => (Some(&uri[..at]), &uri[at + 1..]),
        _ => (None, uri),
    }
}

fn parts(rest: &str) -> (Option<&str>, &str, Option<&str>) {
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    match rest.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find('/').unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..], query)
        }
        None => (None, rest, query),
    }
}

fn join(scheme: Option<&str>, authority: Option<&str>, path: &str, query: Option<&str>) -> String {
    let mut uri = String::new();
    if let Some(scheme) = scheme {
        uri.push_str(scheme);
        uri.push(':');
    }
    if let Some(authority) = authority {
        uri.push_str("//");
        uri.push_str(authority);
    }
    uri.push_str(path);
    if let Some(query) = query {
        uri.push('?');
        uri.push_str(query);
    }
    uri
}

/// RFC 3986 §5.2.4.
fn remove_dots(path: &str) -> String {
    if !path.contains('.') {
        return path.to_owned();
    }
    let absolute = path.starts_with('/');
    let mut out: Vec<&str> = Vec::new();
    let mut segments = path.split('/').peekable();
    if absolute {
        segments.next();
    }
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.pop();
                }
                if last {
                    out.push("");
                }
            }
            segment => out.push(segment),
        }
    }
    let joined = out.join("/");
    if absolute { format!("/{joined}") } else { joined }
}

/// Decodes `%41`; `None` where that is malformed or not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = (rest.next()? as char).to_digit(16)?;
        let low = (rest.next()? as char).to_digit(16)?;
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_as_rfc_3986_says() {
        let base = "http://a/b/c/d;p?q";
        for (reference, want) in [
            ("g:h", "g:h"),
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("#s", "http://a/b/c/d;p?q#s"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
        ] {
            assert_eq!(resolve(base, reference), want, "{reference}");
        }
        assert_eq!(resolve("urn:uuid:1", "#/x"), "urn:uuid:1#/x");
    }
}
