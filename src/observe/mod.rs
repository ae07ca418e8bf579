//! What a share-nothing proxy can tell about itself: access and audit records, metrics, ids of requests.
//!
//! For: copying integers and a few bounded strings on a data thread, everything else (formatting, escaping,
//! redaction, files, exposition) on the writer and control threads. Not for: deciding anything about a request.
//! Called by `pipeline` at the end of an exchange ([`CoreLog`], [`CoreMetrics`]), by `control` at each new
//! configuration and scrape ([`Registry`]), and by `cli` at start ([`Writer`]).
//!
//! The data thread's budget per request: no allocation, no lock, no read-modify-write instruction, no system call,
//! no wait. What cannot be kept is dropped and counted; nothing here can slow a request.
//!
//! | file | what |
//! |---|---|
//! | `names` | small stable ids for configured names, the table that turns them into text |
//! | `ring` | a bounded single-producer single-consumer ring of words |
//! | `record` | the access record, its fixed layout, the producers of one core |
//! | `format`, `redact` | JSON lines and combined format, escaping, what never appears |
//! | `writer` | the one thread that drains the rings |
//! | `metrics` | counters and histograms of one core |
//! | `registry`, `exposition` | ids → names, sums over the cores, Prometheus text and OpenMetrics |
//! | `request_id`, `trace` | UUIDv7, `traceparent` |

mod exposition;
mod format;
pub mod laws;
mod metrics;
mod names;
mod record;
mod redact;
mod registry;
mod request_id;
mod ring;
mod trace;
mod writer;

pub use exposition::{
    CONTENT_TYPE_OPENMETRICS, CONTENT_TYPE_TEXT, Exposition, FAMILIES, Family, FamilySpec, Samples,
};
pub use format::{Formatter, LogFormat};
pub use metrics::{CoreMetrics, Decision, ExemplarId, Handshake, TokenCache};
pub use names::{
    ApiId, ApiNames, Directory, ListenerId, LoginId, NameTable, Names, OperationId, TargetId, UpstreamId,
};
pub use record::{
    AccessRecord, AdminLog, AdminRecord, Alpn, CoreLog, Flags, Full, LogDrain, LogRings, Method, Mode,
    Protocol, RingSizes, TlsVersion, rings,
};
pub use redact::redact_query;
pub use registry::{RegisteredApi, RegisteredNames, Registry};
pub use request_id::{RequestId, RequestIds};
pub use trace::TraceParent;
pub use writer::{AuditSink, LOG_NOT_REOPENED, LogConfig, Sink, Writer, WriterError, WriterStats};
