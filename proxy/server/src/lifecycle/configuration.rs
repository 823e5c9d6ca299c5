//! Connects discovery with the data plane: configuration and identity.
//!
//! When [`Configuration::start`] returns, the saved configuration is published, whether or not the control plane is reachable.
//! It fails only on errors that retrying cannot fix.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger_config::binding::{BindRequests, binder};
use outrigger_config::build::Builder;
use outrigger_config::cluster::dns::Answer;
use outrigger_config::listener::Listener;
use outrigger_config::on_demand::{OnDemand, OnDemandLimits, Resolution};
use outrigger_config::publish::Published;
use outrigger_config::secrets::SecretStore;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::Name;
use outrigger_dataplane::Resolver;
use outrigger_discovery::dns::{Addresses, Dns, DnsError};
use outrigger_discovery::{Config, Discovery, Handle, Mode, StartError, Wiring, WorkloadPort};
use tokio::time::Instant;

use crate::args::{self, Args};
use crate::error::Error;

/// The discovery handle, and the stores that it fills.
pub(crate) struct Configuration {
    pub(crate) published: Published,
    pub(crate) on_demand: OnDemand,
    /// Bind requests of discovery.
    pub(crate) binds: BindRequests,
    pub(crate) secrets: SecretStore,
    /// This workload's namespace, for short names in wildcard mode. Set once the certificate is available.
    pub(crate) namespace: Arc<OnceLock<Name>>,
    pub(crate) resolver: Resolver,
    pub(crate) discovery: Handle,
}

impl Configuration {
    /// Starts discovery on the current runtime. `own` are the static listeners.
    pub(crate) async fn start(
        args: &Args,
        instance: &str,
        own: &[Arc<Listener>],
        ports: Vec<WorkloadPort>,
    ) -> Result<Self, Error> {
        let listeners = own.iter().map(|listener| (listener.name.clone(), Arc::clone(listener))).collect();
        let published = Published::new(Arc::new(Snapshot { listeners, ..Snapshot::default() }));
        let namespace = Arc::new(OnceLock::new());
        let (mode, resolution) = match args.mode {
            args::Mode::OnDemand => (Mode::OnDemand, Resolution::OnDemand),
            args::Mode::Wildcard => {
                let cluster_domain = args.cluster_domain.as_str().into();
                (Mode::Wildcard, Resolution::Wildcard { namespace: Arc::clone(&namespace), cluster_domain })
            }
        };
        let (on_demand, feed) = OnDemand::new(OnDemandLimits::default(), resolution, published.clone());
        for bound in &args.bind {
            on_demand.pin(bound.destination.as_str());
        }
        let secrets = SecretStore::new();
        let dns = Dns::from_system().map_err(|error| Error::Failed(error.to_string()))?;
        let config = Config {
            control_plane: args.control_plane.as_str().to_owned(),
            control_plane_ca: args.control_plane_ca.clone(),
            token_file: args.token_file.clone(),
            state_dir: args.state_dir.clone(),
            instance: instance.to_owned(),
            mode,
            trust_domain: args.trust_domain.clone(),
            ports,
            labels: args.label.iter().cloned().collect(),
        };
        let (binder, binds) = binder();
        let wiring = Wiring {
            builder: Builder::new(own.to_vec()),
            published: published.clone(),
            on_demand: feed,
            binder,
            secrets: secrets.clone(),
            dns: dns.clone(),
        };
        let discovery = Discovery::start(config, wiring).await.map_err(start_error)?;
        Ok(Self { published, on_demand, binds, secrets, namespace, resolver: resolver(dns), discovery })
    }
}

/// How long a literal address is used without being parsed again.
const LITERAL: Duration = Duration::from_secs(24 * 60 * 60);

/// After this, a name without an address is resolved again. Until the end of its negative TTL, [`Dns`] answers from its cache.
const ABSENT: Duration = Duration::from_secs(1);

fn resolver(dns: Dns) -> Resolver {
    Resolver::new(move |host| {
        let dns = dns.clone();
        async move { answer(dns.resolve(&host).await) }
    })
}

/// A name without an address has an answer too: known addresses are not used any longer.
fn answer(resolved: Result<Addresses, DnsError>) -> Result<Answer, String> {
    match resolved {
        Ok(Addresses { addresses, valid_until }) => {
            let valid_until = valid_until.map_or_else(|| Instant::now() + LITERAL, Instant::from_std);
            Ok(Answer { addresses, valid_until })
        }
        Err(DnsError::NotFound(_)) => {
            Ok(Answer { addresses: Vec::new(), valid_until: Instant::now() + ABSENT })
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Converts the error. The flag is added where the text does not name a file.
fn start_error(error: StartError) -> Error {
    match error {
        StartError::StateDir { path, reason } => {
            Error::Flag { flag: "--state-dir", value: path.display().to_string(), problem: reason }
        }
        other => Error::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_name_that_is_known_not_to_exist_has_no_addresses() {
        let absent = answer(Err(DnsError::NotFound("app.example".into()))).unwrap();
        assert!(absent.addresses.is_empty() && absent.valid_until <= Instant::now() + ABSENT);
        let unavailable = DnsError::Unavailable { host: "app.example".into(), reason: "timeout".into() };
        assert!(answer(Err(unavailable)).unwrap_err().ends_with("timeout"));
        let address = "10.0.0.1".parse().unwrap();
        let literal = answer(Ok(Addresses { addresses: vec![address], valid_until: None })).unwrap();
        assert_eq!(literal.addresses, [address]);
    }
}
