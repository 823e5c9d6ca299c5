//! The CNI plugin `outrigger-cni`: redirects a pod's connections from the node, where pods may not have NET_ADMIN.
//!
//! It is this binary under the name `outrigger-cni`: the container runtime starts it for each pod, after the network's own
//! plugins. A DaemonSet keeps it installed (`outrigger-proxy cni install`). A pod that starts before that is not captured; its
//! init container `outrigger-capture-check` then fails, so that no application runs without its sidecar.
//!
//! The plugin stays on the node when the DaemonSet's pod ends: pods that start before the next one, as when the node reboots, are
//! captured. What stays after the DaemonSet is deleted leaves pods without a sidecar alone.

mod installer;
mod list;
mod plugin;

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
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
    /// Install the plugin on this node, and keep it installed until SIGTERM
    ///
    /// It stays installed after that: pods start, and are captured, before the next pod of the DaemonSet runs.
    Install(Directories),
    /// Verify that the plugin of this version is installed on this node, as a readiness probe
    Check(Directories),
    /// Remove the plugin from this node, and keep it removed until SIGTERM
    ///
    /// It takes the place of `install` in the DaemonSet before that is deleted.
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
    /// The program is that of another version.
    #[error("{}: the program of another version", .0.display())]
    OtherProgram(PathBuf),
    /// The process cannot run.
    #[error("{0}")]
    Start(io::Error),
}

/// Installs, checks or removes the plugin. Installing and removing end with SIGTERM.
pub fn cni(args: &CniArgs) -> Result<(), CniError> {
    let repeated = |step: &mut dyn FnMut() -> Result<(), CniError>| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(CniError::Start)?.block_on(until_sigterm(step))
    };
    match &args.command {
        CniCommand::Install(Directories { bin_dir, conf_dir }) => {
            installer::copy_program(bin_dir)?;
            repeated(&mut || repair(conf_dir, bin_dir))
        }
        CniCommand::Check(Directories { bin_dir, conf_dir }) => installer::check(conf_dir, bin_dir),
        CniCommand::Uninstall(Directories { bin_dir, conf_dir }) => {
            repeated(&mut || installer::remove(conf_dir, bin_dir))?;
            // The pod that it replaces may have installed the plugin once more.
            installer::remove(conf_dir, bin_dir)
        }
    }
}

/// Repeats a step until SIGTERM. An error is printed once.
async fn until_sigterm(step: &mut dyn FnMut() -> Result<(), CniError>) -> Result<(), CniError> {
    let mut terminated = signal(SignalKind::terminate()).map_err(CniError::Start)?;
    let mut failure = None;
    loop {
        let error = step().err().map(|error| error.to_string());
        if let Some(text) = error.as_ref().filter(|_| error != failure) {
            eprintln!("outrigger-cni: {text}");
        }
        failure = error;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = terminated.recv() => return Ok(()),
        }
    }
}

/// Installs what another program has removed.
fn repair(configs: &Path, programs: &Path) -> Result<(), CniError> {
    // Without its program, an entry of the configuration lets no pod start.
    if !installer::has_program(programs) {
        installer::copy_program(programs)?;
    }
    if let Some(file) = installer::add(configs)? {
        eprintln!("outrigger-cni: added to {}", file.display());
    }
    Ok(())
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
