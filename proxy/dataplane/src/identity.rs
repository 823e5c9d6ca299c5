//! The workload's credentials as one worker uses them, rebuilt when the secrets change.

use std::cell::RefCell;
use std::sync::Arc;

use outrigger_config::secrets::{SecretStore, Secrets};
use outrigger_config::tls::DownstreamTls;
use outrigger_core::error::Failure;
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_policy::verdict::Workload;
use rustls::ServerConfig;

use crate::tls::config::server_config;
use crate::tls::credentials::Credentials;

/// Server configurations of one worker; beyond, all are rebuilt. A bound, not a tuning.
const MAX_SERVERS: usize = 256;

/// Credentials of the moment.
#[derive(Debug)]
pub(crate) struct Identity {
    store: SecretStore,
    current: RefCell<Option<(Arc<Secrets>, Arc<Credentials>)>>,
    /// Server configurations of the present credentials, one for each way of speaking TLS.
    servers: RefCell<Vec<Server>>,
}

#[derive(Debug)]
struct Server {
    tls: Arc<DownstreamTls>,
    credentials: Arc<Credentials>,
    config: Arc<ServerConfig>,
}

impl Identity {
    /// Credentials out of `store`.
    pub(crate) fn new(store: SecretStore) -> Self {
        Self { store, current: RefCell::default(), servers: RefCell::default() }
    }

    /// The credentials of the moment; `None` before the first certificate. Live connections keep those they began with.
    pub(crate) fn credentials(&self) -> Option<Arc<Credentials>> {
        let secrets = self.store.load()?;
        let mut current = self.current.borrow_mut();
        if let Some((seen, credentials)) = &*current
            && Arc::ptr_eq(seen, &secrets)
        {
            return Some(Arc::clone(credentials));
        }
        let credentials = Arc::new(Credentials {
            identity: secrets.identity.id.clone(),
            certified: Arc::clone(&secrets.identity.key),
            roots: Arc::clone(&secrets.roots),
        });
        *current = Some((secrets, Arc::clone(&credentials)));
        Some(credentials)
    }

    /// Returns the TLS server configuration of a chain. Returns an error before the first certificate.
    pub(crate) fn server(&self, tls: &Arc<DownstreamTls>) -> Result<Arc<ServerConfig>, Failure> {
        let credentials = self
            .credentials()
            .ok_or_else(|| Failure::local(Reason::LocalError, "this workload has no certificate"))?;
        let mut servers = self.servers.borrow_mut();
        servers.retain(|server| server.credentials.is_same(&credentials));
        let same = |server: &&Server| Arc::ptr_eq(&server.tls, tls) || server.tls == *tls;
        if let Some(server) = servers.iter().find(same) {
            return Ok(Arc::clone(&server.config));
        }
        // What chains say changes with the configuration, not with connections; but the number is bounded.
        if servers.len() >= MAX_SERVERS {
            servers.clear();
        }
        let config = server_config(&credentials, tls)?;
        servers.push(Server { tls: Arc::clone(tls), credentials, config: Arc::clone(&config) });
        Ok(config)
    }
}

impl Workload for Identity {
    fn identity(&self) -> Option<SpiffeId> {
        self.credentials().map(|credentials| credentials.identity.clone())
    }
}
