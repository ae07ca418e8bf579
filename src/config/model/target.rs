//! Where the servers of an upstream are: what a target says beyond a URL.
//!
//! `https://…`, `http://…` and `unix:…` are read in `upstream`; here are services of the DNS and files of targets.

use super::upstream::{Host, TARGET};
use crate::config::bind::{Bind, malformed};
use crate::config::error::{Code, ConfigError};
use crate::config::node::Node;
use crate::config::unit::HostName;

/// Not the name of a service.
pub const SERVICE: Code = Code::new(1250);
/// Not the name of a file of targets.
pub const TARGETS_FILE: Code = Code::new(1251);

/// What a target of the forms `srv+https://NAME` and `file:PATH` says: whether it is under TLS, and where it is. `None` if it
/// is of another form; the inner one is `None` after an error.
pub(super) fn elsewhere(text: &str, node: &Node, bind: &mut Bind<'_>) -> Option<Option<(bool, Host)>> {
    if let Some(path) = text.strip_prefix("file:") {
        return Some(file(path, node, bind));
    }
    let rest = text.strip_prefix("srv+")?;
    Some(service(rest, node, bind))
}

fn file(path: &str, node: &Node, bind: &mut Bind<'_>) -> Option<(bool, Host)> {
    if path.is_empty() || path.ends_with('/') || path.contains('\0') {
        return malformed(bind, node, TARGETS_FILE, "this names no file", "`file:targets.yaml`");
    }
    Some((false, Host::File(bind.sources().resolve(node.span, path))))
}

/// RFC 2782: the records of a service say where its hosts are, and on which ports.
fn service(url: &str, node: &Node, bind: &mut Bind<'_>) -> Option<(bool, Host)> {
    const EXPECTED: &str = "`srv+https://_https._tcp.orders.internal` or `srv+http://…`, without a port";
    let (https, name) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(name), _) => (true, name),
        (None, Some(name)) => (false, name),
        (None, None) => return malformed(bind, node, SERVICE, "this is not a service", EXPECTED),
    };
    if name.contains('@') {
        bind.blot(node.span);
        bind.error(ConfigError::new(TARGET, "a target has no user", node.span).expected(EXPECTED));
        return None;
    }
    match Service::parse(name) {
        Ok(service) => Some((https, Host::Service(service))),
        Err(problem) => {
            malformed(bind, node, SERVICE, format!("the name of the service {problem}"), EXPECTED)
        }
    }
}

/// The name of a service in the DNS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    name: String,
    domain: HostName,
}

impl Service {
    /// From text: `_service._proto.domain` (RFC 2782), or a plain name as other directories have it.
    ///
    /// # Errors
    /// What is wrong with it, in words that follow "the name".
    fn parse(text: &str) -> Result<Service, &'static str> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut domain = text;
        for _ in 0..2 {
            let Some((label, rest)) = domain.split_once('.') else { break };
            let Some(label) = label.strip_prefix('_') else { break };
            let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            if label.is_empty() || label.len() > 62 || !label.bytes().all(fits) {
                return Err("has a malformed label: `_`, then letters, digits and `-`");
            }
            domain = rest;
        }
        if text.len() > 253 {
            return Err("is longer than 253 characters");
        }
        let domain = HostName::parse(domain)?;
        if domain.ip().is_some() {
            return Err("is an address");
        }
        Ok(Service { name: text.to_ascii_lowercase(), domain })
    }

    /// The whole name, lower-case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose service it is: the name without `_service._proto.`. Certificates are for it, and not for the hosts that the
    /// records name: whoever could forge a record could name a host of his own.
    pub fn domain(&self) -> &HostName {
        &self.domain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_name_of_a_domain() {
        for (text, name, domain) in [
            ("_http._tcp.orders.internal", "_http._tcp.orders.internal", "orders.internal"),
            ("_HTTP._tcp.Orders.internal.", "_http._tcp.orders.internal", "orders.internal"),
            ("_orders.internal", "_orders.internal", "internal"),
            ("orders.service.consul", "orders.service.consul", "orders.service.consul"),
        ] {
            let service = Service::parse(text).expect(text);
            assert_eq!((service.name(), service.domain().as_str()), (name, domain), "{text}");
        }
        let long = format!("_http._tcp.{}", "a.".repeat(130));
        for text in [
            "",
            "_http",
            "_http._tcp",
            "_http._tcp.",
            "_._tcp.a",
            "_a_b._tcp.a",
            "_a._b._c.d",
            "a:80",
            "a/b",
            "127.0.0.1",
            "[::1]",
            "a..b",
            &long,
        ] {
            assert!(Service::parse(text).is_err(), "{text}");
        }
    }
}
