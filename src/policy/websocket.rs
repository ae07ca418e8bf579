//! `websocket`: who may open one, and what each message must be.
//!
//! # What it does
//! Judges the opening handshake once the request has met every other policy, and then each message of the client before anything of
//! it goes on: how many there are, and, with a schema, what they say. What passes is carried by [`crate::pipeline::tunnel`]; what a
//! frame must look like is [`crate::websocket`]'s affair.
//!
//! # Configuration
//! `websocket: true`, or `{ rate: 100/s, idle: 60s, lifetime: 24h, origins: [https://shop.example.com],
//! schema: event.schema.json, compression: false }`, of an operation (then it is nothing else) or a raw API (then it is that as well).
//! `sizes.message` bounds a message; without it that is 1 MiB.
//!
//! # Answers
//! To the handshake 426, 400, 403 and 501 (RW-2400 to RW-2410), 503 where there is no room (RW-2444); to messages a Close frame with 1008 (RW-2431, RW-2432).
//!
//! # Cost
//! A rate is two additions and a comparison a message; a schema one parse of each. No allocation for what passes.
//!
//! # References
//! RFC 6455 §4.2, §10.2; RFC 8441 §5; OWASP WebSocket Security Cheat Sheet.

use crate::config::error::ConfigError;
use crate::config::model as written;
use crate::http::{Reason, Version};
use crate::pipeline::exchange::Exchange;
use crate::policy::validate;
use crate::policy::validate::json_schema::JsonSchema;
use crate::websocket::filter::Kind;
use crate::websocket::handshake::{
    Opening, PROTOCOL, WEBSOCKET_REQUIRED, judge_connect, judge_origin, judge_upgrade,
};
use crate::websocket::{Look, Rules, Sender};

/// An extended CONNECT to an operation that is no WebSocket.
pub const WEBSOCKET_UNSERVED: Reason =
    Reason::client("websocket_unserved", 2410, 400, "This operation speaks no WebSocket");
/// More messages than may be.
pub const WEBSOCKET_RATE: Reason = Reason::client("websocket_rate", 2431, 429, "Too many messages");
/// A message that is not what its schema says.
pub const WEBSOCKET_SCHEMA: Reason =
    Reason::client("websocket_schema", 2432, 422, "A message does not fit its schema");

/// Most bytes of a message where `sizes.message` says nothing.
const MESSAGE_BYTES: u64 = 1 << 20;

/// What holds for the WebSockets of an operation.
#[derive(Debug)]
pub struct WebSocket {
    /// The operation is opened as a WebSocket, and answers nothing else.
    only: bool,
    /// Nanoseconds that a message costs, and how many may come at once.
    rate: Option<(u64, u64)>,
    origins: Vec<Box<[u8]>>,
    schema: Option<JsonSchema>,
    compression: bool,
    message_bytes_max: u64,
    /// Without a byte in either direction, milliseconds.
    pub idle_ms: u64,
    /// From the handshake to the end, milliseconds.
    pub lifetime_ms: u64,
}

impl WebSocket {
    /// Compiles what was written; `only` for an operation.
    ///
    /// # Errors
    /// Those of its schema.
    pub fn compile(
        websocket: &written::WebSocket,
        only: bool,
        sizes: &written::SizesInForce,
    ) -> Result<WebSocket, Vec<ConfigError>> {
        let in_force = websocket.in_force();
        let message_bytes_max = sizes.message_bytes_max.unwrap_or(MESSAGE_BYTES);
        let schema = websocket.schema.as_ref();
        let schema = schema
            .map(|schema| JsonSchema::compile(schema, message_bytes_max, sizes.json_depth_max))
            .transpose()?;
        let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(WebSocket {
            only,
            rate: websocket.rate.map(|rate| (rate.value.period.nanos() / rate.value.count, rate.value.count)),
            origins: websocket.origins.iter().map(|origin| origin.value.0.as_bytes().into()).collect(),
            schema,
            compression: in_force.compression,
            message_bytes_max,
            idle_ms: milliseconds(in_force.idle),
            lifetime_ms: milliseconds(in_force.lifetime),
        })
    }

    /// Judges the handshake; `None`: the request does not ask for one, and may be an ordinary one.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn open(&self, x: &Exchange) -> Result<Option<Opening>, &'static Reason> {
        let (head, table) = (x.head_bytes(), &x.request.table);
        let judged = match table.version {
            // Whose `:protocol` is another was refused already.
            Version::Http2 if table.websocket => judge_connect(head, table, PROTOCOL, self.look()),
            _ => judge_upgrade(head, table, self.look()),
        };
        let mut opening = match judged {
            Err(reason) if *reason == WEBSOCKET_REQUIRED && !self.only => return Ok(None),
            judged => judged?,
        };
        if !self.origins.is_empty() {
            judge_origin(head, &table.fields, self.origins.iter().map(|origin| &**origin))?;
        }
        opening.offers_deflate &= self.compression;
        Ok(Some(opening))
    }

    /// What is looked at in what a client sends.
    fn look(&self) -> Look {
        if self.schema.is_some() { Look::Messages } else { Look::Heads }
    }

    /// What holds in the direction away from `sender`, where `deflate` was agreed on or not.
    pub fn rules(&self, sender: Sender, deflate: bool) -> Rules {
        let look = if sender == Sender::Client { self.look() } else { Look::Heads };
        Rules { look, deflate, message_bytes_max: self.message_bytes_max, ..Rules::new(sender) }
    }

    /// A message of a client begins at `now_ns`; those before it are paid for at `paid_ns` (monotonic nanoseconds).
    ///
    /// # Errors
    /// There are too many.
    #[inline]
    pub fn admit(&self, paid_ns: &mut u64, now_ns: u64) -> Result<(), &'static Reason> {
        let Some((interval_ns, burst)) = self.rate else { return Ok(()) };
        // A cell of GCRA, as limits have it: the rate's whole state is when what was spent is paid for.
        let until_ns = (*paid_ns).max(now_ns) + interval_ns;
        if until_ns - now_ns > interval_ns.saturating_mul(burst) {
            return Err(&WEBSOCKET_RATE);
        }
        *paid_ns = until_ns;
        Ok(())
    }

    /// A whole message of a client.
    ///
    /// # Errors
    /// It is not what its schema says.
    pub fn message(
        &self,
        kind: Kind,
        payload: &[u8],
        scratch: &mut validate::PerCore,
    ) -> Result<(), &'static Reason> {
        match &self.schema {
            // RFC 8259 §8.1: JSON is text; who sends something else means another thing than what would be judged.
            Some(schema) if kind != Kind::Text || !schema.is_met(payload, scratch) => Err(&WEBSOCKET_SCHEMA),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_its_burst_through_and_then_one_each_interval() {
        let mut websocket =
            WebSocket::compile(&written::WebSocket::default(), true, &written::Sizes::default().in_force())
                .unwrap();
        let mut paid_ns = 0;
        assert!((0..10_000).all(|_| websocket.admit(&mut paid_ns, 1).is_ok()));
        websocket.rate = Some((1_000, 3));
        let mut at = |now_ns| websocket.admit(&mut paid_ns, now_ns).is_ok();
        assert_eq!([at(5_000), at(5_000), at(5_000), at(5_000)], [true, true, true, false]);
        assert_eq!([at(5_999), at(6_000), at(6_000), at(7_000)], [false, true, false, true]);
        assert_eq!([at(1_000_000), at(1_000_000), at(1_000_000), at(1_000_000)], [true, true, true, false]);
    }
}
