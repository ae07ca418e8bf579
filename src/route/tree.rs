//! The trees that are walked: a radix tree over literal bytes, with an edge for each kind of parameter, flat
//! in one arena.

use super::{MethodSet, Parameters};

/// No node, leaf or wild edges.
pub(super) const NONE: u32 = u32::MAX;

/// All trees of a router. Indices are `u32` into the vectors.
#[derive(Default)]
pub(super) struct Trees {
    pub nodes: Vec<Node>,
    /// The first byte of each node's text, beside the nodes: a node's children are neighbours, so the next
    /// one is found by one scan of a few bytes.
    pub firsts: Vec<u8>,
    /// The nodes' texts and the patterns' pieces.
    pub text: Vec<u8>,
    pub wilds: Vec<Wild>,
    pub patterns: Vec<PatternEdge>,
    pub pieces: Vec<Text>,
    pub leaves: Vec<Leaf>,
    pub values: Vec<u32>,
}

/// Literal bytes, then what may follow.
#[derive(Clone, Copy)]
pub(super) struct Node {
    pub text: Text,
    pub children: u16,
    pub first_child: u32,
    pub leaf: u32,
    pub wild: u32,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Text {
    pub start: u32,
    pub len: u16,
}

/// The parameters that may follow a node, best first.
#[derive(Clone, Copy)]
pub(super) struct Wild {
    pub patterns: u32,
    pub patterns_len: u32,
    pub parameter: u32,
    /// A leaf, not a node: nothing follows a tail.
    pub tail: u32,
}

#[derive(Clone, Copy)]
pub(super) struct PatternEdge {
    pub pieces: u32,
    pub pieces_len: u32,
    pub node: u32,
}

/// The methods of a path, and where their values begin: in the order of their bits.
#[derive(Clone, Copy)]
pub(super) struct Leaf {
    pub methods: MethodSet,
    pub values: u32,
}

impl Trees {
    /// The base with the longest path that contains `path`, and that path's length.
    #[inline]
    pub fn longest_base(&self, root: u32, path: &[u8]) -> Option<(u32, usize)> {
        let mut best = None;
        let mut node = &self.nodes[root as usize];
        let mut at = 0;
        loop {
            if !path[at..].starts_with(self.text(node.text)) {
                return best;
            }
            at += node.text.len as usize;
            let next = path.get(at);
            // Whole segments only.
            if node.leaf != NONE && next.is_none_or(|&byte| byte == b'/') {
                best = Some((node.leaf, at));
            }
            let Some(child) = next.and_then(|&byte| self.child(node, byte)) else {
                return best;
            };
            node = &self.nodes[child as usize];
        }
    }

    /// The leaf of the best template that matches `path` from `at` on, with its parameters added.
    /// The recursion goes one deeper only where there is a choice; the builder bounds it.
    pub fn walk(&self, root: u32, path: &[u8], mut at: usize, parameters: &mut Parameters) -> Option<u32> {
        let mut node = &self.nodes[root as usize];
        loop {
            if !path[at..].starts_with(self.text(node.text)) {
                return None;
            }
            at += node.text.len as usize;
            let Some(&byte) = path.get(at) else {
                return (node.leaf != NONE).then_some(node.leaf);
            };
            let child = self.child(node, byte);
            if node.wild == NONE {
                node = &self.nodes[child? as usize];
                continue;
            }
            let mark = parameters.len;
            if let Some(child) = child {
                if let Some(leaf) = self.walk(child, path, at, parameters) {
                    return Some(leaf);
                }
                parameters.truncate(mark);
            }
            // A parameter takes at least one byte.
            if byte == b'/' {
                return None;
            }
            let end = segment_end(path, at);
            let wild = &self.wilds[node.wild as usize];
            let patterns = wild.patterns as usize..(wild.patterns + wild.patterns_len) as usize;
            for edge in &self.patterns[patterns] {
                if self.matches(edge, path, at, end, parameters)
                    && let Some(leaf) = self.walk(edge.node, path, end, parameters)
                {
                    return Some(leaf);
                }
                parameters.truncate(mark);
            }
            if wild.parameter != NONE {
                parameters.push(at, end);
                if wild.tail == NONE {
                    node = &self.nodes[wild.parameter as usize];
                    at = end;
                    continue;
                }
                if let Some(leaf) = self.walk(wild.parameter, path, end, parameters) {
                    return Some(leaf);
                }
                parameters.truncate(mark);
            }
            if wild.tail == NONE {
                return None;
            }
            parameters.push(at, path.len());
            return Some(wild.tail);
        }
    }

    /// The value of a leaf for the method with this bit, or the methods that it has.
    #[inline]
    pub fn value(&self, leaf: u32, method: u32) -> Result<u32, MethodSet> {
        let leaf = &self.leaves[leaf as usize];
        let bits = leaf.methods.bits();
        if bits >> method & 1 == 0 {
            return Err(leaf.methods);
        }
        let rank = (bits & ((1 << method) - 1)).count_ones();
        Ok(self.values[(leaf.values + rank) as usize])
    }

    pub fn bytes(&self) -> usize {
        self.nodes.len() * (size_of::<Node>() + 1)
            + self.text.len()
            + self.wilds.len() * size_of::<Wild>()
            + self.patterns.len() * size_of::<PatternEdge>()
            + self.pieces.len() * size_of::<Text>()
            + self.leaves.len() * size_of::<Leaf>()
            + self.values.len() * size_of::<u32>()
    }

    #[inline]
    fn text(&self, text: Text) -> &[u8] {
        &self.text[text.start as usize..text.start as usize + text.len as usize]
    }

    #[inline]
    fn child(&self, node: &Node, byte: u8) -> Option<u32> {
        let first = node.first_child as usize;
        let firsts = &self.firsts[first..first + node.children as usize];
        // Few children are the rule; many are left to the vector instructions.
        let index = match firsts.len() {
            0 => return None,
            1 => (firsts[0] == byte).then_some(0)?,
            2..=8 => firsts.iter().position(|&first| first == byte)?,
            _ => memchr::memchr(byte, firsts)?,
        };
        Some(node.first_child + index as u32)
    }

    /// Whether a pattern matches `path[at..end]`, a whole rest of a segment; pushes its parameters, also
    /// some of them when it does not.
    fn matches(
        &self,
        edge: &PatternEdge,
        path: &[u8],
        at: usize,
        end: usize,
        parameters: &mut Parameters,
    ) -> bool {
        let pieces = &self.pieces[edge.pieces as usize..(edge.pieces + edge.pieces_len) as usize];
        let Some((last, inner)) = pieces.split_last() else {
            return false;
        };
        let mut from = at;
        // Each earlier parameter takes as little as it can, at least one byte: if any division matches,
        // this one does, since it leaves the most to the rest.
        for piece in inner {
            if from + 1 > end {
                return false;
            }
            let Some(found) = memchr::memmem::find(&path[from + 1..end], self.text(*piece)) else {
                return false;
            };
            let stop = from + 1 + found;
            parameters.push(from, stop);
            from = stop + piece.len as usize;
        }
        let last = self.text(*last);
        if end - from <= last.len() || !path[from..end].ends_with(last) {
            return false;
        }
        parameters.push(from, end - last.len());
        true
    }
}

/// Where the segment that has a byte at `at` ends.
#[inline]
fn segment_end(path: &[u8], at: usize) -> usize {
    // Parameters are short: a plain loop beats the call of a vector search.
    path[at..].iter().position(|&byte| byte == b'/').map_or(path.len(), |len| at + len)
}
