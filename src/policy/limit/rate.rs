//! `limits`: rates.

use crate::pipeline::exchange::Exchange;
use crate::policy::{Policy, Verdict};
use crate::worker::state::CoreState;

/// The limits of one operation at one stage.
#[derive(Debug, Default)]
pub struct Limits {}

impl Policy for Limits {
    const NAME: &'static str = "limits";

    fn apply(&self, _x: &mut Exchange, _core: &mut CoreState) -> Verdict {
        Verdict::Continue
    }
}
