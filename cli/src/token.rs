//! `outrigger token`: creates join tokens, through the socket of a running control plane or in the state directory.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use outrigger_control_plane::token::{TokenRequest, create as create_token};
use outrigger_core::duration::parse_duration;
use serde::Serialize;

use crate::flags::StateDirArgs;
use crate::output::{json, print, yaml};
use crate::runtime::block_on;

/// Creates join tokens.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print a new token. The control plane stores its hash alone.
    #[command(after_help = "\
Examples:
  # A token for the workloads of the service account cart
  outrigger token create --state-dir /var/lib/outrigger -n shop \\
      --service-account cart > token")]
    Create(CreateArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    state: StateDirArgs,
    /// Namespace of the identity that the token is for.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE")]
    namespace: String,
    /// Service account of that identity.
    #[arg(long, value_name = "NAME")]
    service_account: String,
    /// How long it is valid: 10m, 1h30m; at most 24h.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    ttl: Duration,
    /// The token with its identity and lifetime. Without it, the token alone is printed.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<TokenFormat>,
}

/// The format of a token with its identity and lifetime.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum TokenFormat {
    Json,
    Yaml,
}

/// A new token, for programs.
#[derive(Debug, Serialize)]
struct NewToken<'a> {
    token: &'a str,
    namespace: &'a str,
    service_account: &'a str,
    ttl_seconds: u64,
}

/// Works whether the control plane runs or not.
pub(crate) fn run(args: TokenArgs) -> Result<(), String> {
    let TokenCommand::Create(CreateArgs { state, namespace, service_account, ttl, output }) = args.command;
    let request = TokenRequest { namespace, service_account, ttl_seconds: ttl.as_secs() };
    let token = block_on(create_token(&state.state_dir, &request))?;
    let TokenRequest { namespace, service_account, ttl_seconds } = &request;
    let new = NewToken { token: &token, namespace, service_account, ttl_seconds: *ttl_seconds };
    match output {
        None => print(&format!("{token}\n")),
        Some(TokenFormat::Json) => print(&json(&new)?),
        Some(TokenFormat::Yaml) => print(&yaml(&new)?),
    }
}
