//! The bench's own processes: this program, with other arguments.

use std::net::SocketAddr;
use std::process::Stdio;

use outrigger_test_support::limits::Algorithm;
use tokio::process::{Child, Command};

use super::exchange::wait_listening;

/// Starts an application, of which each request asks `asked` if there is one. Returns an error if it does not listen.
pub(super) async fn application(
    listen: SocketAddr,
    concurrency: usize,
    asked: Option<SocketAddr>,
) -> Result<Child, String> {
    let mut args = vec!["endpoint".to_owned(), "--concurrency".into(), concurrency.to_string()];
    args.extend(asked.into_iter().flat_map(|asked| ["--asks".into(), asked.to_string()]));
    start(args, listen).await
}

/// Starts a proxy that limits what the application at `to` gets, which has so many threads. Returns an error if it does not listen.
pub(super) async fn limit(
    listen: SocketAddr,
    to: SocketAddr,
    algorithm: Algorithm,
    threads: usize,
) -> Result<Child, String> {
    let args = ["limit", "--to", &to.to_string(), "--algorithm", algorithm.name()].map(str::to_owned);
    start(args.into_iter().chain(["--threads".into(), threads.to_string()]).collect(), listen).await
}

async fn start(args: Vec<String>, listen: SocketAddr) -> Result<Child, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let child = Command::new(program)
        .args(&args)
        .args(["--listen", &listen.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", args[0]))?;
    wait_listening(listen).await?;
    Ok(child)
}
