//! The workload's credentials as one worker uses them, made anew when the secrets change.

use std::cell::RefCell;
use std::sync::Arc;

use outrigger_config::secrets::{SecretStore, Secrets};

use crate::tls::credentials::Credentials;

/// Credentials of the moment.
#[derive(Debug)]
pub(crate) struct Identity {
    store: SecretStore,
    current: RefCell<Option<(Arc<Secrets>, Arc<Credentials>)>>,
}

impl Identity {
    /// Credentials out of `store`.
    pub(crate) fn new(store: SecretStore) -> Self {
        Self { store, current: RefCell::default() }
    }

    /// The credentials of the moment; `None` before the first certificate. Live connections keep those they began with.
    pub(crate) fn credentials(&self) -> Option<Arc<Credentials>> {
        let secrets = self.store.load()?;
        let mut current = self.current.borrow_mut();
        let generation = match &*current {
            Some((seen, credentials)) if Arc::ptr_eq(seen, &secrets) => return Some(Arc::clone(credentials)),
            Some((_, credentials)) => credentials.generation + 1,
            None => 1,
        };
        let roots = secrets.roots.by_domain.iter().map(|(domain, roots)| (domain.clone(), Arc::clone(roots)));
        let credentials = Arc::new(Credentials {
            identity: secrets.identity.id.clone(),
            certified: Arc::clone(&secrets.identity.key),
            roots: Arc::new(roots.collect()),
            generation,
            bundle_generation: secrets.roots.generation,
        });
        *current = Some((secrets, Arc::clone(&credentials)));
        Some(credentials)
    }
}
