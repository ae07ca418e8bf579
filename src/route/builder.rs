//! From templates to trees: ties found, choices counted, everything laid out flat.

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use super::{
    Base, MethodSet, Router, VISITS_MAX,
    methods::index_of,
    template::{Pattern, Template, TemplateError, Token, parse_base},
    tree::{Leaf, NONE, Node, PatternEdge, Text, Trees, Wild},
};
use crate::http::Method;

/// The most choices between a tree's root and a leaf: how deep a lookup may recurse.
const CHOICES_MAX: u32 = 64;

/// Collects routes; [`RouterBuilder::build`] makes the [`Router`].
#[derive(Default)]
pub struct RouterBuilder {
    /// Per host (`None`: any) the bases by their path.
    hosts: BTreeMap<Option<Box<str>>, BTreeMap<Box<str>, BaseId>>,
    bases: Vec<BaseDraft>,
}

/// A base on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseId(u32);

/// Why a route cannot be added, or the routes not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// The template or the base cannot be used.
    Template(TemplateError),
    /// Same host, shape and method as another route.
    Tie {
        /// The value of the route that was to be added.
        value: u32,
        /// The value of the route that is there.
        other: u32,
    },
    /// A base has two subtree values, or a subtree value beside routes.
    SubtreeTie {
        /// The value that was to be added.
        value: u32,
        /// The subtree's value, or that of one of the base's routes.
        other: u32,
    },
    /// [`Method::Other`] has no routes.
    Method,
    /// The host is empty, or not in lower case.
    Host,
    /// So many templates overlap that a path exists which would visit more than [`VISITS_MAX`] nodes; the
    /// value is one of the routes of that base.
    Ambiguous {
        /// A route of the base.
        value: u32,
        /// How many nodes would be visited, at most.
        visits: u64,
    },
    /// A path exists on which one choice follows another more than 64 times; the value is one of the routes
    /// of that base.
    TooDeep {
        /// A route of the base.
        value: u32,
        /// How many choices, at most.
        choices: u32,
    },
    /// More nodes than 32 bits count.
    TooMany,
}

#[derive(Default)]
struct BaseDraft {
    nodes: Vec<NodeDraft>,
    subtree: Option<u32>,
    /// The first route's value.
    value: Option<u32>,
}

#[derive(Default)]
struct NodeDraft {
    text: Vec<u8>,
    children: Vec<usize>,
    patterns: Vec<(Pattern, usize)>,
    parameter: Option<usize>,
    tail: Vec<(Method, u32)>,
    leaf: Vec<(Method, u32)>,
}

impl RouterBuilder {
    /// No routes.
    pub fn new() -> RouterBuilder {
        RouterBuilder::default()
    }

    /// The base at path `base` (`/v1`; empty or `/` for all paths) of `host` (lower case, without port; `None`:
    /// any host). The same host and path name the same base.
    ///
    /// # Errors
    /// [`RouteError::Template`] if it is not a literal path, [`RouteError::Host`].
    pub fn base(&mut self, host: Option<&str>, base: &str) -> Result<BaseId, RouteError> {
        if host.is_some_and(|host| host.is_empty() || host.bytes().any(|byte| byte.is_ascii_uppercase())) {
            return Err(RouteError::Host);
        }
        let path = parse_base(base).map_err(RouteError::Template)?;
        let next = BaseId(index32(self.bases.len())?);
        let id = *self.hosts.entry(host.map(Box::from)).or_default().entry(path.into()).or_insert(next);
        if id == next {
            self.bases.push(BaseDraft { nodes: vec![NodeDraft::default()], subtree: None, value: None });
        }
        Ok(id)
    }

    /// Adds a route: `template` is what follows the base, beginning with a slash.
    ///
    /// # Errors
    /// [`RouteError`]: a template that cannot be used, a tie.
    pub fn add(
        &mut self,
        base: BaseId,
        template: &str,
        method: Method,
        value: u32,
    ) -> Result<(), RouteError> {
        let template = Template::parse(template).map_err(RouteError::Template)?;
        if method == Method::Other {
            return Err(RouteError::Method);
        }
        let base = &mut self.bases[base.0 as usize];
        if let Some(other) = base.subtree {
            return Err(RouteError::SubtreeTie { value, other });
        }
        let (node, tail) = base.place(&template);
        let node = &mut base.nodes[node];
        let methods = if tail { &mut node.tail } else { &mut node.leaf };
        if let Some(&(_, other)) = methods.iter().find(|(of, _)| *of == method) {
            return Err(RouteError::Tie { value, other });
        }
        methods.push((method, value));
        base.value.get_or_insert(value);
        Ok(())
    }

    /// Lets the base stand for `value`, whatever follows it and whatever the method.
    ///
    /// # Errors
    /// [`RouteError::SubtreeTie`] if the base has a value or routes already.
    pub fn subtree(&mut self, base: BaseId, value: u32) -> Result<(), RouteError> {
        let base = &mut self.bases[base.0 as usize];
        if let Some(other) = base.subtree.or(base.value) {
            return Err(RouteError::SubtreeTie { value, other });
        }
        base.subtree = Some(value);
        Ok(())
    }

    /// Makes the router.
    ///
    /// # Errors
    /// [`RouteError::Ambiguous`] if lookups could become slow, [`RouteError::TooMany`].
    pub fn build(self) -> Result<Router, RouteError> {
        let mut router = Router::default();
        for draft in &self.bases {
            let routes = match draft.value {
                None => NONE,
                Some(value) => {
                    let first = router.trees.nodes.len();
                    let root = lay_out(&mut router.trees, &draft.nodes)?;
                    let visits = check_choices(&router.trees, first, value)?;
                    router.visits_max = router.visits_max.max(visits);
                    root
                }
            };
            router.bases.push(Base { routes, subtree: draft.subtree });
        }
        let no_bases = BTreeMap::new();
        let any = self.hosts.get(&None).unwrap_or(&no_bases);
        for (host, own) in &self.hosts {
            let mut nodes = vec![NodeDraft::default()];
            // A host's own base hides the one of any host with the same path.
            for (path, id) in any.iter().filter(|(path, _)| !own.contains_key(*path)).chain(own) {
                let node = literal(&mut nodes, 0, path.as_bytes());
                nodes[node].leaf.push((Method::Get, id.0));
            }
            let (first_leaf, first_value) = (router.trees.leaves.len(), router.trees.values.len());
            let root = lay_out(&mut router.trees, &nodes)?;
            // In these trees a node's leaf is the base itself.
            for node in &mut router.trees.nodes[root as usize..] {
                if node.leaf != NONE {
                    node.leaf = router.trees.values[router.trees.leaves[node.leaf as usize].values as usize];
                }
            }
            router.trees.leaves.truncate(first_leaf);
            router.trees.values.truncate(first_value);
            match host {
                None => router.any_host = Some(root),
                Some(host) => _ = router.hosts.insert(host.as_bytes().into(), root),
            }
        }
        Ok(router)
    }
}

impl BaseDraft {
    /// The node where the template ends, made if need be; and whether it ends in its tail.
    fn place(&mut self, template: &Template) -> (usize, bool) {
        let nodes = &mut self.nodes;
        let mut node = 0;
        for token in &template.tokens {
            node = match token {
                Token::Literal(text) => literal(nodes, node, text),
                Token::Parameter => match nodes[node].parameter {
                    Some(next) => next,
                    None => {
                        let next = new_node(nodes, &[]);
                        nodes[node].parameter = Some(next);
                        next
                    }
                },
                Token::Pattern(pattern) => match nodes[node].patterns.iter().find(|(of, _)| of == pattern) {
                    Some((_, next)) => *next,
                    None => {
                        let next = new_node(nodes, &[]);
                        nodes[node].patterns.push((pattern.clone(), next));
                        next
                    }
                },
                Token::Tail => return (node, true),
            };
        }
        (node, false)
    }
}

/// The node reached from `from` by these bytes, made if need be.
fn literal(nodes: &mut Vec<NodeDraft>, from: usize, text: &[u8]) -> usize {
    let mut node = from;
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let Some(child) = nodes[node].children.iter().copied().find(|&child| nodes[child].text[0] == first)
        else {
            let child = new_node(nodes, rest);
            nodes[node].children.push(child);
            return child;
        };
        let shared = rest.iter().zip(&nodes[child].text).take_while(|(a, b)| a == b).count();
        if shared < nodes[child].text.len() {
            // The child's later part becomes a child of its own.
            let lower_text = nodes[child].text.split_off(shared);
            let upper = NodeDraft { text: std::mem::take(&mut nodes[child].text), ..NodeDraft::default() };
            let lower = std::mem::replace(&mut nodes[child], upper);
            nodes.push(NodeDraft { text: lower_text, ..lower });
            let lower = nodes.len() - 1;
            nodes[child].children.push(lower);
        }
        node = child;
        rest = &rest[shared..];
    }
    node
}

fn new_node(nodes: &mut Vec<NodeDraft>, text: &[u8]) -> usize {
    nodes.push(NodeDraft { text: text.to_vec(), ..NodeDraft::default() });
    nodes.len() - 1
}

impl NodeDraft {
    /// The only child of a node that says nothing itself.
    fn sole_child(&self) -> Option<usize> {
        let is_empty = self.text.is_empty()
            && self.leaf.is_empty()
            && self.tail.is_empty()
            && self.patterns.is_empty()
            && self.parameter.is_none();
        match self.children.as_slice() {
            [child] if is_empty => Some(*child),
            _ => None,
        }
    }
}

/// Appends a draft to the arena, breadth first, so that children are neighbours and come after their
/// parents; its root.
fn lay_out(trees: &mut Trees, drafts: &[NodeDraft]) -> Result<u32, RouteError> {
    let root = index32(trees.nodes.len())?;
    // The drafts in the order of their nodes; a node that says nothing gives way to its only child.
    let resolve = |draft: usize| drafts[draft].sole_child().unwrap_or(draft);
    let mut order = vec![resolve(0)];
    let mut next = 0;
    while let Some(&draft) = order.get(next) {
        next += 1;
        let draft = &drafts[draft];
        let mut children = draft.children.clone();
        children.sort_by_key(|&child| drafts[child].text[0]);
        let first_child = root + index32(order.len())?;
        order.extend(&children);
        let mut wild = NONE;
        if draft.parameter.is_some() || !draft.patterns.is_empty() || !draft.tail.is_empty() {
            let mut patterns: Vec<_> = draft.patterns.iter().collect();
            // More literal bytes first; then any order that does not depend on the order of the routes.
            patterns.sort_by_key(|(Pattern(pieces), _)| {
                (Reverse(pieces.iter().map(|piece| piece.len()).sum::<usize>()), pieces)
            });
            let first_pattern = index32(trees.patterns.len())?;
            for (Pattern(pieces), node) in &patterns {
                let first_piece = index32(trees.pieces.len())?;
                for piece in pieces {
                    let text = append_text(trees, piece)?;
                    trees.pieces.push(text);
                }
                let node_index = root + index32(order.len())?;
                order.push(resolve(*node));
                let pieces_len = index32(pieces.len())?;
                trees.patterns.push(PatternEdge { pieces: first_piece, pieces_len, node: node_index });
            }
            let parameter = match draft.parameter {
                None => NONE,
                Some(node) => {
                    order.push(resolve(node));
                    root + index32(order.len() - 1)?
                }
            };
            let tail = append_leaf(trees, &draft.tail)?;
            wild = index32(trees.wilds.len())?;
            let patterns_len = index32(patterns.len())?;
            trees.wilds.push(Wild { patterns: first_pattern, patterns_len, parameter, tail });
        }
        let text = append_text(trees, &draft.text)?;
        let leaf = append_leaf(trees, &draft.leaf)?;
        trees.firsts.push(draft.text.first().copied().unwrap_or(0));
        trees.nodes.push(Node { text, children: children.len() as u16, first_child, leaf, wild });
    }
    index32(trees.nodes.len())?;
    Ok(root)
}

fn append_text(trees: &mut Trees, bytes: &[u8]) -> Result<Text, RouteError> {
    let text = Text { start: index32(trees.text.len())?, len: bytes.len() as u16 };
    trees.text.extend_from_slice(bytes);
    Ok(text)
}

fn append_leaf(trees: &mut Trees, routes: &[(Method, u32)]) -> Result<u32, RouteError> {
    if routes.is_empty() {
        return Ok(NONE);
    }
    let mut routes = routes.to_vec();
    let value_of = |routes: &[(Method, u32)], method| {
        routes.iter().find(|(of, _)| *of == method).map(|&(_, value)| value)
    };
    // GET implies HEAD (RFC 9110 §9.3.2: the same answer without its content).
    if let (Some(value), None) = (value_of(&routes, Method::Get), value_of(&routes, Method::Head)) {
        routes.push((Method::Head, value));
    }
    routes.sort_by_key(|&(method, _)| index_of(method));
    let methods = routes.iter().fold(MethodSet::default(), |set, &(method, _)| set.with(method));
    let values = index32(trees.values.len())?;
    trees.values.extend(routes.iter().map(|&(_, value)| value));
    trees.leaves.push(Leaf { methods, values });
    index32(trees.leaves.len() - 1)
}

/// The most nodes that a lookup in the tree from node `first` on can visit.
///
/// A path enters at most one literal child of a node, but all of its parameters; so the sum over these is an
/// upper bound (a path that really enters all may not exist).
fn check_choices(trees: &Trees, first: usize, value: u32) -> Result<u64, RouteError> {
    let nodes = &trees.nodes[first..];
    let mut visits = vec![0u64; nodes.len()];
    let mut choices = vec![0u32; nodes.len()];
    // Children come after their parents.
    for (index, node) in nodes.iter().enumerate().rev() {
        let at = |node: u32| node as usize - first;
        let children = node.first_child as usize..node.first_child as usize + node.children as usize;
        let (mut most, mut deepest) = (0, 0);
        for child in children {
            most = most.max(visits[child - first]);
            deepest = deepest.max(choices[child - first]);
        }
        if node.wild != NONE {
            deepest += 1;
            let wild = &trees.wilds[node.wild as usize];
            let patterns = wild.patterns as usize..(wild.patterns + wild.patterns_len) as usize;
            for edge in &trees.patterns[patterns] {
                most = most.saturating_add(1).saturating_add(visits[at(edge.node)]);
                deepest = deepest.max(choices[at(edge.node)] + 1);
            }
            if wild.parameter != NONE {
                most = most.saturating_add(visits[at(wild.parameter)]);
                deepest = deepest.max(choices[at(wild.parameter)] + (wild.tail != NONE) as u32);
            }
        }
        visits[index] = most.saturating_add(1);
        choices[index] = deepest;
    }
    if visits[0] > VISITS_MAX {
        return Err(RouteError::Ambiguous { value, visits: visits[0] });
    }
    if choices[0] > CHOICES_MAX {
        return Err(RouteError::TooDeep { value, choices: choices[0] });
    }
    Ok(visits[0])
}

fn index32(index: usize) -> Result<u32, RouteError> {
    u32::try_from(index).ok().filter(|&index| index != NONE).ok_or(RouteError::TooMany)
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteError::Template(error) => error.fmt(f),
            RouteError::Tie { .. } => write!(f, "another operation has the same host, path shape and method"),
            RouteError::SubtreeTie { .. } => {
                write!(
                    f,
                    "another API has the same host and base; beside a raw or closed one there can be no other"
                )
            }
            RouteError::Method => write!(f, "no route can be given for this method"),
            RouteError::Host => write!(f, "a host is written in lower case and is not empty"),
            RouteError::Ambiguous { visits, .. } => write!(
                f,
                "the templates of this base overlap so much that one lookup could take {visits} steps (at most {VISITS_MAX})"
            ),
            RouteError::TooDeep { choices, .. } => write!(
                f,
                "the templates of this base have {choices} choices one after another (at most {CHOICES_MAX})"
            ),
            RouteError::TooMany => write!(f, "too many routes"),
        }
    }
}

impl std::error::Error for RouteError {}
