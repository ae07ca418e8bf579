//! `maintenance`, of an API or of the whole node: nothing is served for a while, and clients are told to come again.

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::Reason;
use crate::config::bind::{Bind, FromNode, Spanned, malformed};
use crate::config::error::Code;
use crate::config::node::{Node, NodeKind};
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;

/// Not a moment.
pub const MOMENT: Code = Code::new(1438);

/// A time in which nothing is served.
#[derive(Clone, Debug)]
pub struct Maintenance {
    /// Why; for operators, not for clients.
    pub reason: Spanned<String>,
    /// When it ends by itself; `None`: when this is deleted.
    pub until: Option<Spanned<Moment>>,
    /// When clients are told to come again; what is left until `until`, or 5 min.
    pub retry_after: Option<Duration>,
    /// Clients that are served all the same.
    pub except: Vec<Spanned<IpNet>>,
    /// The whole value.
    pub span: Span,
}

impl Maintenance {
    /// What it does, in words, for `check`.
    pub fn words(&self) -> String {
        let until = self.until.as_ref().map(|until| format!(" until {}", until.value)).unwrap_or_default();
        let except = match self.except.len() {
            0 => String::new(),
            _ => {
                let networks: Vec<String> =
                    self.except.iter().map(|network| network.value.to_string()).collect();
                format!(" but {}", networks.join(" "))
            }
        };
        format!("in maintenance{until} for all{except} (\"{}\")", self.reason.value)
    }
}

/// A moment, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Timestamp);

impl Moment {
    /// Seconds since 1970, in UTC; 0 for what lies before.
    pub fn unix_s(self) -> u64 {
        u64::try_from(self.0.as_second()).unwrap_or(0)
    }

    /// Whether it lies before `day` begins in UTC.
    pub fn is_before(self, day: Date) -> bool {
        day.to_zoned(TimeZone::UTC).is_ok_and(|begin| self.0 <= begin.timestamp())
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Keys of the long form of `maintenance`.
pub static MAINTENANCE: Table = Table {
    what: "the long form of `maintenance`",
    place: "maintenance",
    keys: &[
        Key::required("reason", Shape::Text("why"), "why; for operators, clients do not see it"),
        Key::optional(
            "until",
            Moment::SHAPE,
            "when it ends by itself: a time such as `2027-06-30T18:00Z`, or a day, over when it is over in UTC",
        )
        .default("it ends when it is deleted"),
        Key::optional("retry_after", Duration::SHAPE, "when clients are told to come again")
            .default("what is left until `until`, or 5min")
            .bounds("1s", "7day"),
        Key::optional("except", <Vec<IpNet>>::SHAPE, "clients that are served all the same, by address")
            .default("nobody"),
    ],
};

/// Short form: the reason.
impl FromNode for Maintenance {
    const SHAPE: Shape = Shape::Either(&[Shape::Text("why"), Shape::Map(&MAINTENANCE)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if !matches!(node.kind, NodeKind::Map(_)) {
            let reason = Spanned::<Reason>::from_node(node, bind)?;
            let reason = Spanned::new(reason.value.0, reason.span);
            return Some(Maintenance {
                reason,
                until: None,
                retry_after: None,
                except: Vec::new(),
                span: node.span,
            });
        }
        bind.map(node, &MAINTENANCE, |m| {
            let until = m.optional("until");
            let retry_after = m.optional("retry_after");
            let except = m.optional("except").unwrap_or_default();
            let reason = m.required::<Spanned<Reason>>("reason")?;
            let reason = Spanned::new(reason.value.0, reason.span);
            Some(Maintenance { reason, until, retry_after, except, span: m.span() })
        })
    }
}

/// RFC 3339, seconds at will; a day alone ends when it is over in UTC.
impl FromNode for Moment {
    const SHAPE: Shape = Shape::Pattern(
        "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2}))?$",
        "2027-06-30T18:00Z",
    );

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str =
            "a time with its offset such as `2027-06-30T18:00Z`, or a day such as `2027-06-30`";
        let text = bind.text(node, EXPECTED)?;
        let moment = match text.len() {
            10 => text.parse::<Date>().ok().and_then(|day| {
                let next = day.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?;
                Some(next.timestamp())
            }),
            _ if text.as_bytes().get(10) == Some(&b'T') => text.parse::<Timestamp>().ok(),
            _ => None,
        };
        match moment {
            Some(moment) if moment.as_second() > 0 => Some(Moment(moment)),
            _ => malformed(bind, node, MOMENT, "this is not a moment", EXPECTED),
        }
    }
}
