//! What one core keeps to parse bodies: a padded copy, simd-json's buffers, its tape.
//!
//! What it is for: bytes to tape without allocation in steady state, and the check that names are unique. What it
//! is not for: explaining a refusal (that is [`super::Tree`]'s).
//!
//! Who calls it: [`super::check_only`] and [`crate::schema`], once per body.
//!
//! Memory: 1 byte per byte of the body for the copy and again for unescaped strings, 4 per structural character,
//! 24 per value. After a body above [`Scratch::BYTES_KEPT`] all of it is given back.

use std::hash::BuildHasher;

use simd_json::{Buffers, INPUT_PADDING, Tape};
pub use simd_json::{Node, StaticNode};

use super::{JsonLimits, ReadError, Tree};

/// One core's buffers for JSON bodies.
pub struct Scratch {
    input: Vec<u8>,
    /// simd-json keeps the depth bound in its buffers: one set for each bound in use.
    buffers: Vec<(u32, Buffers)>,
    tape: Tape<'static>,
    names: Vec<(u64, u32)>,
    hasher: hashbrown::DefaultHashBuilder,
    tree: Tree,
}

/// A parsed body: a tape of nodes in document order.
///
/// An array or object node is followed by its `count` inner nodes; a member's name is right before its value.
pub struct Parsed<'s, 'de> {
    /// The nodes; node 0 is the outermost value. Never empty.
    pub tape: &'s [Node<'de>],
    /// Room for hashes while looking for equal names or elements. Whoever uses it truncates it to the length it
    /// found.
    pub names: &'s mut Vec<(u64, u32)>,
    /// Seeded at random for each core: what a peer sends cannot be chosen to collide.
    pub hasher: &'s hashbrown::DefaultHashBuilder,
}

impl Scratch {
    /// Bodies above this size do not leave their buffers behind. 256 KiB.
    pub const BYTES_KEPT: usize = 256 << 10;
    /// How many depth bounds have buffers of their own at one time.
    const DEPTHS_KEPT: usize = 4;

    /// Empty buffers; they grow with the first bodies.
    pub fn new() -> Scratch {
        Scratch {
            input: Vec::new(),
            buffers: Vec::new(),
            tape: Tape(Vec::new()),
            names: Vec::new(),
            hasher: hashbrown::DefaultHashBuilder::default(),
            tree: Tree::new(),
        }
    }

    /// Parses `body` and hands the tape to `look`. `None` where simd-json refuses it: malformed, too deep, or a
    /// number that 64 bits do not hold. The caller has checked the size.
    ///
    /// One copy: simd-json unescapes in place and reads past the end, and the body's own bytes are not ours to change.
    pub fn parse<R>(
        &mut self,
        body: &[u8],
        limits: &JsonLimits,
        look: impl FnOnce(&mut Parsed<'_, '_>) -> R,
    ) -> Option<R> {
        let giant = body.len() > Self::BYTES_KEPT;
        let depth = limits.depth();
        let index = match self.buffers.iter().position(|&(bound, _)| bound == depth) {
            Some(index) => index,
            None => self.make_buffers(depth),
        };
        let (_, buffers) = &mut self.buffers[index];
        self.input.clear();
        self.input.reserve(body.len() + INPUT_PADDING);
        self.input.extend_from_slice(body);
        self.input.extend_from_slice(&[0; INPUT_PADDING]);
        let mut tape: Tape<'_> = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape_padded(&mut self.input, body.len(), buffers, &mut tape);
        let result = match parsed {
            Ok(()) if !tape.0.is_empty() => {
                let names = &mut self.names;
                names.clear();
                Some(look(&mut Parsed { tape: &tape.0, names, hasher: &self.hasher }))
            }
            _ => None,
        };
        self.tape = tape.reset();
        if giant {
            self.shrink();
        }
        result
    }

    /// Reads `body` exactly and with positions: slower, for refusals and for numbers that the tape cannot hold.
    ///
    /// # Errors
    /// Where and why the text is refused.
    pub fn read(&mut self, body: &[u8], limits: &JsonLimits) -> Result<&Tree, ReadError> {
        self.tree.shrink(Self::BYTES_KEPT);
        self.tree.read(body, limits)?;
        Ok(&self.tree)
    }

    #[cold]
    fn make_buffers(&mut self, depth: u32) -> usize {
        if self.buffers.len() >= Self::DEPTHS_KEPT {
            self.buffers.remove(0);
        }
        self.buffers.push((depth, Buffers::with_max_depth(4096, depth as usize)));
        self.buffers.len() - 1
    }

    #[cold]
    fn shrink(&mut self) {
        *self = Scratch { hasher: self.hasher.clone(), ..Scratch::new() };
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

/// Up to this many names are compared with one another; more are hashed and sorted.
const PAIRWISE_MAX: usize = 12;

impl Parsed<'_, '_> {
    /// Whether no object at or below node `at` names a member twice. `false` also where two hashes collide: the
    /// exact reader decides then.
    pub fn names_are_unique(&mut self, at: usize) -> bool {
        let mut node = at;
        let end = after(self.tape, at);
        while node < end {
            if let Node::Object { len, .. } = self.tape[node]
                && len > 1
                && !self.object_names_are_unique(node, len)
            {
                return false;
            }
            node += 1;
        }
        true
    }

    /// The same for the members of one object, not for what is below them.
    pub fn object_names_are_unique(&mut self, object: usize, len: usize) -> bool {
        let tape = self.tape;
        if len > PAIRWISE_MAX {
            return self.many_names_are_unique(object, len);
        }
        let mut names = [""; PAIRWISE_MAX];
        let mut at = object + 1;
        for index in 0..len {
            let Node::String(name) = tape[at] else { return false };
            for earlier in &names[..index] {
                if earlier.len() == name.len() && *earlier == name {
                    return false;
                }
            }
            names[index] = name;
            at = after(tape, at + 1);
        }
        true
    }

    #[cold]
    fn many_names_are_unique(&mut self, object: usize, len: usize) -> bool {
        let base = self.names.len();
        let mut at = object + 1;
        for _ in 0..len {
            let Node::String(name) = self.tape[at] else { return false };
            self.names.push((self.hasher.hash_one(name.as_bytes()), at as u32));
            at = after(self.tape, at + 1);
        }
        let unique = hashes_are_unique(&mut self.names[base..]);
        self.names.truncate(base);
        unique
    }
}

/// Whether no two hashes are the same. Sorts them: O(n log n), whatever a peer sent.
pub fn hashes_are_unique(hashes: &mut [(u64, u32)]) -> bool {
    hashes.sort_unstable();
    hashes.windows(2).all(|pair| pair[0].0 != pair[1].0)
}

/// The node after the value at `at` and all that is below it.
#[inline(always)]
pub fn after(tape: &[Node<'_>], at: usize) -> usize {
    match tape[at] {
        Node::Object { count, .. } | Node::Array { count, .. } => at + 1 + count,
        _ => at + 1,
    }
}
