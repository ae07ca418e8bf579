//! How many records the bytes of a wire begin: a record costs its reader some, however little it holds, so that a task's
//! budget is spent by records and not by bytes alone.
//!
//! Not for parsing: what is no record is rustls' affair. Called by the stream. Cost: a step per record.

/// Bytes before a fragment: type, version, length (RFC 8446 §5.1).
const HEADER_BYTES: u8 = 5;

/// Where a wire stands between two records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Bytes of the fragment that are still to come.
    rest: u16,
    /// Its length, as far as it is known, and how many bytes of the header are here.
    length: u16,
    header: u8,
}

impl Records {
    /// Goes on with what came; how many headers it completes.
    pub fn count(&mut self, mut wire: &[u8]) -> u32 {
        let mut records = 0;
        loop {
            let skipped = wire.len().min(usize::from(self.rest));
            self.rest -= skipped as u16;
            wire = &wire[skipped..];
            let Some((&byte, behind)) = wire.split_first() else { return records };
            wire = behind;
            self.header += 1;
            // The last two bytes are the length.
            self.length = self.length << 8 | u16::from(byte);
            if self.header == HEADER_BYTES {
                *self = Records { rest: self.length, length: 0, header: 0 };
                records += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let mut bytes = vec![23, 3, 3, high, low];
        bytes.resize(5 + usize::from(length), 7);
        bytes
    }

    proptest! {
        #[test]
        fn records_are_counted_however_they_are_cut(
            lengths in prop::collection::vec(prop_oneof![0u16..4, 0u16..17_000], 0..40),
            cuts in prop::collection::vec(1usize..3_000, 1..20),
        ) {
            let wire: Vec<u8> = lengths.iter().flat_map(|length| record(*length)).collect();
            let mut records = Records::default();
            let mut count = 0;
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*cut));
                count += records.count(piece);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(count as usize, lengths.len());
            prop_assert_eq!(records, Records::default());
        }

        #[test]
        fn whatever_comes_is_counted_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert!(Records::default().count(&bytes) as usize <= bytes.len() / 5);
        }
    }
}
