//! `outrigger schema`: the JSON Schema of configuration files, for editors.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use outrigger_control_plane::model::resource::Kind;
use outrigger_control_plane::model::resource::schema::{schema, schema_of_all};

use crate::output::{json, print};

/// Prints a JSON Schema, by which editors complete and check configuration files.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # For every file of a directory
  outrigger schema > /etc/outrigger/schema.json

  # For one kind
  outrigger schema HTTPRoute")]
pub(crate) struct SchemaArgs {
    /// Kind of resource. Without it, one schema for all of them.
    #[arg(value_name = "KIND", ignore_case = true, value_parser = kinds())]
    kind: Option<Kind>,
}

fn kinds() -> impl TypedValueParser<Value = Kind> {
    let named = |name: String| Kind::all().find(|kind| kind.name().eq_ignore_ascii_case(&name));
    PossibleValuesParser::new(Kind::all().map(Kind::name))
        .try_map(move |name| named(name).ok_or("unknown kind"))
}

/// Prints the schema.
pub(crate) fn print_schema(SchemaArgs { kind }: SchemaArgs) -> Result<(), String> {
    print(&json(&kind.map_or_else(schema_of_all, schema))?)
}
