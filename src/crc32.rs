//! Cyclic redundancy checks of 32 bits whose bits go through the least significant one first: errors of wire and keyboard.
//!
//! For: formats that have one in them. Not for: anything that somebody might forge. Called by `accept::proxy_protocol` and
//! `policy::identify::key_store`.

/// One check: its table, made from its polynomial when the program is compiled.
pub struct Crc32([u32; 256]);

/// That of IEEE 802.3, §3.2.9.
pub static IEEE: Crc32 = Crc32::new(0xedb8_8320);

/// CRC-32c, that of RFC 3720, appendix B.4.
pub static CASTAGNOLI: Crc32 = Crc32::new(0x82f6_3b78);

impl Crc32 {
    /// That of a polynomial without its highest term, which is written from its lowest term on.
    const fn new(polynomial: u32) -> Self {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { polynomial ^ crc >> 1 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        Self(table)
    }

    /// The check of these bytes, one piece after the other.
    pub fn of(&self, pieces: &[&[u8]]) -> u32 {
        let bytes = pieces.iter().copied().flatten();
        !bytes.fold(!0, |crc, byte| self.0[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the check values that are published of both.
    #[test]
    fn both_give_what_is_published() {
        assert_eq!(IEEE.of(&[b"123456789"]), 0xcbf4_3926);
        assert_eq!(CASTAGNOLI.of(&[b"123456789"]), 0xe306_9283);
        assert_eq!(CASTAGNOLI.of(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(CASTAGNOLI.of(&[&[0xff; 32]]), 0x62a8_ab43);
        assert_eq!(CASTAGNOLI.of(&[b"1234", b"", b"56789"]), 0xe306_9283);
        assert_eq!(IEEE.of(&[]), 0);
    }
}
