//! From the text of a schema to keywords with resolved references.
//!
//! What it is for: to understand a schema completely or to refuse it: every keyword is known, well formed and in
//! a draft that has it; every reference leads to a place in the same text. All errors are reported at once, each
//! with its keyword and place. What it is not for: judging; [`super::program`] and [`super::exact`] do that.
//!
//! Who calls it: [`super::Program::compile`].

use hashbrown::{HashMap, HashSet};

use super::pattern::Pattern;
use super::uri;
use super::{Note, SchemaError};
use crate::json::{Decimal, JsonLimits, Kind, NodeId, Tree};

/// The index of a schema in [`Model::schemas`].
pub(super) type SchemaId = usize;

/// All schemas of a text.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) schemas: Vec<Keywords>,
    pub(super) patterns: Vec<Pattern>,
}

/// What one schema demands. Absent keywords demand nothing.
#[derive(Debug, Default)]
pub(super) struct Keywords {
    /// `false`, the schema that nothing meets.
    pub(super) never: bool,
    pub(super) types: Option<Types>,
    /// The values of `enum`, and the one of `const`.
    pub(super) one_of_values: Vec<(&'static str, Vec<Constant>)>,
    pub(super) multiple_of: Option<Decimal>,
    pub(super) minimum: Option<Decimal>,
    pub(super) maximum: Option<Decimal>,
    pub(super) exclusive_minimum: Option<Decimal>,
    pub(super) exclusive_maximum: Option<Decimal>,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    /// Index into [`Model::patterns`].
    pub(super) pattern: Option<usize>,
    /// `prefixItems`, or draft 7's `items` with an array.
    pub(super) prefix_items: Vec<SchemaId>,
    /// `items`, or draft 7's `additionalItems`: what is after the prefix.
    pub(super) items: Option<(&'static str, SchemaId)>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) unique_items: bool,
    pub(super) properties: Vec<(String, SchemaId)>,
    pub(super) pattern_properties: Vec<(usize, SchemaId)>,
    pub(super) additional_properties: Option<SchemaId>,
    pub(super) required: Vec<String>,
    pub(super) min_properties: Option<u64>,
    pub(super) max_properties: Option<u64>,
    pub(super) all_of: Vec<SchemaId>,
    pub(super) any_of: Vec<SchemaId>,
    pub(super) one_of: Vec<SchemaId>,
    pub(super) not: Option<SchemaId>,
    pub(super) reference: Option<SchemaId>,
}

/// A value of `enum` or `const`.
#[derive(Debug)]
pub(super) struct Constant {
    /// [`Tree::canonical`]: equal texts are equal values.
    pub(super) canonical: String,
    pub(super) value: ConstantValue,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum ConstantValue {
    Null,
    Bool(bool),
    Number(Decimal),
    String(String),
    Array,
    Object,
}

/// A set of kinds of values, finer than JSON Schema's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types(pub(super) u8);

impl Types {
    pub(super) const NULL: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const TRUE: u8 = 4;
    pub(super) const INTEGER: u8 = 8;
    /// A number that is not an integer.
    pub(super) const FRACTION: u8 = 16;
    pub(super) const STRING: u8 = 32;
    pub(super) const ARRAY: u8 = 64;
    pub(super) const OBJECT: u8 = 128;
    pub(super) const NUMBER: u8 = Types::INTEGER | Types::FRACTION;
    pub(super) const ALL: Types = Types(255);

    fn named(name: &str) -> Option<u8> {
        Some(match name {
            "null" => Types::NULL,
            "boolean" => Types::FALSE | Types::TRUE,
            "integer" => Types::INTEGER,
            "number" => Types::NUMBER,
            "string" => Types::STRING,
            "array" => Types::ARRAY,
            "object" => Types::OBJECT,
            _ => return None,
        })
    }
}

/// The drafts that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draft {
    /// <http://json-schema.org/draft-07/schema>
    Draft7,
    /// <https://json-schema.org/draft/2020-12/schema>, the default.
    Draft202012,
}

impl Draft {
    fn of_uri(uri: &str) -> Option<Draft> {
        let uri = uri.strip_suffix('#').unwrap_or(uri);
        match uri.strip_prefix("https://").or(uri.strip_prefix("http://"))? {
            "json-schema.org/draft-07/schema" => Some(Draft::Draft7),
            "json-schema.org/draft/2020-12/schema" => Some(Draft::Draft202012),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Draft::Draft7 => "draft 7",
            Draft::Draft202012 => "draft 2020-12",
        }
    }
}

/// Every keyword that is understood, for "did you mean".
const KEYWORDS: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$ref",
    "$schema",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "default",
    "definitions",
    "deprecated",
    "description",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "readOnly",
    "required",
    "title",
    "type",
    "uniqueItems",
    "writeOnly",
];

/// Keywords of the drafts that this version does not judge. Ignoring one would let through what it forbids.
const NOT_YET: &[&str] = &[
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveAnchor",
    "$recursiveRef",
    "$vocabulary",
    "contains",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Reads, checks and resolves the schema `text`.
pub(super) fn load(
    text: &str,
    default_draft: Draft,
    engines: &mut usize,
) -> Result<(Model, Vec<Note>), Vec<SchemaError>> {
    let limits =
        JsonLimits { bytes_max: SCHEMA_BYTES_MAX, depth_max: SCHEMA_DEPTH_MAX, ..JsonLimits::default() };
    let mut tree = Tree::new();
    if let Err(error) = tree.read(text.as_bytes(), &limits) {
        let (line, column) = crate::json::position(text, error.offset);
        let message = format!("the schema is not JSON: {}", error.message);
        let help = "a schema is one JSON text without comments, trailing commas or repeated names".to_owned();
        return Err(vec![SchemaError {
            offset: error.offset,
            line,
            column,
            keyword: String::new(),
            message,
            help,
        }]);
    }
    let mut loader = Loader {
        tree: &tree,
        draft: default_draft,
        resources: HashMap::new(),
        anchors: HashMap::new(),
        bases: HashMap::new(),
        ids: HashMap::new(),
        waiting: Vec::new(),
        schemas: Vec::new(),
        patterns: Vec::new(),
        pattern_texts: HashMap::new(),
        engines,
        errors: Vec::new(),
        notes: Vec::new(),
    };
    loader.load();
    let Loader { schemas, patterns, mut errors, mut notes, .. } = loader;
    if errors.is_empty() {
        notes.sort_by_key(|note| note.offset);
        return Ok((Model { schemas, patterns }, notes));
    }
    errors.sort_by_key(|error| error.offset);
    errors.dedup();
    Err(errors)
}

/// No schema of this world is longer.
const SCHEMA_BYTES_MAX: usize = 64 << 20;
const SCHEMA_DEPTH_MAX: u32 = 256;
/// Where a schema without `$id` lives; no real URI, so that no reference meets it by chance.
const NO_BASE: &str = "ringwall-schema:///";

struct Loader<'a> {
    tree: &'a Tree,
    draft: Draft,
    /// Documents within the text, by absolute URI.
    resources: HashMap<String, NodeId>,
    /// Plain-name fragments: (URI of the document, name).
    anchors: HashMap<(String, String), NodeId>,
    /// The base URI within each schema that has an `$id`.
    bases: HashMap<NodeId, String>,
    ids: HashMap<NodeId, SchemaId>,
    waiting: Vec<(NodeId, String, SchemaId)>,
    schemas: Vec<Keywords>,
    patterns: Vec<Pattern>,
    pattern_texts: HashMap<String, usize>,
    engines: &'a mut usize,
    errors: Vec<SchemaError>,
    notes: Vec<Note>,
}

impl Loader<'_> {
    fn load(&mut self) {
        let root = self.tree.root();
        if let Some(uri) = self.tree.member(root, "$schema") {
            match Draft::of_uri(self.tree.string(uri)) {
                Some(draft) => self.draft = draft,
                None => {
                    let found = self.tree.source(uri).to_owned();
                    let help = "http://json-schema.org/draft-07/schema# or https://json-schema.org/draft/2020-12/schema";
                    self.error(uri, "$schema", format!("{found} names no draft that is understood"), help);
                    return;
                }
            }
        }
        self.resources.insert(NO_BASE.to_owned(), root);
        self.collect(root, NO_BASE.to_owned());
        self.schema(root, NO_BASE);
        while let Some((node, base, id)) = self.waiting.pop() {
            self.schemas[id] = self.keywords(node, &base);
        }
        if self.errors.is_empty() {
            self.refuse_endless_references();
        }
    }

    /// Finds the `$id`s and anchors below `node`, at places where schemas stand.
    fn collect(&mut self, node: NodeId, base: String) {
        if self.tree.kind(node) != Kind::Object {
            return;
        }
        let base = self.enter(node, &base);
        if self.resources.get(&base).is_none() {
            self.resources.insert(base.clone(), node);
        }
        if let Some(id) = self.own_id(node) {
            self.bases.insert(node, base.clone());
            let (_, fragment) = uri::split_fragment(self.tree.string(id));
            if let Some(name) = fragment.filter(|name| !name.is_empty()) {
                self.anchors.insert((base.clone(), name.to_owned()), node);
            }
        }
        if let Some(anchor) = self.tree.member(node, "$anchor")
            && self.draft == Draft::Draft202012
        {
            let name = self.tree.string(anchor).to_owned();
            if self.anchors.insert((base.clone(), name.clone()), node).is_some() {
                self.error(
                    anchor,
                    "$anchor",
                    format!("the anchor \"{name}\" is given twice"),
                    "give each anchor its own name",
                );
            }
        }
        let tree = self.tree;
        for (name, value) in tree.members(node) {
            match tree.string(name) {
                "items" | "allOf" | "anyOf" | "oneOf" | "prefixItems" if tree.kind(value) == Kind::Array => {
                    tree.elements(value).for_each(|element| self.collect(element, base.clone()));
                }
                "items" | "additionalItems" | "additionalProperties" | "not" => {
                    self.collect(value, base.clone())
                }
                "properties" | "patternProperties" | "$defs" | "definitions" => {
                    tree.members(value).for_each(|(_, schema)| self.collect(schema, base.clone()));
                }
                _ => {}
            }
        }
    }

    /// The `$id` that counts: draft 7 ignores one beside `$ref`.
    fn own_id(&self, node: NodeId) -> Option<NodeId> {
        if self.draft == Draft::Draft7 && self.tree.member(node, "$ref").is_some() {
            return None;
        }
        self.tree.member(node, "$id").filter(|&id| self.tree.kind(id) == Kind::String)
    }

    /// The base URI within `node`, given the one around it.
    fn enter(&self, node: NodeId, base: &str) -> String {
        if self.tree.kind(node) != Kind::Object {
            return base.to_owned();
        }
        if let Some(known) = self.bases.get(&node) {
            return known.clone();
        }
        match self.own_id(node) {
            Some(id) => {
                let resolved = uri::resolve(base, self.tree.string(id));
                uri::split_fragment(&resolved).0.to_owned()
            }
            None => base.to_owned(),
        }
    }

    /// The schema at `node`, to be read later if it is new.
    fn schema(&mut self, node: NodeId, base: &str) -> SchemaId {
        if let Some(&id) = self.ids.get(&node) {
            return id;
        }
        let id = self.schemas.len();
        self.schemas.push(Keywords::default());
        self.ids.insert(node, id);
        let base = self.enter(node, base);
        self.waiting.push((node, base, id));
        id
    }

    fn keywords(&mut self, node: NodeId, base: &str) -> Keywords {
        let mut keywords = Keywords::default();
        match self.tree.kind(node) {
            Kind::Bool(true) => return keywords,
            Kind::Bool(false) => {
                keywords.never = true;
                return keywords;
            }
            Kind::Object => {}
            _ => {
                let found = found(self.tree, node);
                self.error(
                    node,
                    "",
                    format!("expected a schema, found {found}"),
                    "a schema is an object, true or false",
                );
                return keywords;
            }
        }
        let tree = self.tree;
        if self.draft == Draft::Draft7
            && let Some(reference) = tree.member(node, "$ref")
        {
            // Draft 7 core §8.3: all other properties in a "$ref" object MUST be ignored.
            keywords.reference = self.reference(reference, base);
            for (name, value) in tree.members(node) {
                match tree.string(name) {
                    "$ref" | "$comment" | "title" | "description" | "$schema" => {}
                    "definitions" | "$defs" => self.definitions(value, base),
                    keyword => {
                        let message = format!("draft 7 ignores \"{keyword}\" beside \"$ref\"");
                        self.note(name, keyword, message);
                    }
                }
            }
            return keywords;
        }
        for (name, value) in tree.members(node) {
            self.keyword(&mut keywords, node, name, value, base);
        }
        // Draft 7: `additionalItems` means something only beside an array of `items`.
        if self.draft == Draft::Draft7
            && let Some(value) = tree.member(node, "additionalItems")
            && tree.member(node, "items").is_some_and(|items| tree.kind(items) == Kind::Array)
        {
            keywords.items = Some(("additionalItems", self.schema(value, base)));
        }
        keywords
    }

    fn keyword(&mut self, keywords: &mut Keywords, schema: NodeId, name: NodeId, value: NodeId, base: &str) {
        let tree = self.tree;
        let modern = self.draft == Draft::Draft202012;
        match tree.string(name) {
            "type" => keywords.types = self.types(value),
            "enum" => {
                let values = self.array(value, "enum", false);
                if values.is_empty() {
                    self.note(name, "enum", "an empty enum admits nothing".to_owned());
                }
                let values = values.into_iter().map(|value| constant(tree, value)).collect();
                keywords.one_of_values.push(("enum", values));
            }
            "const" => keywords.one_of_values.push(("const", vec![constant(tree, value)])),
            "multipleOf" => {
                keywords.multiple_of = self.number(value, "multipleOf");
                if let Some(number) = &keywords.multiple_of {
                    if number.is_negative() || number.is_zero() {
                        self.error(value, "multipleOf", "must be above zero".to_owned(), "");
                    } else if number.is_multiple_of(number).is_none() {
                        self.error(value, "multipleOf", "has more than 37 digits".to_owned(), "");
                    }
                }
            }
            "minimum" => keywords.minimum = self.number(value, "minimum"),
            "maximum" => keywords.maximum = self.number(value, "maximum"),
            "exclusiveMinimum" => keywords.exclusive_minimum = self.number(value, "exclusiveMinimum"),
            "exclusiveMaximum" => keywords.exclusive_maximum = self.number(value, "exclusiveMaximum"),
            "minLength" => keywords.min_length = self.count(value, "minLength"),
            "maxLength" => keywords.max_length = self.count(value, "maxLength"),
            "minItems" => keywords.min_items = self.count(value, "minItems"),
            "maxItems" => keywords.max_items = self.count(value, "maxItems"),
            "minProperties" => keywords.min_properties = self.count(value, "minProperties"),
            "maxProperties" => keywords.max_properties = self.count(value, "maxProperties"),
            "uniqueItems" => match tree.kind(value) {
                Kind::Bool(unique) => keywords.unique_items = unique,
                _ => self.expected(value, "uniqueItems", "true or false"),
            },
            "pattern" => {
                if self.is_string(value, "pattern") {
                    keywords.pattern = self.pattern(value, "pattern");
                }
            }
            "prefixItems" if modern => {
                keywords.prefix_items = self.schemas_of(value, "prefixItems", base);
            }
            "items" if tree.kind(value) == Kind::Array && !modern => {
                let elements: Vec<_> = tree.elements(value).collect();
                keywords.prefix_items =
                    elements.into_iter().map(|element| self.schema(element, base)).collect();
            }
            "items" if tree.kind(value) == Kind::Array => {
                let message = "draft 2020-12 has no array of items".to_owned();
                self.error(value, "items", message, "write \"prefixItems\", or name draft 7 in \"$schema\"");
            }
            "items" => keywords.items = Some(("items", self.schema(value, base))),
            // Read after all others; here so that its schema is checked wherever it stands.
            "additionalItems" if !modern => {
                self.schema(value, base);
            }
            "properties" => {
                for (name, value) in self.members(value, "properties") {
                    let id = self.schema(value, base);
                    keywords.properties.push((tree.string(name).to_owned(), id));
                }
            }
            "patternProperties" => {
                for (name, value) in self.members(value, "patternProperties") {
                    let id = self.schema(value, base);
                    if let Some(pattern) = self.pattern(name, "patternProperties") {
                        keywords.pattern_properties.push((pattern, id));
                    }
                }
            }
            "additionalProperties" => keywords.additional_properties = Some(self.schema(value, base)),
            "required" => {
                let mut seen = HashSet::new();
                for element in self.array(value, "required", false) {
                    if !self.is_string(element, "required") {
                        continue;
                    }
                    if !seen.insert(tree.string(element)) {
                        let message = format!("{} is named twice", tree.source(element));
                        self.error(element, "required", message, "name each member once");
                    }
                    keywords.required.push(tree.string(element).to_owned());
                }
            }
            "allOf" => keywords.all_of = self.schemas_of(value, "allOf", base),
            "anyOf" => keywords.any_of = self.schemas_of(value, "anyOf", base),
            "oneOf" => keywords.one_of = self.schemas_of(value, "oneOf", base),
            "not" => keywords.not = Some(self.schema(value, base)),
            "$ref" => keywords.reference = self.reference(value, base),
            "$defs" | "definitions" => self.definitions(value, base),
            "$schema" => {
                if schema != tree.root() && Draft::of_uri(tree.string(value)) != Some(self.draft) {
                    let message =
                        format!("a schema within one of {} cannot be of another draft", self.draft.name());
                    self.error(
                        value,
                        "$schema",
                        message,
                        "put schemas of different drafts into different files",
                    );
                }
            }
            "$id" => {
                if self.is_string(value, "$id")
                    && modern
                    && uri::split_fragment(tree.string(value)).1.is_some_and(|fragment| !fragment.is_empty())
                {
                    let help = "write the name as \"$anchor\"";
                    self.error(value, "$id", "draft 2020-12 allows no fragment here".to_owned(), help);
                }
            }
            "$anchor" if modern => {
                let plain = |name: &str| {
                    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
                };
                if self.is_string(value, "$anchor") && !plain(tree.string(value)) {
                    self.expected(value, "$anchor", "a letter or _, then letters, digits, - _ .");
                }
            }
            "$comment" | "title" | "description" | "default" | "examples" | "deprecated" | "readOnly"
            | "writeOnly" => {}
            "format" => {
                if self.is_string(value, "format") {
                    let format = tree.string(value).to_owned();
                    self.note(name, "format", format!("\"{format}\" is a remark; it refuses nothing"));
                }
            }
            other => self.unknown(name, other),
        }
    }

    fn definitions(&mut self, value: NodeId, base: &str) {
        for (_, schema) in self.members(value, "$defs") {
            self.schema(schema, base);
        }
    }

    fn unknown(&mut self, name: NodeId, keyword: &str) {
        let draft = self.draft.name();
        if KEYWORDS.contains(&keyword) {
            let message = format!("\"{keyword}\" is not a keyword of {draft}");
            let help = match keyword {
                "additionalItems" => "write the schema of what follows \"prefixItems\" as \"items\"",
                "prefixItems" => "in draft 7, \"items\" with an array means this",
                "$anchor" => "in draft 7, an \"$id\" that begins with # means this",
                _ => "",
            };
            return self.error(name, keyword, message, help);
        }
        if NOT_YET.contains(&keyword) {
            let message = format!("\"{keyword}\" is not in this version");
            return self.error(name, keyword, message, "ignoring it would let through what it forbids");
        }
        let nearest = KEYWORDS.iter().map(|known| (distance(known, keyword), known)).min();
        let help = match nearest {
            Some((distance, known)) if distance <= 2 && distance < known.len() => {
                format!("did you mean \"{known}\"?")
            }
            _ => "remarks belong in \"$comment\"".to_owned(),
        };
        self.error(name, keyword, format!("there is no keyword \"{keyword}\""), &help);
    }

    fn reference(&mut self, value: NodeId, base: &str) -> Option<SchemaId> {
        if !self.is_string(value, "$ref") {
            return None;
        }
        let reference = self.tree.string(value);
        let target = uri::resolve(base, reference);
        let (document, fragment) = uri::split_fragment(&target);
        let Some(&resource) = self.resources.get(document) else {
            let message = format!("\"{reference}\" leads out of this schema");
            self.error(value, "$ref", message, "references are never fetched: put the schema into \"$defs\"");
            return None;
        };
        let Some(fragment) = uri::percent_decode(fragment.unwrap_or("")) else {
            self.error(value, "$ref", format!("\"{reference}\" is not well escaped"), "");
            return None;
        };
        let found = if fragment.is_empty() {
            Some((resource, document.to_owned()))
        } else if fragment.starts_with('/') {
            self.follow(resource, document, &fragment)
        } else {
            self.anchors.get(&(document.to_owned(), fragment)).map(|&node| (node, document.to_owned()))
        };
        match found {
            Some((node, base)) => Some(self.schema(node, &base)),
            None => {
                self.error(value, "$ref", format!("\"{reference}\" leads nowhere"), "");
                None
            }
        }
    }

    /// Follows a JSON Pointer; also gives the base URI around the place it leads to.
    fn follow(&self, from: NodeId, base: &str, pointer: &str) -> Option<(NodeId, String)> {
        let mut node = from;
        let mut base = base.to_owned();
        for token in pointer.split('/').skip(1) {
            if node != from {
                base = self.enter(node, &base);
            }
            let token = token.replace("~1", "/").replace("~0", "~");
            node = match self.tree.kind(node) {
                Kind::Object => self.tree.member(node, &token)?,
                Kind::Array => self.tree.elements(node).nth(token.parse().ok()?)?,
                _ => return None,
            };
        }
        Some((node, base))
    }

    /// A schema that leads to itself without a step into the value has no meaning (core §9.4.1).
    fn refuse_endless_references(&mut self) {
        const NEW: u8 = 0;
        const OPEN: u8 = 1;
        const DONE: u8 = 2;
        let mut state = vec![NEW; self.schemas.len()];
        for start in 0..self.schemas.len() {
            let mut stack = vec![(start, 0)];
            while let Some((id, next)) = stack.pop() {
                if next == 0 {
                    if state[id] == DONE {
                        continue;
                    }
                    state[id] = OPEN;
                }
                let inner = self.schemas[id].in_place().nth(next);
                match inner {
                    None => state[id] = DONE,
                    Some(inner) => {
                        stack.push((id, next + 1));
                        if state[inner] == OPEN {
                            let node = self
                                .ids
                                .iter()
                                .find(|&(_, &known)| known == inner)
                                .map_or(0, |(&node, _)| node);
                            let message =
                                "the schema leads back to itself without a step into the value".to_owned();
                            self.error(node, "$ref", message, "refer to it from \"properties\" or \"items\"");
                            return;
                        }
                        if state[inner] == NEW {
                            stack.push((inner, 0));
                        }
                    }
                }
            }
        }
    }

    fn types(&mut self, value: NodeId) -> Option<Types> {
        const EXPECTED: &str = "null, boolean, integer, number, string, array or object";
        let tree = self.tree;
        let mut types = 0;
        match tree.kind(value) {
            Kind::String => match Types::named(tree.string(value)) {
                Some(named) => types = named,
                None => self.expected(value, "type", EXPECTED),
            },
            Kind::Array if tree.len(value) > 0 => {
                for element in tree.elements(value) {
                    match Types::named(tree.string(element)) {
                        Some(named) => types |= named,
                        None => self.expected(element, "type", EXPECTED),
                    }
                }
            }
            _ => self.expected(value, "type", "the name of a type, or an array of names"),
        }
        Some(Types(types))
    }

    fn pattern(&mut self, value: NodeId, keyword: &str) -> Option<usize> {
        let text = self.tree.string(value);
        if let Some(&known) = self.pattern_texts.get(text) {
            return Some(known);
        }
        match Pattern::compile(text, self.engines) {
            Ok(pattern) => {
                self.patterns.push(pattern);
                self.pattern_texts.insert(text.to_owned(), self.patterns.len() - 1);
                Some(self.patterns.len() - 1)
            }
            Err(message) => {
                self.error(
                    value,
                    keyword,
                    message,
                    "patterns are ECMA-262, without lookaround and backreferences",
                );
                None
            }
        }
    }

    fn schemas_of(&mut self, value: NodeId, keyword: &str, base: &str) -> Vec<SchemaId> {
        let elements = self.array(value, keyword, true);
        elements.into_iter().map(|element| self.schema(element, base)).collect()
    }

    fn array(&mut self, value: NodeId, keyword: &str, filled: bool) -> Vec<NodeId> {
        if self.tree.kind(value) != Kind::Array || filled && self.tree.len(value) == 0 {
            self.expected(value, keyword, if filled { "an array of at least one" } else { "an array" });
            return Vec::new();
        }
        self.tree.elements(value).collect()
    }

    fn members(&mut self, value: NodeId, keyword: &str) -> Vec<(NodeId, NodeId)> {
        if self.tree.kind(value) != Kind::Object {
            self.expected(value, keyword, "an object");
        }
        self.tree.members(value).collect()
    }

    fn is_string(&mut self, value: NodeId, keyword: &str) -> bool {
        let string = self.tree.kind(value) == Kind::String;
        if !string {
            self.expected(value, keyword, "a string");
        }
        string
    }

    fn number(&mut self, value: NodeId, keyword: &str) -> Option<Decimal> {
        if self.tree.kind(value) == Kind::Number {
            return Some(Decimal::of_text(self.tree.source(value)));
        }
        self.expected(value, keyword, "a number");
        None
    }

    /// A whole number from zero; `2.0` is one.
    fn count(&mut self, value: NodeId, keyword: &str) -> Option<u64> {
        if self.tree.kind(value) == Kind::Number {
            let number = Decimal::of_text(self.tree.source(value));
            if number.is_integer() && !number.is_negative() {
                return Some(
                    number.to_integer().and_then(|count| u64::try_from(count).ok()).unwrap_or(u64::MAX),
                );
            }
        }
        self.expected(value, keyword, "a whole number from 0");
        None
    }

    fn expected(&mut self, value: NodeId, keyword: &str, expected: &str) {
        let found = found(self.tree, value);
        self.error(value, keyword, format!("expected {expected}, found {found}"), "");
    }

    fn error(&mut self, node: NodeId, keyword: &str, message: String, help: &str) {
        const ERRORS_MAX: usize = 1000;
        if self.errors.len() >= ERRORS_MAX {
            return;
        }
        let offset = self.tree.offset(node);
        let (line, column) = self.tree.position(offset);
        let (keyword, help) = (keyword.to_owned(), help.to_owned());
        self.errors.push(SchemaError { offset, line, column, keyword, message, help });
    }

    fn note(&mut self, node: NodeId, keyword: &str, message: String) {
        let offset = self.tree.offset(node);
        let (line, column) = self.tree.position(offset);
        self.notes.push(Note { offset, line, column, keyword: keyword.to_owned(), message });
    }
}

impl Keywords {
    /// The schemas that judge the same value.
    pub(super) fn in_place(&self) -> impl Iterator<Item = SchemaId> + '_ {
        let lists = [&self.all_of, &self.any_of, &self.one_of];
        lists.into_iter().flatten().copied().chain(self.not).chain(self.reference)
    }
}

fn constant(tree: &Tree, node: NodeId) -> Constant {
    let value = match tree.kind(node) {
        Kind::Null => ConstantValue::Null,
        Kind::Bool(value) => ConstantValue::Bool(value),
        Kind::Number => ConstantValue::Number(Decimal::of_text(tree.source(node))),
        Kind::String => ConstantValue::String(tree.string(node).to_owned()),
        Kind::Array => ConstantValue::Array,
        Kind::Object => ConstantValue::Object,
    };
    Constant { canonical: tree.canonical(node), value }
}

/// The start of what was written, for an error.
fn found(tree: &Tree, node: NodeId) -> String {
    const SHOWN: usize = 40;
    let source = tree.source(node);
    match source.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &source[..end]),
        None => source.to_owned(),
    }
}

/// Levenshtein's distance, for words of a few letters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let cost = diagonal + usize::from(!from.eq_ignore_ascii_case(to));
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
