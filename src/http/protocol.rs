//! What is spoken on a connection: HTTP/1.1 or HTTP/2, agreed by ALPN (RFC 7301) or known before (RFC 9113 §3.3).
//!
//! For: listeners, upstreams and TLS profiles, which all say it in these words. Not for: the version of a message, which is
//! [`Version`](super::Version).

/// What is spoken on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1, and 1.0 with those who know no better.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Its name in ALPN (RFC 7301 §6, RFC 9113 §3.2).
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        }
    }

    /// The one of that name in ALPN.
    pub fn of_alpn(name: &[u8]) -> Option<Protocol> {
        [Protocol::Http1, Protocol::Http2].into_iter().find(|protocol| protocol.alpn() == name)
    }
}

/// What may be spoken in one place; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocols {
    /// HTTP/1.1.
    pub http1: bool,
    /// HTTP/2.
    pub http2: bool,
}

impl Protocols {
    /// HTTP/1.1 alone.
    pub const HTTP1: Protocols = Protocols { http1: true, http2: false };
    /// HTTP/2 alone.
    pub const HTTP2: Protocols = Protocols { http1: false, http2: true };
    /// Either.
    pub const BOTH: Protocols = Protocols { http1: true, http2: true };

    /// Whether `protocol` is one of them.
    pub const fn has(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Http1 => self.http1,
            Protocol::Http2 => self.http2,
        }
    }

    /// The one, where there is no choice.
    pub const fn only(self) -> Option<Protocol> {
        match (self.http1, self.http2) {
            (true, false) => Some(Protocol::Http1),
            (false, true) => Some(Protocol::Http2),
            _ => None,
        }
    }

    /// What ALPN offers, what is liked best first: HTTP/2.
    pub fn alpn(self) -> Vec<Vec<u8>> {
        let liked = [Protocol::Http2, Protocol::Http1].into_iter();
        liked.filter(|protocol| self.has(*protocol)).map(|protocol| protocol.alpn().to_vec()).collect()
    }

    /// What is spoken on a connection under TLS that has `agreed`. Who says nothing in ALPN speaks HTTP/1.1 (RFC 9113 §3.2:
    /// HTTP/2 over TLS is named); `None`: that is not spoken here.
    pub fn under_tls(self, agreed: Option<Protocol>) -> Option<Protocol> {
        Some(agreed.unwrap_or_default()).filter(|protocol| self.has(*protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpn_offers_http2_first_and_only_what_is_spoken() {
        let names = |protocols: Protocols| protocols.alpn();
        assert_eq!(names(Protocols::BOTH), [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(names(Protocols::HTTP1), [b"http/1.1".to_vec()]);
        assert_eq!(names(Protocols::HTTP2), [b"h2".to_vec()]);
        assert_eq!(Protocol::of_alpn(b"h2"), Some(Protocol::Http2));
        assert_eq!(Protocol::of_alpn(b"http/1.1"), Some(Protocol::Http1));
        for other in [&b""[..], b"h2c", b"http/1.0", b"H2", b"h3"] {
            assert_eq!(Protocol::of_alpn(other), None, "{other:?}");
        }
    }

    #[test]
    fn who_agrees_on_nothing_under_tls_speaks_http1_where_that_is_spoken() {
        let [http1, http2] = [Some(Protocol::Http1), Some(Protocol::Http2)];
        for (protocols, agreed, spoken) in [
            (Protocols::BOTH, None, http1),
            (Protocols::BOTH, http1, http1),
            (Protocols::BOTH, http2, http2),
            (Protocols::HTTP1, None, http1),
            (Protocols::HTTP1, http2, None),
            (Protocols::HTTP2, None, None),
            (Protocols::HTTP2, http1, None),
            (Protocols::HTTP2, http2, http2),
        ] {
            assert_eq!(protocols.under_tls(agreed), spoken, "{protocols:?} {agreed:?}");
        }
        assert_eq!(
            [Protocols::HTTP1, Protocols::HTTP2, Protocols::BOTH].map(Protocols::only),
            [http1, http2, None]
        );
    }
}
