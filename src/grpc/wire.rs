//! The little of protobuf's wire format that probes and details of a status need.
//!
//! For: [`super::health`] and [`super::details`]. Not for: messages of calls, which nobody here reads.

/// Wire types (protobuf encoding, "Message Structure"). Groups are of proto2, and refused.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A field as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number of any integer type.
    Varint(u64),
    /// Text, bytes, or a message.
    Bytes(&'a [u8]),
    /// Of a fixed size: nothing that we read.
    Fixed,
}

/// Takes the next field off `message`: its number and value. `None` if it is no field.
pub fn take<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = take_varint(message)?;
    let value = match key & 7 {
        VARINT => Value::Varint(take_varint(message)?),
        FIXED64 => fixed(message, 8)?,
        FIXED32 => fixed(message, 4)?,
        BYTES => {
            let length = usize::try_from(take_varint(message)?).ok()?;
            let (bytes, rest) = message.split_at_checked(length)?;
            *message = rest;
            Value::Bytes(bytes)
        }
        _ => return None,
    };
    // Field numbers are 1 to 2^29 - 1.
    ((1..1 << 29).contains(&(key >> 3))).then_some((key >> 3, value))
}

fn fixed<'a>(message: &mut &'a [u8], size: usize) -> Option<Value<'a>> {
    *message = message.split_at_checked(size)?.1;
    Some(Value::Fixed)
}

/// At most ten bytes, the last of which holds one bit.
fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in 0..10 {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f).checked_shl(7 * shift)?;
        if byte < 0x80 {
            return (shift < 9 || byte < 2).then_some(value);
        }
    }
    None
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a number; zero is not written, as proto3 has it.
pub fn push_number(field: u64, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        push_varint(field << 3 | VARINT, out);
        push_varint(value, out);
    }
}

/// Appends text or bytes, also empty ones.
pub fn push_bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    push_varint(field << 3 | BYTES, out);
    push_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends a message that `write` appends the fields of. Its length is known behind it: one of 128 bytes and more is moved.
pub fn push_message(field: u64, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    push_varint(field << 3 | BYTES, out);
    let at = out.len();
    out.push(0);
    write(out);
    let end = out.len();
    let length = end - at - 1;
    if length >= 0x80 {
        push_varint(length as u64, out);
        let length_bytes = out.len() - end;
        // The length takes the place of the byte that was kept for it, and more.
        if let Some(written) = out.get_mut(at + 1..) {
            written.rotate_right(length_bytes);
        }
        out.remove(at);
    } else if let Some(place) = out.get_mut(at) {
        *place = length as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_strict_in_size() {
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for (bytes, expected) in [
            (&[0][..], Some(0)),
            (&[0x96, 0x01], Some(150)),
            (&[0x80, 0x00], Some(0)),
            (&max, Some(u64::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], None),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], None),
            (&[0x80], None),
            (&[], None),
        ] {
            assert_eq!(take_varint(&mut &bytes[..]), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        push_number(1, 0, &mut out);
        assert!(out.is_empty());
        push_number(3, u64::MAX, &mut out);
        push_bytes(500, &[7; 300], &mut out);
        push_message(4, &mut out, |out| push_bytes(1, &[8; 200], out));
        push_message(5, &mut out, |_| {});
        let mut rest = &out[..];
        assert_eq!(take(&mut rest), Some((3, Value::Varint(u64::MAX))));
        assert_eq!(take(&mut rest), Some((500, Value::Bytes(&[7; 300]))));
        let Some((4, Value::Bytes(mut inner))) = take(&mut rest) else { panic!("no message") };
        assert_eq!(take(&mut inner), Some((1, Value::Bytes(&[8; 200]))));
        assert_eq!(take(&mut rest), Some((5, Value::Bytes(b""))));
        assert!(rest.is_empty());
        for bytes in
            [&[0x00, 0x00][..], &[0x0b], &[0x0c], &[0x0e, 0], &[0x0f], &[0x0a, 0x02, 0x00], &[0x0d, 1, 2, 3]]
        {
            assert_eq!(take(&mut &bytes[..]), None, "{bytes:?}");
        }
        assert_eq!(take(&mut &[0x0d, 1, 2, 3, 4][..]), Some((1, Value::Fixed)));
        assert_eq!(take(&mut &[0x11, 1, 2, 3, 4, 5, 6, 7, 8][..]), Some((2, Value::Fixed)));
    }
}
