//! `body: {schema}`: the body is what its schema says.

use crate::pipeline::exchange::Exchange;
use crate::policy::{Policy, Verdict};
use crate::worker::state::CoreState;

/// A compiled schema.
#[derive(Debug, Default)]
pub struct JsonSchema {}

impl Policy for JsonSchema {
    const NAME: &'static str = "body";

    fn apply(&self, _x: &mut Exchange, _core: &mut CoreState) -> Verdict {
        Verdict::Continue
    }
}
