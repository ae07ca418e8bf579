//! `ringwall schema`: the JSON Schema of the configuration, for editors.

use std::process::ExitCode;

use clap::Args;

use crate::config::json_schema;

/// The arguments of `schema`: none.
#[derive(Args, Clone, Debug)]
pub struct Arguments {}

/// Prints the schema.
pub fn run(_: &Arguments) -> ExitCode {
    super::say(&format!("{:#}\n", json_schema::json_schema()));
    ExitCode::SUCCESS
}
