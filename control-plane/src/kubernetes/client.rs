//! The connection to the API server: with the credentials of the pod, or those of a kubeconfig.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use thiserror::Error;

/// How long a response, or the next event of a watch, may take. Watches end after a shorter time anyway.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// How the API server is found. The default is the service account of this pod, or a kubeconfig outside of a cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterAccess {
    /// The kubeconfig. If None, that of `$KUBECONFIG` or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. If None, its current one.
    pub context: Option<String>,
}

/// Why there is no client of the API server.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Neither a pod's service account nor a kubeconfig exists.
    #[error(
        "this process is not in a pod (KUBERNETES_SERVICE_HOST is not set), and no kubeconfig can be read: {0}"
    )]
    NoCluster(KubeconfigError),
    /// The service account of this pod cannot be used.
    #[error("the service account of this pod: {0}")]
    ServiceAccount(#[from] kube::config::InClusterError),
    /// The given kubeconfig or context cannot be used.
    #[error("{flags}: {error}")]
    Kubeconfig {
        /// The flags that select it.
        flags: String,
        /// Why not.
        error: KubeconfigError,
    },
    /// The configuration is not usable, such as a certificate that cannot be parsed.
    #[error("the client of the API server: {0}")]
    Client(#[from] Box<kube::Error>),
}

/// Creates a client. Does not connect yet.
pub(crate) async fn connect(access: &ClusterAccess) -> Result<Client, ClientError> {
    let mut config = config(access).await?;
    config.read_timeout = Some(READ_TIMEOUT);
    tracing::info!(server = %config.cluster_url, "the API server");
    Client::try_from(config).map_err(|error| Box::new(error).into())
}

async fn config(access: &ClusterAccess) -> Result<Config, ClientError> {
    let ClusterAccess { kubeconfig, context } = access;
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if kubeconfig.is_none() && context.is_none() && in_pod {
        return Ok(Config::incluster()?);
    }
    let read = match kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let options = KubeConfigOptions { context: context.clone(), ..Default::default() };
    let config = match read {
        Ok(read) => Config::from_custom_kubeconfig(read, &options).await,
        Err(error) => Err(error),
    };
    let flag = |name, value: Option<String>| value.map(|value| format!("{name} {value}"));
    let path = kubeconfig.as_ref().map(|path| path.display().to_string());
    let flags: Vec<_> =
        [flag("--kubeconfig", path), flag("--context", context.clone())].into_iter().flatten().collect();
    config.map_err(|error| match flags.is_empty() {
        true => ClientError::NoCluster(error),
        false => ClientError::Kubeconfig { flags: flags.join(" "), error },
    })
}

/// Parses the minor version of the API server. A vendor may append to the number, as in `34+`. Returns None if there is none.
pub(super) fn minor_version(text: &str) -> Option<u32> {
    text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_may_have_a_suffix() {
        for (text, minor) in [("34", Some(34)), ("28+", Some(28)), ("", None), ("v1", None)] {
            assert_eq!(minor_version(text), minor, "{text}");
        }
    }
}
