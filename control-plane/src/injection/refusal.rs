//! Why a pod is refused: the field or annotation, and the problem.

use thiserror::Error;

/// Why a pod cannot be injected. The text begins with the field, as Kubernetes writes it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct Refusal {
    /// The field, as in `spec.containers[0].name`.
    pub field: String,
    /// What is wrong with its value, and what is accepted.
    pub problem: String,
}

impl Refusal {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// Returns a refusal of an annotation's value.
    pub(super) fn of_annotation(name: &str, problem: impl Into<String>) -> Self {
        Self::new(format!("metadata.annotations[{name}]"), problem)
    }
}
