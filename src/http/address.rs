//! Addresses as text, for fields and records: what `Display` writes, without `fmt` where the family is IPv4.

use std::io::Write;
use std::net::IpAddr;

/// Appends an address; an IPv6 address without brackets.
pub fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                if octet >= 100 {
                    out.push(b'0' + octet / 100);
                }
                if octet >= 10 {
                    out.push(b'0' + octet / 10 % 10);
                }
                out.push(b'0' + octet % 10);
            }
        }
        IpAddr::V6(v6) => {
            let _infallible = write!(out, "{v6}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_the_library_does() {
        for text in ["0.0.0.0", "1.2.3.4", "10.20.100.255", "::", "2001:db8::1", "::ffff:1.2.3.4"] {
            let mut out = Vec::new();
            push_address(&mut out, text.parse().expect("address"));
            assert_eq!(out, text.as_bytes());
        }
    }
}
