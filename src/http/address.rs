//! Addresses as text, for fields and records: what `Display` writes, without `fmt` where the family is IPv4.

use std::io::Write;
use std::net::IpAddr;

/// Each octet in decimal with a dot behind it, and how long that is.
static OCTETS: [[u8; 5]; 256] = {
    let mut octets = [[b'.'; 5]; 256];
    let mut octet = 0;
    while octet < 256 {
        let (hundreds, tens, ones) = (octet as u8 / 100, octet as u8 / 10 % 10, octet as u8 % 10);
        let mut length = 0;
        if hundreds > 0 {
            octets[octet][length] = b'0' + hundreds;
            length += 1;
        }
        if octet >= 10 {
            octets[octet][length] = b'0' + tens;
            length += 1;
        }
        octets[octet][length] = b'0' + ones;
        octets[octet][4] = length as u8 + 2;
        octet += 1;
    }
    octets
};

/// Appends an address; an IPv6 address without brackets.
pub fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            // Each octet is written with four bytes and a dot behind it; what is too much is written over.
            let mut text = [0u8; 16];
            let mut at = 0;
            for octet in v4.octets() {
                let [digits @ .., length] = OCTETS[usize::from(octet)];
                if let Some(place) = text.get_mut(at..at + 4) {
                    place.copy_from_slice(&digits);
                }
                at += usize::from(length);
            }
            out.extend_from_slice(text.get(..at - 1).unwrap_or_default());
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
