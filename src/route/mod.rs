//! Which operation a request means: host + base + path template + method → one number; sans-IO.
//!
//! Built once per snapshot by [`RouterBuilder`], then only read. A [`Router`] answers [`Router::find`] in
//! O(path length), without allocating and without knowing what the numbers stand for.
//!
//! # Rules
//! 1. **Host.** The host's own tree, or else that of *any host*; none: [`Lookup::HostUnknown`]. Bases of any
//!    host hold on every known host too, except where the host has the same base itself.
//! 2. **Base.** Among the host's bases the longest that contains the path wins, whole segments only (`/v1`
//!    contains `/v1` and `/v1/x`, not `/v10`), and **wins for good**: a path inside `/private` is never
//!    answered by a route or a subtree of `/`, whatever `/private` has. That is how a closed corner is closed.
//! 3. **Path.** What follows the base is matched from left to right. Where several templates match: a literal
//!    beats a segment with literal parts (`{name}.json`, `{a}-{b}`), which beats a bare parameter, which beats a
//!    tail (`{+path}`). Of two segments with literal parts the one whose literal comes first wins, then the
//!    one with more literal bytes. A dead end goes back and tries the next best.
//!    A parameter takes at least one byte and never a slash; in `{a}-{b}` the earlier takes as little as it
//!    can. A trailing slash is significant.
//! 4. **Method.** The path decides first: `DELETE /orders/special` is [`Lookup::MethodNotAllowed`] if
//!    `/orders/special` has only GET, even where `/orders/{id}` has DELETE. GET implies HEAD.
//! 5. **Subtree.** A base may stand for one value, whatever follows it and whatever the method (raw, closed).
//!
//! # Bounds
//! Going back costs time, and the operator's templates, not the client, decide how much: the builder counts
//! the most nodes that any path can visit and refuses more than [`VISITS_MAX`]. A tree is visited in its
//! order and no node twice, so ordinary APIs of 50,000 routes stay near the number of segments.
//!
//! Not for: what the target's canonical form is (`http::target`; the path is taken as it comes, remaining
//! percent-encodings are data), nor what is done with the answer. Called by the pipeline.

mod builder;
mod methods;
mod template;
mod tree;

use hashbrown::HashMap;

pub use self::{
    builder::{BaseId, RouteError, RouterBuilder},
    methods::MethodSet,
    template::{Template, TemplateError},
};
use self::{
    methods::index_of,
    tree::{NONE, Trees},
};
use crate::http::{Method, field::Span};

/// The most parameters of a template.
pub const PARAMETERS_MAX: usize = 16;

/// The most bytes of a template or a base.
pub const TEMPLATE_BYTES_MAX: usize = 4096;

/// The most nodes that one lookup may visit, over all paths.
pub const VISITS_MAX: u64 = 4096;

/// The routes of a snapshot; see the module.
///
/// Memory: 20 bytes a node (at most two nodes a template segment), the templates' literal bytes, and 8 to
/// 12 bytes a route. All hosts share one arena.
#[derive(Default)]
pub struct Router {
    trees: Trees,
    bases: Vec<Base>,
    /// Lower-case host, without port, to the root of its tree of bases.
    hosts: HashMap<Box<[u8]>, u32>,
    /// The root of the tree of bases for hosts that are not named.
    any_host: Option<u32>,
    visits_max: u64,
}

struct Base {
    /// The root of its routes; `NONE`: it has none.
    routes: u32,
    subtree: Option<u32>,
}

/// What a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The value of the operation, or of the base's subtree (then without parameters).
    Found {
        /// What was given to the builder.
        value: u32,
        /// The parameters in the order of the template.
        parameters: Parameters,
    },
    /// No API is served on this host: 421.
    HostUnknown,
    /// No template matches: 404.
    NotFound,
    /// The path is known, this method of it is not: 405.
    MethodNotAllowed {
        /// What `Allow` lists.
        allow: MethodSet,
    },
}

/// The parameters of a path, as spans of it, in the order of the template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    spans: [Span; PARAMETERS_MAX],
    len: u8,
}

impl Router {
    /// What a request with this host (lower case, no port), canonical path and method means.
    #[inline]
    pub fn find(&self, host: &[u8], path: &[u8], method: Method) -> Lookup {
        let bases = match self.hosts.is_empty() {
            true => self.any_host,
            false => self.hosts.get(host).copied().or(self.any_host),
        };
        let Some(bases) = bases else {
            return Lookup::HostUnknown;
        };
        // Spans are of 16 bits; targets are shorter by far.
        if path.len() > u16::MAX as usize {
            return Lookup::NotFound;
        }
        let Some((base, start)) = self.trees.longest_base(bases, path) else {
            return Lookup::NotFound;
        };
        let base = &self.bases[base as usize];
        let mut parameters = Parameters::default();
        if base.routes != NONE
            && let Some(leaf) = self.trees.walk(base.routes, path, start, &mut parameters)
        {
            return match self.trees.value(leaf, index_of(method)) {
                Ok(value) => Lookup::Found { value, parameters },
                Err(allow) => Lookup::MethodNotAllowed { allow },
            };
        }
        match base.subtree {
            Some(value) => Lookup::Found { value, parameters: Parameters::default() },
            None => Lookup::NotFound,
        }
    }

    /// The most nodes that a lookup of any path visits, at most [`VISITS_MAX`].
    pub fn visits_max(&self) -> u64 {
        self.visits_max
    }

    /// The memory of the arena, in bytes.
    pub fn bytes(&self) -> usize {
        self.trees.bytes() + self.bases.len() * size_of::<Base>()
    }
}

impl Parameters {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The spans, in the order of the template.
    pub fn spans(&self) -> &[Span] {
        &self.spans[..self.len as usize]
    }

    /// The bytes of the `index`th parameter of `path`.
    pub fn of<'p>(&self, index: usize, path: &'p [u8]) -> Option<&'p [u8]> {
        self.spans().get(index).map(|span| span.of(path))
    }

    #[inline]
    fn push(&mut self, start: usize, end: usize) {
        // Templates have at most `PARAMETERS_MAX`, and a dead end takes back what it pushed.
        if let Some(span) = self.spans.get_mut(self.len as usize) {
            *span = Span { start: start as u16, len: (end - start) as u16 };
            self.len += 1;
        }
    }

    #[inline]
    fn truncate(&mut self, len: u8) {
        self.len = len;
    }
}

#[cfg(test)]
mod tests;
