//! What the operator wrote: YAML read once into a tree of spanned nodes, bound to typed configs; never seen by a request.
//!
//! `source` (files and places) → `read` (text to `node`s) → `bind` (nodes to types, by the tables of `shape`, with the
//! values of `unit` and `secret`) → `model` (what can be written) → `check` (what must hold between its parts). Each
//! stage collects its errors ([`ConfigError`]), and one run reports them all. Only `cli` and `snapshot` call this, and
//! a policy's own `compile`.

pub mod bind;
pub mod check;
pub mod error;
pub mod json_schema;
pub mod load;
pub mod model;
pub mod node;
pub mod read;
pub mod secret;
pub mod shape;
pub mod source;
pub mod targets;
pub mod unit;

pub use bind::{Bind, FromNode, MapBinder, Named, Spanned};
pub use error::{Code, ConfigError, Errors, Severity};
pub use load::{Loaded, Loader, load, parse_str};
pub use model::Config;
pub use node::{Node, NodeKind};
pub use secret::{Secret, SecretRef};
pub use shape::{Key, Shape, Table};
pub use source::{FileId, Source, Sources, Span};
