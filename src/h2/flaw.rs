//! What can be wrong with the other end of an HTTP/2 connection, and the reason and error code it becomes.
//!
//! For: [`super::connection`]. As in [`crate::h1::flaw`], the same flaw is the client's fault in one role and the
//! upstream's in the other. Of a client each flaw has its own reason, since it may be an attack and its remedy differs; of an
//! upstream those that are one to an operator share a reason.

use super::connection::Role;
use super::frame::ErrorCode;
use crate::http::Reason;
use crate::pipeline::fail::CLIENT_HEAD_TIMEOUT;

/// A fault of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's reasons below are documented")]
pub enum Flaw {
    Preface,
    FrameSize,
    FrameStream,
    FrameOrder,
    Padding,
    SettingValue,
    SettingWindow,
    SettingsTimeout,
    StreamIdOrder,
    StreamIdle,
    StreamClosed,
    Push,
    Compression,
    BlockSize,
    BlockFrames,
    BlockTimeout,
    WindowExceeded,
    WindowOverflow,
    WindowIncrement,
    BodyLength,
    BodyBeforeHead,
    TrailersOpen,
    InformationalEnd,
    GoAwayOrder,
    PriorityUpdate,
    PingTimeout,
    ResetFlood,
    FaultFlood,
    SettingsFlood,
    PingFlood,
    PriorityFlood,
    WindowUpdateFlood,
    UnknownFlood,
    EmptyFlood,
    TinyFlood,
    LateFlood,
    GoAwayFlood,
    TableChurn,
    FieldBomb,
    InformationalFlood,
}

impl Flaw {
    /// The error code that says it to the other end (RFC 9113 §7).
    pub fn code(self) -> ErrorCode {
        match self {
            Flaw::Preface
            | Flaw::FrameStream
            | Flaw::FrameOrder
            | Flaw::Padding
            | Flaw::SettingValue
            | Flaw::StreamIdOrder
            | Flaw::StreamIdle
            | Flaw::Push
            | Flaw::WindowIncrement
            | Flaw::BodyLength
            | Flaw::BodyBeforeHead
            | Flaw::TrailersOpen
            | Flaw::InformationalEnd
            | Flaw::GoAwayOrder
            | Flaw::PriorityUpdate => ErrorCode::PROTOCOL_ERROR,
            Flaw::FrameSize => ErrorCode::FRAME_SIZE_ERROR,
            Flaw::SettingsTimeout => ErrorCode::SETTINGS_TIMEOUT,
            Flaw::StreamClosed => ErrorCode::STREAM_CLOSED,
            Flaw::Compression => ErrorCode::COMPRESSION_ERROR,
            Flaw::SettingWindow | Flaw::WindowExceeded | Flaw::WindowOverflow => {
                ErrorCode::FLOW_CONTROL_ERROR
            }
            Flaw::PingTimeout => ErrorCode::NO_ERROR,
            Flaw::BlockSize
            | Flaw::BlockFrames
            | Flaw::BlockTimeout
            | Flaw::ResetFlood
            | Flaw::FaultFlood
            | Flaw::SettingsFlood
            | Flaw::PingFlood
            | Flaw::PriorityFlood
            | Flaw::WindowUpdateFlood
            | Flaw::UnknownFlood
            | Flaw::EmptyFlood
            | Flaw::TinyFlood
            | Flaw::LateFlood
            | Flaw::GoAwayFlood
            | Flaw::TableChurn
            | Flaw::FieldBomb
            | Flaw::InformationalFlood => ErrorCode::ENHANCE_YOUR_CALM,
        }
    }

    /// The reason it becomes for one who has `role`: a server's peer is a client, a client's an upstream.
    #[cold]
    pub fn of(self, role: Role) -> Reason {
        let (client, upstream) = match self {
            Flaw::Preface => (PREFACE, UPSTREAM_FRAMES),
            Flaw::FrameSize => (FRAME_SIZE, UPSTREAM_FRAMES),
            Flaw::FrameStream => (FRAME_STREAM, UPSTREAM_FRAMES),
            Flaw::FrameOrder => (FRAME_ORDER, UPSTREAM_FRAMES),
            Flaw::Padding => (FRAME_PADDING, UPSTREAM_FRAMES),
            Flaw::SettingValue | Flaw::SettingWindow => (SETTING_VALUE, UPSTREAM_SETTINGS),
            Flaw::SettingsTimeout => (SETTINGS_TIMEOUT, UPSTREAM_SETTINGS),
            Flaw::StreamIdOrder => (STREAM_ID_ORDER, UPSTREAM_STREAMS),
            Flaw::StreamIdle => (STREAM_IDLE, UPSTREAM_STREAMS),
            Flaw::StreamClosed => (STREAM_CLOSED, UPSTREAM_STREAMS),
            Flaw::Push => (PUSH, UPSTREAM_STREAMS),
            Flaw::Compression => (COMPRESSION, UPSTREAM_COMPRESSION),
            Flaw::BlockSize => (BLOCK_SIZE, UPSTREAM_BLOCK),
            Flaw::BlockFrames => (BLOCK_FRAMES, UPSTREAM_BLOCK),
            Flaw::BlockTimeout => (CLIENT_HEAD_TIMEOUT, UPSTREAM_BLOCK_TIMEOUT),
            Flaw::WindowExceeded => (WINDOW_EXCEEDED, UPSTREAM_WINDOW),
            Flaw::WindowOverflow => (WINDOW_OVERFLOW, UPSTREAM_WINDOW),
            Flaw::WindowIncrement => (WINDOW_INCREMENT, UPSTREAM_WINDOW),
            Flaw::BodyLength => (BODY_LENGTH, UPSTREAM_BODY_LENGTH),
            // A client can neither send before its head nor send an informational one: only the second is ever used.
            Flaw::BodyBeforeHead | Flaw::InformationalEnd => (FRAME_ORDER, UPSTREAM_HEADS),
            Flaw::InformationalFlood => (FRAME_ORDER, UPSTREAM_FLOOD),
            Flaw::TrailersOpen => (TRAILERS_OPEN, UPSTREAM_HEADS),
            Flaw::GoAwayOrder => (GOAWAY_ORDER, UPSTREAM_GOAWAY_ORDER),
            Flaw::PriorityUpdate => (PRIORITY_UPDATE, UPSTREAM_FRAMES),
            // Clients are not asked whether they live: their streams have deadlines, and so has silence.
            Flaw::PingTimeout => (FRAME_ORDER, UPSTREAM_PING_TIMEOUT),
            Flaw::ResetFlood => (RESET_FLOOD, UPSTREAM_FLOOD),
            Flaw::FaultFlood => (FAULT_FLOOD, UPSTREAM_FLOOD),
            Flaw::SettingsFlood => (SETTINGS_FLOOD, UPSTREAM_FLOOD),
            Flaw::PingFlood => (PING_FLOOD, UPSTREAM_FLOOD),
            Flaw::PriorityFlood => (PRIORITY_FLOOD, UPSTREAM_FLOOD),
            Flaw::WindowUpdateFlood => (WINDOW_UPDATE_FLOOD, UPSTREAM_FLOOD),
            Flaw::UnknownFlood => (UNKNOWN_FLOOD, UPSTREAM_FLOOD),
            Flaw::EmptyFlood => (EMPTY_FLOOD, UPSTREAM_FLOOD),
            Flaw::TinyFlood => (TINY_FLOOD, UPSTREAM_FLOOD),
            Flaw::LateFlood => (LATE_FLOOD, UPSTREAM_FLOOD),
            Flaw::GoAwayFlood => (GOAWAY_FLOOD, UPSTREAM_FLOOD),
            Flaw::TableChurn => (TABLE_CHURN, UPSTREAM_FLOOD),
            Flaw::FieldBomb => (FIELD_BOMB, UPSTREAM_FLOOD),
        };
        match role {
            Role::Server => client,
            Role::Client => upstream,
        }
    }
}

/// What came first is not the preface of RFC 9113 §3.4.
pub const PREFACE: Reason =
    Reason::client("h2_preface", 2300, 400, "The connection does not begin as HTTP/2");
/// A frame is larger than we take, or not of the size that its kind has (RFC 9113 §4.2).
pub const FRAME_SIZE: Reason = Reason::client("h2_frame_size", 2301, 400, "A frame has a wrong size");
/// A frame of a stream came on the connection, or the reverse.
pub const FRAME_STREAM: Reason = Reason::client("h2_frame_stream", 2302, 400, "A frame is on a wrong stream");
/// A frame came where another had to (RFC 9113 §3.4, §4.3, §6.10).
pub const FRAME_ORDER: Reason = Reason::client("h2_frame_order", 2303, 400, "A frame came out of order");
/// Padding is as long as its frame (RFC 9113 §6.1).
pub const FRAME_PADDING: Reason =
    Reason::client("h2_frame_padding", 2304, 400, "A frame has more padding than room");
/// A setting has a value that it may not have (RFC 9113 §6.5.2).
pub const SETTING_VALUE: Reason =
    Reason::client("h2_setting_value", 2305, 400, "A setting has a forbidden value");
/// Our settings were not acknowledged in time (RFC 9113 §6.5.3).
pub const SETTINGS_TIMEOUT: Reason =
    Reason::client("h2_settings_timeout", 2306, 408, "The settings were not acknowledged");
/// A stream's number is even, or below one that was used (RFC 9113 §5.1.1).
pub const STREAM_ID_ORDER: Reason =
    Reason::client("h2_stream_id_order", 2307, 400, "A stream has a forbidden number");
/// A frame for a stream that was never opened (RFC 9113 §5.1).
pub const STREAM_IDLE: Reason = Reason::client("h2_stream_idle", 2308, 400, "A stream was never opened");
/// A frame for a stream that the client had ended (RFC 9113 §5.1).
pub const STREAM_CLOSED: Reason =
    Reason::client("h2_stream_closed", 2309, 400, "A frame came behind the end of its stream");
/// A client pushes, or an upstream does so though it may not (RFC 9113 §8.4).
pub const PUSH: Reason = Reason::client("h2_push", 2311, 400, "A push is forbidden here");
/// A field block cannot be decoded (RFC 9113 §4.3).
pub const COMPRESSION: Reason =
    Reason::client("h2_compression", 2312, 400, "A field block cannot be decoded");
/// A field block is larger than the bound (CVE-2024-27316 and its kin).
pub const BLOCK_SIZE: Reason = Reason::client("h2_block_size", 2313, 431, "A field block is too large");
/// A field block comes in more frames than the bound.
pub const BLOCK_FRAMES: Reason =
    Reason::client("h2_block_frames", 2314, 431, "A field block comes in too many frames");
/// More was sent than the window granted (RFC 9113 §6.9).
pub const WINDOW_EXCEEDED: Reason =
    Reason::client("h2_window_exceeded", 2315, 400, "More was sent than flow control granted");
/// A window grew beyond 2^31 − 1 (RFC 9113 §6.9.1).
pub const WINDOW_OVERFLOW: Reason =
    Reason::client("h2_window_overflow", 2316, 400, "A window is larger than there is");
/// A WINDOW_UPDATE of nothing (RFC 9113 §6.9).
pub const WINDOW_INCREMENT: Reason =
    Reason::client("h2_window_increment", 2317, 400, "A window is updated by nothing");
/// DATA is not as long as Content-Length says (RFC 9113 §8.1.1).
pub const BODY_LENGTH: Reason =
    Reason::client("h2_body_length", 2319, 400, "The body is not as long as it says");
/// A second field block does not end the stream (RFC 9113 §8.1).
pub const TRAILERS_OPEN: Reason =
    Reason::client("h2_trailers_open", 2320, 400, "Trailers do not end their stream");
/// A GOAWAY takes back what an earlier one said (RFC 9113 §6.8).
pub const GOAWAY_ORDER: Reason =
    Reason::client("h2_goaway_order", 2321, 400, "A later goodbye names a later stream");
/// PRIORITY_UPDATE of what cannot be prioritised (RFC 9218 §7.1).
pub const PRIORITY_UPDATE: Reason =
    Reason::client("h2_priority_update", 2322, 400, "A priority is of no stream");

/// Requests reset before they were answered: rapid reset (CVE-2023-44487).
pub const RESET_FLOOD: Reason =
    Reason::client("h2_reset_flood", 2330, 429, "Too many requests were taken back");
/// Faults that make us reset streams: MadeYouReset (CVE-2025-8671).
pub const FAULT_FLOOD: Reason = Reason::client("h2_fault_flood", 2331, 429, "Too many streams were faulty");
/// SETTINGS (CVE-2019-9515).
pub const SETTINGS_FLOOD: Reason =
    Reason::client("h2_settings_flood", 2332, 429, "Settings changed too often");
/// PING (CVE-2019-9512).
pub const PING_FLOOD: Reason = Reason::client("h2_ping_flood", 2333, 429, "There were too many pings");
/// PRIORITY and PRIORITY_UPDATE (CVE-2019-9513).
pub const PRIORITY_FLOOD: Reason =
    Reason::client("h2_priority_flood", 2334, 429, "Priorities changed too often");
/// WINDOW_UPDATE out of proportion to what we sent (CVE-2019-9511).
pub const WINDOW_UPDATE_FLOOD: Reason =
    Reason::client("h2_window_update_flood", 2335, 429, "Windows were updated too often");
/// Frames of kinds that nobody knows.
pub const UNKNOWN_FLOOD: Reason =
    Reason::client("h2_unknown_flood", 2336, 429, "There were too many unknown frames");
/// DATA without data (CVE-2019-9518).
pub const EMPTY_FLOOD: Reason =
    Reason::client("h2_empty_flood", 2337, 429, "There were too many empty frames");
/// DATA of a few bytes each.
pub const TINY_FLOOD: Reason = Reason::client("h2_tiny_flood", 2338, 429, "There were too many tiny frames");
/// Frames on streams that are over.
pub const LATE_FLOOD: Reason =
    Reason::client("h2_late_flood", 2339, 429, "Too much came for streams that are over");
/// GOAWAY.
pub const GOAWAY_FLOOD: Reason = Reason::client("h2_goaway_flood", 2340, 429, "There were too many goodbyes");
/// Fields that drive each other out of the dynamic table.
pub const TABLE_CHURN: Reason =
    Reason::client("h2_table_churn", 2341, 429, "The table of fields changed too often");
/// Small blocks that decode to far more than a head may be (CVE-2016-1544 and its kin).
pub const FIELD_BOMB: Reason =
    Reason::client("h2_field_bomb", 2342, 429, "Field blocks decode to far more than they may");

/// Frames that are malformed, or not where they may be.
pub const UPSTREAM_FRAMES: Reason =
    Reason::upstream("upstream_h2_frames", 4280, 502, "The upstream's frames are malformed");
/// A setting with a forbidden value, or ours not acknowledged.
pub const UPSTREAM_SETTINGS: Reason =
    Reason::upstream("upstream_h2_settings", 4281, 502, "The upstream's settings are forbidden");
/// Frames for streams that are not there, or pushed ones.
pub const UPSTREAM_STREAMS: Reason =
    Reason::upstream("upstream_h2_streams", 4282, 502, "The upstream answers on a wrong stream");
/// A field block cannot be decoded.
pub const UPSTREAM_COMPRESSION: Reason =
    Reason::upstream("upstream_h2_compression", 4283, 502, "The upstream's fields cannot be decoded");
/// A field block beyond its bounds.
pub const UPSTREAM_BLOCK: Reason =
    Reason::upstream("upstream_h2_block", 4284, 502, "The upstream's field block is too large");
/// Flow control violated, in one direction or the other.
pub const UPSTREAM_WINDOW: Reason =
    Reason::upstream("upstream_h2_window", 4285, 502, "The upstream violates flow control");
/// DATA is not as long as Content-Length says, or there is some where none may be.
pub const UPSTREAM_BODY_LENGTH: Reason =
    Reason::upstream("upstream_h2_body_length", 4287, 502, "The response is not as long as it says");
/// A body before its head, an informational head that ends the stream, or trailers that do not.
pub const UPSTREAM_HEADS: Reason =
    Reason::upstream("upstream_h2_heads", 4288, 502, "The upstream's response is out of order");
/// A GOAWAY takes back what an earlier one said.
pub const UPSTREAM_GOAWAY_ORDER: Reason = Reason::upstream(
    "upstream_h2_goaway_order",
    4289,
    502,
    "The upstream's later goodbye names a later stream",
);
/// A PING was not answered in time.
pub const UPSTREAM_PING_TIMEOUT: Reason =
    Reason::upstream("upstream_h2_ping_timeout", 4290, 504, "The upstream did not answer a ping");
/// More control frames, faults or empty frames than a server has a use for.
pub const UPSTREAM_FLOOD: Reason =
    Reason::upstream("upstream_h2_flood", 4291, 502, "The upstream floods the connection");
/// A field block that was begun did not come to its end in time, and with it nothing of any stream.
pub const UPSTREAM_BLOCK_TIMEOUT: Reason =
    Reason::upstream("upstream_h2_block_timeout", 4292, 504, "The upstream did not end a field block");
