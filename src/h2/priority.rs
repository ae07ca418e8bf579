//! Priorities (RFC 9218): the value of the `priority` field and of PRIORITY_UPDATE.
//!
//! For: [`super::connection`], which orders what it sends by them, and whoever reads the field of a request's head.

/// How urgent a response is, and whether a part of it is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// 0, the most urgent, to 7.
    pub urgency: u8,
    /// Whether it shares the connection with others of its urgency, instead of coming whole, one after another.
    pub incremental: bool,
}

/// Urgencies there are.
pub const URGENCIES: usize = 8;

impl Priority {
    /// Of a stream about which nothing was said. RFC 9218 §4 has such responses come one after another; but a client that
    /// says nothing knows nothing of this scheme, so that its streams share alike (§10 leaves that to the server).
    pub const UNSAID: Priority = Priority { urgency: 3, incremental: true };

    /// The value of the field, a dictionary of structured fields (RFC 8941 §3.2). Members that are not known, or whose values
    /// are not of their type or out of range, are ignored (RFC 9218 §4); so is everything, where the syntax fails.
    pub fn parse(value: &[u8]) -> Priority {
        let mut priority = Priority { urgency: 3, incremental: false };
        for member in value.split(|byte| *byte == b',') {
            let member = member.trim_ascii();
            let bare = member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
            match bare {
                [b'u', b'=', urgency @ b'0'..=b'7'] => priority.urgency = urgency - b'0',
                b"i" | b"i=?1" => priority.incremental = true,
                b"i=?0" => priority.incremental = false,
                _ if !is_member(bare) => return Priority { urgency: 3, incremental: false },
                _ => {}
            }
        }
        priority
    }
}

/// Whether it begins as a member of a dictionary does: with a key of RFC 8941 §3.1.2, and printable. An empty value is none.
fn is_member(bare: &[u8]) -> bool {
    bare.first().is_none_or(|byte| byte.is_ascii_lowercase() || *byte == b'*')
        && bare.iter().all(|byte| (b' '..=b'~').contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_9218_values() {
        for (value, urgency, incremental) in [
            ("", 3, false),
            ("u=0", 0, false),
            ("u=7, i", 7, true),
            ("i,u=1", 1, true),
            ("u=5, i=?0", 5, false),
            ("u=5, i=?1", 5, true),
            ("u=8", 3, false),
            ("u=-1", 3, false),
            ("u=1.5", 3, false),
            ("u=1;x=y, i;z", 1, true),
            ("u=1, u=2", 2, false),
            ("other=3, u=2", 2, false),
            ("U=1", 3, false),
            ("u=1, \x01", 3, false),
            ("u = 1", 3, false),
            ("i=1", 3, false),
        ] {
            assert_eq!(Priority::parse(value.as_bytes()), Priority { urgency, incremental }, "{value:?}");
        }
    }
}
