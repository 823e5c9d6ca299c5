//! Whether a service decides about requests: the meaning of an ExternalAuthorizationPolicy.

use super::route::ExternalAuth;

/// The meaning of an ExternalAuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternalAuthorization {
    /// No service is asked.
    Off,
    /// A service is asked. If it cannot be used, everything is refused.
    Ask(ExternalAuth),
    /// It stands for a policy that was refused and that has no good version: everything is refused.
    StandIn,
}

impl ExternalAuthorization {
    /// Returns true if everything is refused.
    pub fn refuses(&self) -> bool {
        match self {
            Self::Off => false,
            Self::Ask(auth) => auth.target.is_err(),
            Self::StandIn => true,
        }
    }

    /// Returns what it does, for users.
    pub fn effect(&self) -> &'static str {
        match self {
            Self::Off => "Off",
            Self::Ask(ExternalAuth { target: Ok(_), .. }) => "Ask",
            Self::Ask(_) | Self::StandIn => "Deny",
        }
    }
}
