//! The annotation `outrigger.dev/status`: that a pod is injected, by which version, and what a further injection must know.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::layout::{INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, STATUS_ANNOTATION};
use super::pod::Object;

/// The value of the annotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InjectionStatus {
    /// The version of the injector.
    version: String,
    ports: Ports,
    /// What was added to the application's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prestop_sleep: Option<PrestopSleep>,
}

/// The sidecar's ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ports {
    inbound: u16,
    outbound: u16,
    metrics: u16,
}

/// A `preStop` sleep that injection has added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PrestopSleep {
    pub(super) seconds: u64,
    /// The names of the containers.
    pub(super) containers: Vec<String>,
}

impl InjectionStatus {
    /// Returns the status of an injection by this version.
    pub(super) fn new(prestop_sleep: Option<PrestopSleep>) -> Self {
        let ports = Ports { inbound: INBOUND_PORT, outbound: OUTBOUND_PORT, metrics: METRICS_PORT };
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), ports, prestop_sleep }
    }

    /// Reads the annotation. Returns None if there is none, or if its value is not one of this format.
    pub(super) fn read(annotations: &Object) -> Option<Self> {
        serde_json::from_str(annotations.get(STATUS_ANNOTATION)?.as_str()?).ok()
    }

    /// Writes the annotation.
    pub(super) fn write(&self, annotations: &mut Object) {
        // A struct of numbers and strings has a JSON form.
        let text = serde_json::to_string(self).unwrap_or_default();
        annotations.insert(STATUS_ANNOTATION.to_owned(), Value::String(text));
    }
}
