//! Creates join tokens: through a running control plane, or in the store if none runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use outrigger_core::identity::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::admin_client::{AdminAddress, AdminError, ask};
use crate::state::{StateError, Store};

/// Maximum lifetime of a token, which is meant to be used soon.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// The identity and lifetime of a new token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// Its lifetime in seconds.
    pub ttl_seconds: u64,
}

/// Why no token is created.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The names do not form a valid identity.
    #[error("{0}")]
    Identity(#[from] outrigger_core::identity::IdentityError),
    /// The control plane's own identity, which proxies trust.
    #[error("this is the control plane's own identity")]
    Reserved,
    /// The lifetime is zero or too long.
    #[error("the lifetime of a join token is 1 s to 24 h, not {0} s")]
    Ttl(u64),
    /// The directory has no state of a control plane, so no control plane would know the token.
    #[error("{}: no state of a control plane is there; --state-dir is that of outrigger control-plane", .0.display())]
    NoState(PathBuf),
    /// The system's random number generator failed.
    #[error("the system has no random numbers")]
    Random,
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control plane failed or refused.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Creates a token for the mesh whose state is in `directory`, through its control plane if it runs.
pub async fn create(directory: &Path, request: &TokenRequest) -> Result<String, TokenError> {
    let socket = AdminAddress::of_state_directory(directory);
    let body =
        serde_json::to_vec(request).map_err(|error| AdminError::Failed(socket.clone(), error.to_string()))?;
    match ask(&socket, "/tokens", Some(body)).await {
        Ok(token) => Ok(String::from_utf8_lossy(&token).trim().into()),
        Err(AdminError::Absent(_)) if !Store::exists(directory) => {
            Err(TokenError::NoState(directory.to_owned()))
        }
        Err(AdminError::Absent(_)) => {
            let (directory, request) = (directory.to_owned(), request.clone());
            let create = move || create_in(&Store::open(&directory)?, &request);
            match tokio::task::spawn_blocking(create).await {
                Ok(created) => created,
                Err(error) => Err(AdminError::Failed(socket, error.to_string()).into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Creates a token in the store. Blocks on the disk.
pub fn create_in(store: &Store, request: &TokenRequest) -> Result<String, TokenError> {
    let TokenRequest { namespace, service_account, ttl_seconds } = request;
    // The CA adds its trust domain; any is fine for checking the names.
    let identity = SpiffeId::new(TrustDomain::parse("cluster.local")?, namespace, service_account)?;
    if identity.is_control_plane() {
        return Err(TokenError::Reserved);
    }
    let ttl = Duration::from_secs(*ttl_seconds);
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(TokenError::Ttl(*ttl_seconds));
    }
    let mut secret = [0; 32];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut secret)
        .map_err(|_| TokenError::Random)?;
    Ok(store.create_token(namespace, service_account, ttl, SystemTime::now(), secret)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(namespace: &str, service_account: &str, ttl_seconds: u64) -> TokenRequest {
        TokenRequest { namespace: namespace.into(), service_account: service_account.into(), ttl_seconds }
    }

    #[tokio::test]
    async fn without_a_running_control_plane_the_token_is_created_in_the_store() {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::open(directory.path()).unwrap());
        let token = create(directory.path(), &request("shop", "cart", 600)).await.unwrap();
        let grant = Store::open(directory.path()).unwrap().identify_token(&token, SystemTime::now());
        assert_eq!(grant.unwrap().namespace, "shop");
    }

    #[tokio::test]
    async fn a_directory_without_a_state_is_refused_and_left_unchanged() {
        let parent = tempfile::tempdir().unwrap();
        let mistyped = parent.path().join("stat");
        let refused = create(&mistyped, &request("shop", "cart", 600)).await.unwrap_err().to_string();
        assert!(refused.contains("stat: no state of a control plane is there; --state-dir is"), "{refused}");
        assert!(!mistyped.exists());
    }

    #[test]
    fn invalid_names_and_lifetimes_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        for (request, text) in [
            (request("Shop", "cart", 600), "\"Shop\""),
            (request("shop", "cart/../x", 600), "\"cart/../x\""),
            (request("outrigger-system", "control-plane", 600), "control plane's own"),
            (request("shop", "cart", 0), "not 0 s"),
            (request("shop", "cart", 86_401), "not 86401 s"),
        ] {
            assert!(create_in(&store, &request).unwrap_err().to_string().contains(text), "{text}");
        }
    }
}
