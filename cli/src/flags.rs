//! The flags that several commands have, with their environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use outrigger_control_plane::admin_client::AdminAddress;
use outrigger_control_plane::kubernetes::client::ClusterAccess;

/// A control plane, by its admin address or by its state directory. The command line takes precedence over the environment, and
/// in the environment the directory over the address.
#[derive(Debug)]
pub(crate) struct ControlPlaneArgs {
    admin: SocketAddr,
    /// The state directory, unless `--admin` is given.
    pub(crate) state_dir: Option<PathBuf>,
}

impl ControlPlaneArgs {
    /// Returns the address for requests: the socket in the state directory, or the admin address.
    pub(crate) fn address(&self) -> AdminAddress {
        match &self.state_dir {
            Some(directory) => AdminAddress::of_state_directory(directory),
            None => AdminAddress::Tcp(self.admin),
        }
    }
}

/// The flags of [`ControlPlaneArgs`].
#[derive(Args)]
#[group(skip)]
struct ControlPlaneFlags {
    /// Admin address of the control plane.
    #[arg(long, value_name = "IP:PORT", env = "OUTRIGGER_ADMIN", default_value = "127.0.0.1:15011")]
    #[arg(help_heading = "Control plane")]
    admin: SocketAddr,
    /// State directory of the control plane, in place of --admin.
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_STATE_DIR", help_heading = "Control plane")]
    state_dir: Option<PathBuf>,
}

impl FromArgMatches for ControlPlaneArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let ControlPlaneFlags { admin, state_dir } = ControlPlaneFlags::from_arg_matches(matches)?;
        match (is_typed(matches, "admin"), is_typed(matches, "state_dir")) {
            (true, true) => {
                let text = "--admin and --state-dir name the same control plane: give one of them\n";
                Err(clap::Error::raw(ErrorKind::ArgumentConflict, text))
            }
            (true, false) => Ok(Self { admin, state_dir: None }),
            (false, _) => Ok(Self { admin, state_dir }),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ControlPlaneArgs {
    fn augment_args(command: Command) -> Command {
        ControlPlaneFlags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        ControlPlaneFlags::augment_args_for_update(command)
    }
}

/// The control plane in a Kubernetes cluster, in kubectl's words.
#[derive(Debug)]
pub(crate) struct ClusterArgs(Option<ClusterAccess>);

impl ClusterArgs {
    /// Returns the cluster, or None if the control plane is not in one.
    pub(crate) fn access(&self) -> Option<ClusterAccess> {
        self.0.clone()
    }
}

/// The flags of [`ClusterArgs`].
#[derive(Args)]
#[group(skip)]
struct ClusterFlags {
    /// The control plane in the Kubernetes cluster of the kubeconfig: all of its replicas.
    #[arg(long, help_heading = "Kubernetes")]
    kubernetes: bool,
    /// The kubeconfig, instead of $KUBECONFIG or ~/.kube/config; implies --kubernetes.
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, instead of its current one; implies --kubernetes.
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    context: Option<String>,
}

impl FromArgMatches for ClusterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let ClusterFlags { kubernetes, kubeconfig, context } = ClusterFlags::from_arg_matches(matches)?;
        if !(kubernetes || kubeconfig.is_some() || context.is_some()) {
            return Ok(Self(None));
        }
        no_address_beside_a_cluster(matches, &["admin", "state_dir"])?;
        Ok(Self(Some(ClusterAccess { kubeconfig, context })))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ClusterArgs {
    fn augment_args(command: Command) -> Command {
        ClusterFlags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        ClusterFlags::augment_args_for_update(command)
    }
}

/// Returns true if a flag is on the command line, and not only in the environment.
pub(crate) fn is_typed(matches: &ArgMatches, flag: &str) -> bool {
    matches.value_source(flag) == Some(ValueSource::CommandLine)
}

/// Returns an error if one of these flags is on the command line of a command for a cluster. clap's `conflicts_with` would refuse
/// variables of the environment too.
pub(crate) fn no_address_beside_a_cluster(matches: &ArgMatches, flags: &[&str]) -> Result<(), clap::Error> {
    let Some(flag) = flags.iter().find(|flag| is_typed(matches, flag)) else { return Ok(()) };
    let text =
        format!("--{} cannot be used with --kubernetes, --kubeconfig or --context\n", flag.replace('_', "-"));
    Err(clap::Error::raw(ErrorKind::ArgumentConflict, text))
}

/// The files of a control plane on this machine.
#[derive(Debug, Args)]
pub(crate) struct StateDirArgs {
    /// State directory of the control plane.
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_STATE_DIR", help_heading = "Control plane")]
    pub(crate) state_dir: PathBuf,
}

/// The admin endpoint of a proxy on this machine.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Admin address of the proxy.
    #[arg(long, value_name = "IP:PORT", env = "OUTRIGGER_PROXY_ADMIN", default_value = "127.0.0.1:15000")]
    #[arg(help_heading = "Proxy")]
    pub(crate) admin: SocketAddr,
}

/// A filter by namespace.
#[derive(Debug, Args)]
pub(crate) struct NamespaceArgs {
    /// Only this namespace.
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", help_heading = "Filters")]
    namespace: Option<String>,
}

impl NamespaceArgs {
    /// Returns true if `namespace` passes the filter.
    pub(crate) fn includes(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|only| only == namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(line: &[&str]) -> Result<String, String> {
        let command = ControlPlaneArgs::augment_args(Command::new("test"));
        let matches = command.try_get_matches_from([&["test"], line].concat());
        let args = matches.and_then(|matches| ControlPlaneArgs::from_arg_matches(&matches));
        args.map(|args| args.address().to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_kubeconfig_or_a_context_means_a_cluster() {
        let access = |line: &[&str]| {
            let matches = ClusterArgs::augment_args(ControlPlaneArgs::augment_args(Command::new("test")))
                .try_get_matches_from([&["test"], line].concat())?;
            Ok::<_, clap::Error>(ClusterArgs::from_arg_matches(&matches)?.access())
        };
        assert!(access(&[]).unwrap().is_none() && access(&["--kubernetes"]).unwrap().is_some());
        let cluster = access(&["--context", "kind-dev"]).unwrap().unwrap();
        assert_eq!((cluster.context.as_deref(), cluster.kubeconfig), (Some("kind-dev"), None));
        let both = access(&["--kubernetes", "--admin", "127.0.0.1:1"]).unwrap_err();
        assert_eq!(both.kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_control_plane_is_named_by_one_flag() {
        assert_eq!(address(&["--admin", "127.0.0.1:1"]).unwrap(), "http://127.0.0.1:1");
        assert_eq!(address(&["--state-dir", "/var/lib/outrigger"]).unwrap(), "/var/lib/outrigger/admin.sock");
        let both = address(&["--admin", "127.0.0.1:1", "--state-dir", "a"]).unwrap_err();
        assert!(both.contains("give one of them"), "{both}");
    }
}
