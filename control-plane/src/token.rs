//! Making join tokens: by the running control plane, at its socket, or in the store when none runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use outrigger_core::identity::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::admin_client::{AdminAddress, AdminError, ask};
use crate::state::{StateError, Store};

/// No token lives longer: it is made to be used at once.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Whom a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// How long it can be used, in seconds.
    pub ttl_seconds: u64,
}

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The names make no identity.
    #[error("{0}")]
    Identity(#[from] outrigger_core::identity::IdentityError),
    /// The control plane's own identity: whoever had it could tell every proxy what to do.
    #[error("this is the control plane's own identity")]
    Reserved,
    /// A life of nothing, or a long one.
    #[error("a join token lives from 1 s to 24 h, not {0} s")]
    Ttl(u64),
    /// No control plane ever kept its state there: none would know the token.
    #[error("{}: no state of a control plane is there", .0.display())]
    Nothing(PathBuf),
    /// The machine has no random numbers.
    #[error("no random numbers")]
    Random,
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control plane failed or refused.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Makes a token for the mesh whose state is in `directory`, through its control plane when one runs.
pub async fn create(directory: &Path, request: &TokenRequest) -> Result<String, TokenError> {
    let socket = AdminAddress::of_state_directory(directory);
    let body =
        serde_json::to_vec(request).map_err(|error| AdminError::Failed(socket.clone(), error.to_string()))?;
    match ask(&socket, "/tokens", Some(body)).await {
        Ok(token) => Ok(String::from_utf8_lossy(&token).trim().into()),
        Err(AdminError::Absent(_)) if !Store::exists(directory) => {
            Err(TokenError::Nothing(directory.to_owned()))
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

/// Makes a token in the store. Blocks on the disk.
pub fn create_in(store: &Store, request: &TokenRequest) -> Result<String, TokenError> {
    let TokenRequest { namespace, service_account, ttl_seconds } = request;
    // The trust domain is the CA's; any will do to check the names.
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
    async fn without_a_control_plane_the_token_goes_into_the_store() {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::open(directory.path()).unwrap());
        let token = create(directory.path(), &request("shop", "cart", 600)).await.unwrap();
        let grant = Store::open(directory.path()).unwrap().identify_token(&token, SystemTime::now());
        assert_eq!(grant.unwrap().namespace, "shop");
    }

    #[tokio::test]
    async fn a_directory_that_no_control_plane_ever_used_makes_no_token_and_stays_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let mistyped = parent.path().join("stat");
        let refused = create(&mistyped, &request("shop", "cart", 600)).await.unwrap_err().to_string();
        assert!(refused.ends_with("stat: no state of a control plane is there"), "{refused}");
        assert!(!mistyped.exists());
    }

    #[test]
    fn names_and_lives_that_cannot_be_are_refused() {
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
