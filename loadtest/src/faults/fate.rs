//! What happens to one request at an origin that misbehaves: decided by the request's id alone, so that the origin and
//! whoever judges the answers agree without talking.
//!
//! Sans-IO: settings and an id in, bytes out. Called by `origin`, and by `measure` for what an answer may be.

use std::collections::BTreeMap;

/// The most bytes that one interim answer flood, or one head that is too long, has.
const FLOOD_BYTES: usize = 100 * 1024;

/// How an origin behaves; what is not set is harmless.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Requests served at once, the others wait; 0: without a bound. With `delay_us` this is the capacity.
    pub slots: usize,
    /// How long serving one takes.
    pub delay_us: u64,
    /// The status of answers that fail.
    pub fail_status: u16,
    /// A kept connection is closed at a random moment within this after an answer; 0: never.
    pub idle_close_us: u64,
    /// Nobody listens.
    pub refuse: bool,
    /// `/healthz` is answered 200.
    pub healthy: bool,
    /// Added to the dice, so that members of a group fail on different ids.
    pub salt: u64,
    /// The shares, in the order of [`Fate::UNKIND`], each 0 to 1.
    shares: [f64; Fate::UNKIND.len()],
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slots: 0,
            delay_us: 0,
            fail_status: 503,
            idle_close_us: 0,
            refuse: false,
            healthy: true,
            salt: 0,
            shares: [0.0; Fate::UNKIND.len()],
        }
    }
}

/// What an origin does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It answers it.
    Answer,
    /// It answers [`Settings::fail_status`].
    Fail,
    /// It never answers.
    Hang,
    /// It resets the connection before the first byte of an answer.
    ResetBefore,
    /// It resets the connection inside the body.
    ResetInside,
    /// It ends the connection inside the body.
    Cut,
    /// It sends what is not an HTTP answer, or means two things.
    Lie,
    /// It answers, and a moment later sends one more answer that nobody asked for.
    Stray,
}

impl Fate {
    /// All but [`Fate::Answer`], with the names that settings have.
    pub const UNKIND: [(Self, &'static str); 7] = [
        (Self::Fail, "fail"),
        (Self::Hang, "hang"),
        (Self::ResetBefore, "reset_before"),
        (Self::ResetInside, "reset_inside"),
        (Self::Cut, "cut"),
        (Self::Lie, "lie"),
        (Self::Stray, "stray"),
    ];

    /// As the ledger keeps it.
    pub fn number(self) -> u8 {
        Self::UNKIND.iter().position(|(fate, _)| *fate == self).map_or(0, |index| index as u8 + 1)
    }
}

impl Settings {
    /// Takes `name=value` pairs, separated by blanks.
    ///
    /// # Errors
    /// A name or a value that does not exist.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        for pair in text.split_ascii_whitespace() {
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("{pair}: expected NAME=VALUE"))?;
            let wrong = |_| format!("{pair}: not a value of {name}");
            if let Some(share) = Fate::UNKIND.iter().position(|(_, unkind)| *unkind == name) {
                let value: f64 = value.parse().map_err(|_| format!("{pair}: not a share"))?;
                if !(0.0..=1.0).contains(&value) {
                    return Err(format!("{pair}: a share is between 0 and 1"));
                }
                self.shares[share] = value;
                continue;
            }
            match name {
                "slots" => self.slots = value.parse().map_err(wrong)?,
                "delay_us" => self.delay_us = value.parse().map_err(wrong)?,
                "fail_status" => self.fail_status = value.parse().map_err(wrong)?,
                "idle_close_us" => self.idle_close_us = value.parse().map_err(wrong)?,
                "salt" => self.salt = value.parse().map_err(wrong)?,
                "refuse" => self.refuse = value.parse().map_err(|_| format!("{pair}: true or false"))?,
                "healthy" => self.healthy = value.parse().map_err(|_| format!("{pair}: true or false"))?,
                _ => return Err(format!("{pair}: no such setting")),
            }
        }
        Ok(())
    }

    /// The same from a map of a scenario file.
    ///
    /// # Errors
    /// As [`Settings::apply`].
    pub fn words(map: &BTreeMap<String, serde_json::Value>) -> String {
        let words = map.iter().map(|(name, value)| format!("{name}={}", value.to_string().trim_matches('"')));
        words.collect::<Vec<_>>().join(" ")
    }

    /// What happens to the request `id`.
    pub fn fate(&self, id: u64) -> Fate {
        let mut dice = share_of(id, self.salt);
        for ((fate, _), share) in Fate::UNKIND.iter().zip(self.shares) {
            if dice < share {
                return *fate;
            }
            dice -= share;
        }
        Fate::Answer
    }
}

/// A number that looks random, from 0 to 1, and is the same for the same id and salt.
pub fn share_of(id: u64, salt: u64) -> f64 {
    (mixed(id, salt) >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64.
fn mixed(id: u64, salt: u64) -> u64 {
    let mut z = id.wrapping_add(salt.wrapping_mul(0xd134_2543_de82_ef95)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The one body that answers the request `id`: nobody else's.
pub fn body_of(id: u64) -> String {
    let pad = 16 + mixed(id, 1) as usize % 200;
    format!("{{\"id\":{id},\"pad\":\"{}\"}}", "x".repeat(pad))
}

/// The body of an origin's own failure.
pub fn failure_of(id: u64) -> String {
    format!("{{\"origin_failed\":{id}}}")
}

/// A whole answer.
pub fn answer(status: u16, body: &str, origin: u64) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nX-Origin: {origin}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What an origin that lies sends, and what it does with the connection then.
pub struct Lie {
    /// One word about it.
    pub name: &'static str,
    /// Sent at once.
    pub bytes: Vec<u8>,
    /// The connection ends after it.
    pub ends: bool,
    /// It is an answer to `id` all the same, with something behind it.
    pub answers: bool,
}

/// A foreign answer that must never reach anybody.
pub const STOLEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSTOLEN";

/// The names of all lies.
pub const LIES: [&str; 25] = [
    "body_short",
    "body_long",
    "length_and_chunked",
    "chunk_size",
    "chunk_end",
    "chunk_overflow",
    "chunk_unfinished",
    "garbage",
    "obs_fold",
    "bare_lf",
    "nul",
    "blank_before_colon",
    "lengths_differ",
    "length_plus",
    "length_negative",
    "length_huge",
    "interim_flood",
    "no_content_body",
    "not_modified_body",
    "http_0_9",
    "upgrade_unasked",
    "head_long",
    "silence",
    "status_long",
    "trailer_length",
];

/// The lie that the request `id` gets.
pub fn lie(id: u64) -> Lie {
    let name = LIES[mixed(id, 2) as usize % LIES.len()];
    let body = body_of(id);
    let length = body.len();
    let with = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").into_bytes();
    let honest = with(&format!("Content-Length: {length}"), &body);
    let (mut ends, mut answers) = (false, false);
    let bytes = match name {
        "body_short" => {
            ends = true;
            with(&format!("Content-Length: {}", length + 10), &body)
        }
        "body_long" => {
            answers = true;
            [honest, STOLEN.into()].concat()
        }
        "length_and_chunked" => with(
            &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
            &format!("{length:x}\r\n{body}\r\n0\r\n\r\n"),
        ),
        "chunk_size" => with("Transfer-Encoding: chunked", &format!("0x{length:x}\r\n{body}\r\n0\r\n\r\n")),
        "chunk_end" => with("Transfer-Encoding: chunked", &format!("{length:x}\r\n{body}XX0\r\n\r\n")),
        "chunk_overflow" => {
            with("Transfer-Encoding: chunked", &format!("ffffffffffffffff{length:x}\r\n{body}\r\n0\r\n\r\n"))
        }
        "chunk_unfinished" => {
            ends = true;
            with("Transfer-Encoding: chunked", &format!("{length:x}\r\n{body}\r\n"))
        }
        "garbage" => b"\x16\x03\x01\x02\x00garbage\r\n\r\n".to_vec(),
        "obs_fold" => with(&format!("X-Folded: a\r\n b\r\nContent-Length: {length}"), &body),
        "bare_lf" => format!("HTTP/1.1 200 OK\nContent-Length: {length}\n\n{body}").into_bytes(),
        "nul" => with(&format!("X-Nul: a\0b\r\nContent-Length: {length}"), &body),
        "blank_before_colon" => with(&format!("Content-Length : {length}"), &body),
        "lengths_differ" => {
            with(&format!("Content-Length: {length}\r\nContent-Length: {}", length - 1), &body)
        }
        "length_plus" => with(&format!("Content-Length: +{length}"), &body),
        "length_negative" => with("Content-Length: -1", &body),
        "length_huge" => with("Content-Length: 99999999999999999999999", &body),
        "interim_flood" => {
            let mut flood = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(FLOOD_BYTES / 40);
            flood.extend(honest);
            flood
        }
        "no_content_body" => {
            format!("HTTP/1.1 204 No Content\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
        }
        "not_modified_body" => {
            format!("HTTP/1.1 304 Not Modified\r\nContent-Length: {length}\r\n\r\n{body}{STOLEN}")
                .into_bytes()
        }
        "http_0_9" => {
            ends = true;
            body.into_bytes()
        }
        "upgrade_unasked" => {
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello".to_vec()
        }
        "head_long" => {
            with(&format!("X-Long: {}\r\nContent-Length: {length}", "a".repeat(FLOOD_BYTES)), &body)
        }
        "silence" => {
            ends = true;
            Vec::new()
        }
        "status_long" => format!("HTTP/1.1 2000 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes(),
        _ => {
            // The answer itself is whole; a trailer that frames is to be dropped or refused.
            answers = true;
            with(
                "Transfer-Encoding: chunked\r\nTrailer: Content-Length",
                &format!("{length:x}\r\n{body}\r\n0\r\nContent-Length: 3\r\n\r\n"),
            )
        }
    };
    Lie { name, bytes, ends, answers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_and_the_same_id_has_the_same_fate() {
        let mut settings = Settings::default();
        settings.apply("fail=0.25 cut=0.25 slots=3 refuse=true").unwrap();
        assert_eq!((settings.slots, settings.refuse), (3, true));
        let count = |fate| (0..100_000).filter(|id| settings.fate(*id) == fate).count();
        for (fate, share) in [(Fate::Fail, 0.25), (Fate::Cut, 0.25), (Fate::Answer, 0.5), (Fate::Lie, 0.0)] {
            let found = count(fate) as f64 / 100_000.0;
            assert!((found - share).abs() < 0.01, "{fate:?}: {found}");
        }
        let other = Settings { salt: 1, ..settings.clone() };
        assert!((0..1_000).any(|id| settings.fate(id) != other.fate(id)));
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        for bad in ["fail", "fail=2", "fail=x", "slots=-1", "unknown=1"] {
            assert!(Settings::default().apply(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_lie_is_told_and_only_stolen_bytes_are_foreign() {
        let mut told = std::collections::BTreeSet::new();
        for id in 0..10_000 {
            let lie = lie(id);
            told.insert(lie.name);
            assert!(lie.ends || !lie.bytes.is_empty());
        }
        assert_eq!(told.len(), LIES.len());
        assert_ne!(body_of(1), body_of(2));
    }
}
