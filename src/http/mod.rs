//! What all codecs agree on: heads, fields, targets, reasons, limits. No sockets.

pub mod address;
pub mod date;
pub mod field;
pub mod forward;
pub mod forwarded;
pub mod head;
pub mod media_type;
pub mod protocol;
pub mod reason;
pub mod scan;
pub mod status;
pub mod target;

pub use field::{Field, FieldRef, FieldSet, FieldTable, Known, Span};
pub use head::{BodyLength, HeadLimits, Method, RequestTable, ResponseTable, Version};
pub use protocol::{Protocol, Protocols};
pub use reason::{Fault, Reason};
