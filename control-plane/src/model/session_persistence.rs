//! Session persistence (GEP-1619): a client that repeats what an earlier response gave it stays with one endpoint.

use std::time::Duration;

use outrigger_core::Name;

/// How the sessions of a route rule, or of the callers of a Service, are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionPersistence {
    /// In a cookie.
    Cookie {
        /// Its name. None: one that no other rule and no other Service has.
        name: Option<Name>,
        /// How long the client keeps it. None: for its own session.
        max_age: Option<Duration>,
    },
    /// In a header, by its name in lower case.
    Header(Name),
}

impl SessionPersistence {
    /// Returns the type, as in YAML.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cookie { .. } => "Cookie",
            Self::Header(_) => "Header",
        }
    }
}
