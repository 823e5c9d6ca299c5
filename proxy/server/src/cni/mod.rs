//! The CNI plugin `outrigger-cni`: redirects a pod's connections from the node, where pods may not have NET_ADMIN.
//!
//! It is this binary under the name `outrigger-cni`: the container runtime starts it for each pod, after the network's own
//! plugins. A DaemonSet keeps it installed (`outrigger-proxy cni install`). A pod that starts before that is not captured; its
//! init container `outrigger-capture-check` then fails, so that no application runs without its sidecar.

mod installer;
mod list;
mod plugin;

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use installer::Program;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

/// How often the configuration is compared.
const INTERVAL: Duration = Duration::from_secs(1);
/// A configuration is some KiB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Flags of `outrigger-proxy cni`.
#[derive(Debug, Clone, clap::Args)]
pub struct CniArgs {
    #[command(subcommand)]
    command: CniCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum CniCommand {
    /// Install the plugin on this node, keep it installed until SIGTERM, then remove it
    ///
    /// What another process has installed since stays, so that pods can start while the DaemonSet is upgraded.
    Install(Directories),
    /// Verify that the plugin is installed on this node, as a readiness probe
    Check(Directories),
    /// Remove the plugin from this node
    Uninstall(Directories),
}

#[derive(Debug, Clone, clap::Args)]
struct Directories {
    /// Directory of the container runtime's CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Directory of the container runtime's CNI configuration
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
}

/// Why the plugin is not installed. Displayed as one line.
#[derive(Debug, Error)]
pub enum CniError {
    /// A file or directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// A configuration is not of the format to which a plugin can be added.
    #[error("{}: {problem}: a plugin can be added only to a .conflist file", path.display())]
    Format {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is no configuration yet.
    #[error("{}: there is no CNI configuration: the cluster's network plugin is not installed", .0.display())]
    NoNetwork(PathBuf),
    /// A part of the plugin is missing.
    #[error("{}: the plugin is not installed", .0.display())]
    NotInstalled(PathBuf),
    /// The process cannot run.
    #[error("{0}")]
    Start(io::Error),
}

/// Installs, checks or removes the plugin. Installing ends with SIGTERM.
pub fn cni(args: &CniArgs) -> Result<(), CniError> {
    match &args.command {
        CniCommand::Install(directories) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(CniError::Start)?.block_on(keep_installed(directories))
        }
        CniCommand::Check(Directories { bin_dir, conf_dir }) => installer::check(conf_dir, bin_dir),
        CniCommand::Uninstall(directories) => installer::remove(&directories.conf_dir, &directories.bin_dir),
    }
}

/// Installs the plugin, again whenever another program has removed a part of it. Removes it after SIGTERM.
async fn keep_installed(directories: &Directories) -> Result<(), CniError> {
    let Directories { bin_dir, conf_dir } = directories;
    let mut terminated = signal(SignalKind::terminate()).map_err(CniError::Start)?;
    let mut program = Program::copy(bin_dir)?;
    let mut failure = None;
    loop {
        match repair(&mut program, directories) {
            Ok(Some(file)) => eprintln!("outrigger-cni: added to {}", file.display()),
            Ok(None) => failure = None,
            Err(error) => {
                let text = error.to_string();
                if failure.as_ref() != Some(&text) {
                    eprintln!("outrigger-cni: {text}");
                }
                failure = Some(text);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = terminated.recv() => break,
        }
    }
    // While the DaemonSet is upgraded, the next pod has installed its own before this one ends.
    if Program::find(bin_dir).is_some_and(|installed| installed != program) {
        return Ok(());
    }
    installer::remove(conf_dir, bin_dir)
}

/// Installs what is missing. Returns the configuration to which the plugin was added.
fn repair(program: &mut Program, directories: &Directories) -> Result<Option<PathBuf>, CniError> {
    // Without its program, an entry of the configuration lets no pod start.
    if Program::find(&directories.bin_dir).is_none() {
        *program = Program::copy(&directories.bin_dir)?;
    }
    installer::add(&directories.conf_dir)
}

/// Returns whether the container runtime has started this program as the plugin.
pub fn is_cni_plugin(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(list::PLUGIN))
}

/// Executes one command of the container runtime.
pub fn run_cni_plugin() -> ExitCode {
    let variable = |name| std::env::var(name).ok();
    let mut config = String::new();
    // A configuration that is not UTF-8 is no JSON either.
    let _ = io::stdin().take(MAX_CONFIG_BYTES).read_to_string(&mut config);
    let (command, namespace) = (variable("CNI_COMMAND"), variable("CNI_NETNS"));
    let (answer, code) = match plugin::execute(command.as_deref(), namespace.as_deref(), &config) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (Some(error.answer(&config)), ExitCode::FAILURE),
    };
    match answer.map_or(Ok(()), |answer| writeln!(io::stdout(), "{answer}")) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
