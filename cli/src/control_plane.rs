//! The commands that query or change a control plane: check, token, status, history.
//!
//! Each calls the control plane's library and prints the result. Beside a running control plane they use the socket in its
//! state directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use outrigger_control_plane::admin_client::AdminAddress;
use outrigger_control_plane::source::check::check as check_directory;
use outrigger_control_plane::status::Status;
use outrigger_control_plane::token::TokenRequest;
use outrigger_control_plane::{history as history_log, status as status_page, token as tokens};
use outrigger_core::duration::parse_duration;

/// Reads a directory and prints every resource's conditions and every refusal.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The directory of Kubernetes YAML.
    directory: PathBuf,
}

/// Returns an error if any resource was refused.
pub(crate) fn check(args: CheckArgs) -> Result<(), String> {
    let report = check_directory(args.directory).map_err(|error| error.to_string())?;
    print!("{report}");
    match report.refused() {
        0 => Ok(()),
        refused => Err(format!("{refused} refused")),
    }
}

/// Creates join tokens.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print a new token. The control plane stores its hash alone.
    Create {
        /// The control plane's state directory.
        #[arg(long, value_name = "DIR")]
        state_dir: PathBuf,
        /// The namespace of the identity that the token is for.
        #[arg(long)]
        namespace: String,
        /// The service account of that identity.
        #[arg(long)]
        service_account: String,
        /// How long it is valid: 10m, 1h30m; at most 24h.
        #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
        ttl: Duration,
    },
}

/// Works whether the control plane runs or not.
pub(crate) fn token(args: TokenArgs) -> Result<(), String> {
    let TokenCommand::Create { state_dir, namespace, service_account, ttl } = args.command;
    let request = TokenRequest { namespace, service_account, ttl_seconds: ttl.as_secs() };
    let token = block_on(tokens::create(&state_dir, &request))?;
    println!("{token}");
    Ok(())
}

/// Prints the state of a running control plane.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The control plane's admin address.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15011")]
    admin: SocketAddr,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Needs a running control plane.
pub(crate) fn status(args: StatusArgs) -> Result<(), String> {
    let status = block_on(status_page::fetch(&AdminAddress::Tcp(args.admin)))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status).map_err(|error| error.to_string())?);
        return Ok(());
    }
    print!("{}", describe(&status));
    Ok(())
}

fn describe(status: &Status) -> String {
    let Status {
        trust_domain,
        services,
        proxies,
        refusals,
        ignored_fields,
        registrations,
        certificates_issued,
        problems,
    } = status;
    let mut text = format!(
        "trust domain {trust_domain}: {services} services, {} proxies connected, {certificates_issued} certificates issued\n",
        proxies.len()
    );
    for problem in problems {
        text.push_str(&format!("PROBLEM: {problem}\n"));
    }
    for proxy in proxies {
        text.push_str(&format!("proxy {} ({})\n", proxy.node, proxy.identity));
        for kind in &proxy.types {
            let acked =
                kind.resources.iter().filter(|one| one.sent.is_some() && one.acked == one.sent).count();
            let waiting = if kind.waiting { ", waiting for acknowledgement" } else { "" };
            let (name, sent) = (&kind.kind, kind.resources.iter().filter(|one| one.sent.is_some()).count());
            text.push_str(&format!("  {name}: {sent} sent, {acked} acknowledged{waiting}\n"));
            for resource in &kind.resources {
                if let Some(nack) = &resource.nacked {
                    text.push_str(&format!("  {name}: {} refused: {}\n", resource.name, nack.detail));
                }
            }
        }
    }
    for workload in registrations {
        text.push_str(&format!(
            "workload {} ({}): {}\n",
            workload.instance, workload.identity, workload.health
        ));
        for serves in &workload.serves {
            text.push_str(&format!("  {serves}\n"));
        }
    }
    for refusal in refusals {
        text.push_str(&format!("refused: {refusal}\n"));
    }
    for field in ignored_fields {
        text.push_str(&format!("ignored: {field}\n"));
    }
    text
}

/// Prints the log of configuration changes.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The control plane's state directory.
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// How many of the newest changes to print.
    #[arg(long, default_value_t = 100)]
    count: usize,
}

/// Works whether the control plane runs or not.
pub(crate) fn history(args: HistoryArgs) -> Result<(), String> {
    for entry in block_on(history_log::read(&args.state_dir, args.count))? {
        let at =
            i64::try_from(entry.at_unix_ms).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        let at = at.map_or_else(|| "?".into(), |at| at.to_string());
        match entry.refused {
            None => println!("{at}  {}: {}", entry.source, entry.what),
            Some(reason) => println!("{at}  {}: {}: {reason}", entry.source, entry.what),
        }
    }
    Ok(())
}

fn block_on<T, E: std::fmt::Display>(future: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?
        .block_on(future)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_names_what_a_proxy_refused_and_why() {
        let resource = serde_json::json!({
            "name": "cart.shop.svc.cluster.local:80", "sent": "2", "acked": "1",
            "nacked": { "version": "2", "detail": "retry_policy: no such thing", "since": "now" },
        });
        let proxy = serde_json::json!({
            "node": "web-1", "identity": "spiffe://cluster.local/ns/shop/sa/web", "namespace": "shop",
            "mode": "on-demand", "since": "now",
            "types": [{ "kind": "rds", "wildcard": false, "waiting": false, "resources": [resource] }],
        });
        let status = serde_json::json!({
            "trust_domain": "cluster.local", "services": 1, "proxies": [proxy], "refusals": [],
            "registrations": [], "certificates_issued": 1,
        });
        let text = describe(&serde_json::from_value(status).unwrap());
        assert!(text.contains("proxy web-1 (spiffe://cluster.local/ns/shop/sa/web)\n"), "{text}");
        let refused = "  rds: cart.shop.svc.cluster.local:80 refused: retry_policy: no such thing\n";
        assert!(text.contains("  rds: 1 sent, 0 acknowledged\n") && text.contains(refused), "{text}");
    }
}
