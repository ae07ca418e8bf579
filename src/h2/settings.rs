//! Settings (RFC 9113 §6.5): ours, which the peer must obey, and the peer's, which we obey.
//!
//! For: [`super::connection`]. Ours are said once, with the preface, and never change.

use super::flaw::Flaw;
use super::flow::{WINDOW_DEFAULT, WINDOW_MOST};
use super::frame::{FRAME_BYTES_DEFAULT, FRAME_BYTES_MOST};

/// SETTINGS_HEADER_TABLE_SIZE.
pub const HEADER_TABLE_SIZE: u16 = 0x1;
/// SETTINGS_ENABLE_PUSH.
pub const ENABLE_PUSH: u16 = 0x2;
/// SETTINGS_MAX_CONCURRENT_STREAMS.
pub const MAX_CONCURRENT_STREAMS: u16 = 0x3;
/// SETTINGS_INITIAL_WINDOW_SIZE.
pub const INITIAL_WINDOW_SIZE: u16 = 0x4;
/// SETTINGS_MAX_FRAME_SIZE.
pub const MAX_FRAME_SIZE: u16 = 0x5;
/// SETTINGS_MAX_HEADER_LIST_SIZE.
pub const MAX_HEADER_LIST_SIZE: u16 = 0x6;
/// SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441).
pub const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
/// SETTINGS_NO_RFC7540_PRIORITIES (RFC 9218).
pub const NO_RFC7540_PRIORITIES: u16 = 0x9;

/// The dynamic table that both sides begin with (RFC 9113 §6.5.2).
pub const HEADER_TABLE_BYTES_DEFAULT: u32 = 4_096;
/// The most streams at once that [`Settings::streams_max`] may say: their numbers in the slab are 16 bits.
pub const STREAMS_MOST: u32 = 16_384;

/// Ours.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Streams at once. A server grants them to the client; a client opens no more, whatever the server grants.
    /// Default 128, at most [`STREAMS_MOST`].
    pub streams_max: u32,
    /// What a stream may send before anything of it is consumed, bytes. Default and least 65,535.
    pub stream_window: u32,
    /// To which the window of a stream grows while its bytes are consumed at once. Default 256 KiB.
    pub stream_window_max: u32,
    /// What all streams together may send before anything of it is consumed: the most that is ever held for a connection.
    /// Default 1 MiB, least 65,535.
    pub connection_window: u32,
    /// Bytes of a decoded head as RFC 9113 §6.5.2 counts them. Default 32 KiB.
    pub header_list_bytes_max: u32,
    /// Bytes of an encoded field block: above it the connection ends, while a head that is only too large as decoded is
    /// answered with 431. Default 64 KiB.
    pub block_bytes_max: u32,
    /// Bytes of the table with which the peer compresses. Default 4,096.
    pub header_table_bytes: u32,
    /// Whether clients may open tunnels (RFC 8441). Only a server says it.
    pub connect_protocol: bool,
    /// Within which the peer acknowledges our settings, milliseconds. Default 10 s.
    pub acknowledged_within_ms: u64,
    /// Within which a field block that the peer has begun is whole, milliseconds: until then nothing else can come. Default 10 s.
    pub block_within_ms: u64,
}

impl Settings {
    /// What is said where nothing is configured.
    pub const DEFAULT: Settings = Settings {
        streams_max: 128,
        stream_window: WINDOW_DEFAULT,
        stream_window_max: 256 * 1024,
        connection_window: 1024 * 1024,
        header_list_bytes_max: 32 * 1024,
        block_bytes_max: 64 * 1024,
        header_table_bytes: HEADER_TABLE_BYTES_DEFAULT,
        connect_protocol: false,
        acknowledged_within_ms: 10_000,
        block_within_ms: 10_000,
    };

    /// The same, with what would be wrong set right. A window below the default would have streams that were opened before
    /// our settings came exceed it, rightly.
    pub(super) fn sound(&self) -> Settings {
        let stream_window = self.stream_window.clamp(WINDOW_DEFAULT, WINDOW_MOST);
        Settings {
            streams_max: self.streams_max.clamp(1, STREAMS_MOST),
            stream_window,
            stream_window_max: self.stream_window_max.clamp(stream_window, WINDOW_MOST),
            connection_window: self.connection_window.clamp(WINDOW_DEFAULT, WINDOW_MOST),
            ..*self
        }
    }

    /// What is written in SETTINGS: only what differs from what every peer assumes.
    pub(super) fn said(&self, server: bool) -> impl Iterator<Item = (u16, u32)> {
        [
            (
                HEADER_TABLE_SIZE,
                self.header_table_bytes,
                self.header_table_bytes != HEADER_TABLE_BYTES_DEFAULT,
            ),
            // RFC 9113 §6.5.2: a server never says it.
            (ENABLE_PUSH, 0, !server),
            (MAX_CONCURRENT_STREAMS, self.streams_max, server),
            (INITIAL_WINDOW_SIZE, self.stream_window, self.stream_window != WINDOW_DEFAULT),
            (MAX_HEADER_LIST_SIZE, self.header_list_bytes_max, true),
            (ENABLE_CONNECT_PROTOCOL, 1, server && self.connect_protocol),
            // RFC 9218 §2.1: the priorities of RFC 7540 mean nothing to us.
            (NO_RFC7540_PRIORITIES, 1, true),
        ]
        .into_iter()
        .filter_map(|(name, value, said)| said.then_some((name, value)))
    }
}

/// The peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// The table with which we may compress.
    pub header_table_bytes: u32,
    /// Streams that we may have open at once.
    pub streams_max: u32,
    /// What we may send on a stream at first.
    pub stream_window: u32,
    /// The largest payload that we may send.
    pub frame_bytes_max: u32,
    /// The largest head that the peer wants to see (a hint), in the measure of RFC 9113 §6.5.2.
    pub header_list_bytes_max: u32,
    /// Whether the peer takes extended CONNECT (RFC 8441).
    pub connect_protocol: bool,
}

impl PeerSettings {
    /// What holds until the peer says something else (RFC 9113 §6.5.2).
    pub const INITIAL: PeerSettings = PeerSettings {
        header_table_bytes: HEADER_TABLE_BYTES_DEFAULT,
        streams_max: u32::MAX,
        stream_window: WINDOW_DEFAULT,
        frame_bytes_max: FRAME_BYTES_DEFAULT,
        header_list_bytes_max: u32::MAX,
        connect_protocol: false,
    };

    /// One setting, of a server or of a client. Unknown ones are ignored (RFC 9113 §6.5.2).
    ///
    /// # Errors
    /// A value that is forbidden.
    pub fn set(&mut self, name: u16, value: u32, of_server: bool) -> Result<(), Flaw> {
        match name {
            HEADER_TABLE_SIZE => self.header_table_bytes = value,
            // RFC 9113 §6.5.2: 0 or 1, and from a server never 1. We do not push either way.
            ENABLE_PUSH if value > 1 || (of_server && value == 1) => return Err(Flaw::SettingValue),
            MAX_CONCURRENT_STREAMS => self.streams_max = value,
            // RFC 9113 §6.5.2: above 2^31 − 1 it is a FLOW_CONTROL_ERROR.
            INITIAL_WINDOW_SIZE if value > WINDOW_MOST => return Err(Flaw::SettingWindow),
            INITIAL_WINDOW_SIZE => self.stream_window = value,
            MAX_FRAME_SIZE if !(FRAME_BYTES_DEFAULT..=FRAME_BYTES_MOST).contains(&value) => {
                return Err(Flaw::SettingValue);
            }
            MAX_FRAME_SIZE => self.frame_bytes_max = value,
            MAX_HEADER_LIST_SIZE => self.header_list_bytes_max = value,
            // RFC 8441 §3: 0 or 1, and never 0 after 1.
            ENABLE_CONNECT_PROTOCOL if value > 1 || (value == 0 && self.connect_protocol) => {
                return Err(Flaw::SettingValue);
            }
            ENABLE_CONNECT_PROTOCOL => self.connect_protocol = value == 1,
            // RFC 9218 §2.1: 0 or 1. A change is not looked for: either value means the same to us.
            NO_RFC7540_PRIORITIES if value > 1 => return Err(Flaw::SettingValue),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_6_5_2_values() {
        let good = Ok(());
        let bad = Err(Flaw::SettingValue);
        for (name, value, of_server, expected) in [
            (HEADER_TABLE_SIZE, u32::MAX, false, good),
            (ENABLE_PUSH, 0, false, good),
            (ENABLE_PUSH, 1, false, good),
            (ENABLE_PUSH, 2, false, bad),
            (ENABLE_PUSH, 0, true, good),
            (ENABLE_PUSH, 1, true, bad),
            (MAX_CONCURRENT_STREAMS, 0, false, good),
            (INITIAL_WINDOW_SIZE, 0, false, good),
            (INITIAL_WINDOW_SIZE, 0x7fff_ffff, false, good),
            (INITIAL_WINDOW_SIZE, 0x8000_0000, false, Err(Flaw::SettingWindow)),
            (MAX_FRAME_SIZE, 16_383, false, bad),
            (MAX_FRAME_SIZE, 16_384, false, good),
            (MAX_FRAME_SIZE, 16_777_215, false, good),
            (MAX_FRAME_SIZE, 16_777_216, false, bad),
            (MAX_HEADER_LIST_SIZE, 0, false, good),
            (ENABLE_CONNECT_PROTOCOL, 1, true, good),
            (ENABLE_CONNECT_PROTOCOL, 2, true, bad),
            (NO_RFC7540_PRIORITIES, 1, false, good),
            (NO_RFC7540_PRIORITIES, 2, false, bad),
            (0x0a0a, u32::MAX, false, good),
        ] {
            let mut peer = PeerSettings::INITIAL;
            let result = peer.set(name, value, of_server);
            assert_eq!(result, expected, "{name:#x} = {value}");
        }
    }

    #[test]
    fn rfc_8441_section_3_connect_is_not_taken_back() {
        let mut peer = PeerSettings::INITIAL;
        peer.set(ENABLE_CONNECT_PROTOCOL, 0, true).unwrap();
        peer.set(ENABLE_CONNECT_PROTOCOL, 1, true).unwrap();
        assert_eq!(peer.set(ENABLE_CONNECT_PROTOCOL, 0, true), Err(Flaw::SettingValue));
    }

    #[test]
    fn each_role_says_what_it_may() {
        let names = |server| -> Vec<u16> { Settings::DEFAULT.said(server).map(|(name, _)| name).collect() };
        assert_eq!(names(true), [MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE, NO_RFC7540_PRIORITIES]);
        assert_eq!(names(false), [ENABLE_PUSH, MAX_HEADER_LIST_SIZE, NO_RFC7540_PRIORITIES]);
    }
}
