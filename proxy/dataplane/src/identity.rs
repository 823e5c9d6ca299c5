//! The workload's credentials as one worker uses them, made anew when the secrets change.

use std::cell::RefCell;
use std::sync::Arc;

use foldhash::HashMap;
use outrigger_config::secrets::{SecretStore, Secrets};
use outrigger_core::Name;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use rustls::ServerConfig;

use crate::tls::config::server_config;
use crate::tls::credentials::Credentials;

/// Credentials of the moment.
#[derive(Debug)]
pub(crate) struct Identity {
    store: SecretStore,
    current: RefCell<Option<(Arc<Secrets>, Arc<Credentials>)>>,
    /// Server configurations by ALPN, each with the credentials that it was made of.
    servers: RefCell<Servers>,
}

type Servers = HashMap<Box<[Name]>, (Arc<Credentials>, Arc<ServerConfig>)>;

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

    /// How to answer a TLS client that may speak one of `alpn`.
    pub(crate) fn server(&self, alpn: &[Name]) -> Result<Arc<ServerConfig>, Failure> {
        let credentials = self
            .credentials()
            .ok_or_else(|| Failure::local(Reason::LocalError, "this workload has no certificate"))?;
        let mut servers = self.servers.borrow_mut();
        if let Some((of, config)) = servers.get(alpn)
            && of.is_same(&credentials)
        {
            return Ok(Arc::clone(config));
        }
        let protocols: Vec<&[u8]> = alpn.iter().map(|name| name.as_bytes()).collect();
        let config = server_config(&credentials, &protocols)?;
        servers.insert(alpn.into(), (credentials, Arc::clone(&config)));
        Ok(config)
    }
}
