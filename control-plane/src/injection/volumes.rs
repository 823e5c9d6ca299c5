//! The volumes of the sidecar: its token, the trust roots, and its state.

use serde_json::{Value, json};

use super::layout::{ROOTS_CONFIG_MAP, ROOTS_VOLUME, STATE_VOLUME, TOKEN_AUDIENCE, TOKEN_VOLUME};

/// Lifetime of the token, in seconds. The kubelet replaces it at four fifths of it.
const TOKEN_LIFETIME: u32 = 3600;

/// Returns the volumes. Until the control plane has made the ConfigMap in the namespace, the pod waits.
pub(super) fn volumes() -> [Value; 3] {
    [
        json!({
            "name": TOKEN_VOLUME,
            "projected": { "sources": [{
                "serviceAccountToken": { "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_LIFETIME, "path": "token" },
            }] },
        }),
        json!({ "name": ROOTS_VOLUME, "configMap": { "name": ROOTS_CONFIG_MAP } }),
        json!({ "name": STATE_VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": "64Mi" } }),
    ]
}
