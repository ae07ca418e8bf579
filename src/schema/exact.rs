//! The exhaustive run: exact, with places, after the fast one has refused a body or could not decide.
//!
//! What it is for: the text of a refusal (which keyword, where), verdicts on numbers that a tape cannot hold, and
//! to be the plain version that tests hold [`super::program`] against. What it is not for: the hot path.
//!
//! Who calls it: [`super::Program::check`].

use hashbrown::HashSet;

use super::model::{Keywords, Model, SchemaId, Types};
use super::pattern::Caches;
use crate::json::{Decimal, Finding, Kind, NodeId, Tree, Violation, push_token};

/// What the run found.
pub(super) enum Exact {
    /// The body meets the schema.
    Valid,
    /// It does not; the first findings in the order of the schema's keywords.
    Invalid(Vec<Finding>),
    /// The bound on steps was reached first.
    TooCostly,
}

/// Judges a body that was read exactly.
pub(super) fn judge(model: &Model, tree: &Tree, caches: &mut Caches, steps_max: u64) -> Exact {
    let mut run = Run { model, tree, caches, steps: steps_max, nest: 0, findings: Vec::new() };
    let valid = run.judge(0, tree.root(), true);
    if run.steps == 0 {
        return Exact::TooCostly;
    }
    if valid { Exact::Valid } else { Exact::Invalid(run.findings) }
}

struct Run<'a> {
    model: &'a Model,
    tree: &'a Tree,
    caches: &'a mut Caches,
    /// What is left; at zero everything is refused and the result does not count.
    steps: u64,
    nest: u32,
    findings: Vec<Finding>,
}

impl Run<'_> {
    fn judge(&mut self, schema: SchemaId, node: NodeId, report: bool) -> bool {
        self.charge(1);
        if self.nest >= super::NEST_MAX {
            self.steps = 0;
        }
        if self.steps == 0 {
            return false;
        }
        self.nest += 1;
        let valid = self.keywords(schema, node, report);
        self.nest -= 1;
        valid
    }

    fn keywords(&mut self, schema: SchemaId, node: NodeId, report: bool) -> bool {
        let model = self.model;
        let keywords = &model.schemas[schema];
        if keywords.never {
            return self.refuse(node, "false", report);
        }
        let mut valid = true;
        if let Some(Types(types)) = keywords.types
            && self.types(node) & types == 0
        {
            valid &= self.refuse(node, "type", report);
        }
        if !keywords.one_of_values.is_empty() {
            self.charge(self.tree.source(node).len() as u64 / 16);
            let canonical = self.tree.canonical(node);
            for (keyword, values) in &keywords.one_of_values {
                self.charge(values.len() as u64);
                if !values.iter().any(|value| value.canonical == canonical) {
                    valid &= self.refuse(node, keyword, report);
                }
            }
        }
        valid &= match self.tree.kind(node) {
            Kind::Number => self.number(keywords, node, report),
            Kind::String => self.string(keywords, node, report),
            Kind::Array => self.array(keywords, node, report),
            Kind::Object => self.object(keywords, node, report),
            Kind::Null | Kind::Bool(_) => true,
        };
        if let Some(reference) = keywords.reference {
            valid &= self.judge(reference, node, report);
        }
        for &inner in &keywords.all_of {
            valid &= self.judge(inner, node, report);
        }
        if !keywords.any_of.is_empty() && !keywords.any_of.iter().any(|&inner| self.judge(inner, node, false))
        {
            valid &= self.refuse(node, "anyOf", report);
        }
        if !keywords.one_of.is_empty() {
            let mut met = 0;
            for &inner in &keywords.one_of {
                met += u32::from(self.judge(inner, node, false));
                if met > 1 {
                    break;
                }
            }
            if met != 1 {
                valid &= self.refuse(node, "oneOf", report);
            }
        }
        if let Some(inner) = keywords.not
            && self.judge(inner, node, false)
        {
            valid &= self.refuse(node, "not", report);
        }
        valid
    }

    fn types(&self, node: NodeId) -> u8 {
        match self.tree.kind(node) {
            Kind::Null => Types::NULL,
            Kind::Bool(false) => Types::FALSE,
            Kind::Bool(true) => Types::TRUE,
            Kind::Number if Decimal::of_text(self.tree.source(node)).is_integer() => Types::INTEGER,
            Kind::Number => Types::FRACTION,
            Kind::String => Types::STRING,
            Kind::Array => Types::ARRAY,
            Kind::Object => Types::OBJECT,
        }
    }

    fn number(&mut self, keywords: &Keywords, node: NodeId, report: bool) -> bool {
        let source = self.tree.source(node);
        self.charge(source.len() as u64 / 16);
        let value = Decimal::of_text(source);
        let mut valid = true;
        if keywords.minimum.as_ref().is_some_and(|bound| value < *bound) {
            valid &= self.refuse(node, "minimum", report);
        }
        if keywords.maximum.as_ref().is_some_and(|bound| value > *bound) {
            valid &= self.refuse(node, "maximum", report);
        }
        if keywords.exclusive_minimum.as_ref().is_some_and(|bound| value <= *bound) {
            valid &= self.refuse(node, "exclusiveMinimum", report);
        }
        if keywords.exclusive_maximum.as_ref().is_some_and(|bound| value >= *bound) {
            valid &= self.refuse(node, "exclusiveMaximum", report);
        }
        if let Some(divisor) = &keywords.multiple_of
            && value.is_multiple_of(divisor) != Some(true)
        {
            valid &= self.refuse(node, "multipleOf", report);
        }
        valid
    }

    fn string(&mut self, keywords: &Keywords, node: NodeId, report: bool) -> bool {
        let model = self.model;
        let tree = self.tree;
        let value = tree.string(node);
        let mut valid = true;
        if keywords.min_length.is_some() || keywords.max_length.is_some() {
            self.charge(value.len() as u64 / 64);
            let length = value.chars().count() as u64;
            if keywords.min_length.is_some_and(|min| length < min) {
                valid &= self.refuse(node, "minLength", report);
            }
            if keywords.max_length.is_some_and(|max| length > max) {
                valid &= self.refuse(node, "maxLength", report);
            }
        }
        if let Some(pattern) = keywords.pattern {
            self.charge(value.len() as u64 / 16);
            if !model.patterns[pattern].is_match(value.as_bytes(), self.caches) {
                valid &= self.refuse(node, "pattern", report);
            }
        }
        valid
    }

    fn array(&mut self, keywords: &Keywords, node: NodeId, report: bool) -> bool {
        let tree = self.tree;
        let length = tree.len(node) as u64;
        let mut valid = true;
        if keywords.min_items.is_some_and(|min| length < min) {
            valid &= self.refuse(node, "minItems", report);
        }
        if keywords.max_items.is_some_and(|max| length > max) {
            valid &= self.refuse(node, "maxItems", report);
        }
        if keywords.unique_items && length > 1 {
            self.charge(tree.source(node).len() as u64 / 16);
            let mut seen = HashSet::new();
            if let Some(twice) = tree.elements(node).find(|&element| !seen.insert(tree.canonical(element))) {
                valid &= self.refuse(twice, "uniqueItems", report);
            }
        }
        if keywords.prefix_items.is_empty() && keywords.items.is_none() {
            return valid;
        }
        for (index, element) in tree.elements(node).enumerate() {
            let schema = match (keywords.prefix_items.get(index), keywords.items) {
                (Some(&schema), _) => schema,
                (None, Some((keyword, schema))) => {
                    // `items: false` says that nothing may follow: a clearer keyword than `false`.
                    if self.model.schemas[schema].never {
                        valid &= self.refuse(element, keyword, report);
                        continue;
                    }
                    schema
                }
                (None, None) => break,
            };
            valid &= self.judge(schema, element, report);
            if self.steps == 0 {
                return false;
            }
        }
        valid
    }

    fn object(&mut self, keywords: &Keywords, node: NodeId, report: bool) -> bool {
        let model = self.model;
        let tree = self.tree;
        let length = tree.len(node) as u64;
        let mut valid = true;
        if keywords.min_properties.is_some_and(|min| length < min) {
            valid &= self.refuse(node, "minProperties", report);
        }
        if keywords.max_properties.is_some_and(|max| length > max) {
            valid &= self.refuse(node, "maxProperties", report);
        }
        self.charge(length * keywords.required.len() as u64 / 16);
        for name in &keywords.required {
            if tree.member(node, name).is_none() {
                valid &= self.refuse_member(node, name, "required", report);
            }
        }
        let closed = keywords.additional_properties;
        if keywords.properties.is_empty() && keywords.pattern_properties.is_empty() && closed.is_none() {
            return valid;
        }
        for (key, value) in tree.members(node) {
            self.charge(1 + keywords.properties.len() as u64 / 16);
            let name = tree.string(key);
            let mut known = false;
            for (property, schema) in &keywords.properties {
                if property == name {
                    known = true;
                    valid &= self.judge(*schema, value, report);
                }
            }
            for &(pattern, schema) in &keywords.pattern_properties {
                self.charge(name.len() as u64 / 16);
                if model.patterns[pattern].is_match(name.as_bytes(), self.caches) {
                    known = true;
                    valid &= self.judge(schema, value, report);
                }
            }
            if let Some(schema) = closed.filter(|_| !known) {
                if model.schemas[schema].never {
                    valid &= self.refuse(value, "additionalProperties", report);
                } else {
                    valid &= self.judge(schema, value, report);
                }
            }
            if self.steps == 0 {
                return false;
            }
        }
        valid
    }

    fn charge(&mut self, steps: u64) {
        self.steps = self.steps.saturating_sub(steps);
    }

    fn refuse(&mut self, node: NodeId, keyword: &'static str, report: bool) -> bool {
        if report && self.findings.len() < Violation::FINDINGS_MAX {
            self.findings.push(Finding { pointer: self.tree.pointer(node), keyword });
        }
        false
    }

    /// A finding about a member that is not there: the pointer it would have.
    fn refuse_member(&mut self, node: NodeId, name: &str, keyword: &'static str, report: bool) -> bool {
        if report && self.findings.len() < Violation::FINDINGS_MAX {
            let mut pointer = self.tree.pointer(node);
            push_token(&mut pointer, name);
            self.findings.push(Finding { pointer, keyword });
        }
        false
    }
}
