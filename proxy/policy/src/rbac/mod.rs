//! Who may call what (`envoy.extensions.filters.http.rbac.v3.RBAC`): a request is allowed or refused by the verified identity
//! and the address of its caller, and by what it asks for.

mod condition;

use http::StatusCode;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::{rbac, rbac_filter};

use crate::field::{Unusable, each, required, unsupported, unsupported_any};
use crate::verdict::{FilterRequest, Refusal, Verdict};
use condition::Condition;

/// The rules of a filter.
#[derive(Debug, Clone)]
pub struct Rbac(Option<Rules>);

#[derive(Debug, Clone)]
enum Rules {
    /// A request must satisfy one of the policies.
    Allow(Box<[Policy]>),
    /// A request must satisfy none of the policies.
    Deny(Box<[Policy]>),
}

/// Requests and callers.
#[derive(Debug, Clone)]
struct Policy {
    permissions: Condition,
    principals: Condition,
}

impl Rbac {
    /// Decodes the filter. Without rules it allows every request.
    pub fn decode(wire: rbac_filter::Rbac) -> Result<Self, Unusable> {
        let rbac_filter::Rbac {
            rules,
            rules_stat_prefix: _, // refusals are counted by reason
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix: _, // there are no shadow rules
            track_per_rule_stats: _,     // refusals are counted by reason
        } = wire;
        unsupported_any(&[
            ("matcher", matcher.is_some()),
            ("shadow_rules", shadow_rules.is_some()),
            ("shadow_matcher", shadow_matcher.is_some()),
        ])?;
        let rules = rules.map(|wire| Rules::decode(wire).map_err(|bad| bad.within("rules")));
        rules.transpose().map(Self)
    }

    /// Decodes a filter's configuration for a route. Without one, the filter allows every request of the route.
    pub fn decode_for_route(wire: rbac_filter::RbacPerRoute) -> Result<Self, Unusable> {
        let rbac_filter::RbacPerRoute { rbac } = wire;
        let rbac = rbac.map(|wire| Self::decode(wire).map_err(|bad| bad.within("rbac")));
        Ok(rbac.transpose()?.unwrap_or(Self(None)))
    }

    /// Decides about a request.
    pub fn decide(&self, request: &FilterRequest<'_>) -> Verdict {
        let one_of = |policies: &[Policy]| policies.iter().any(|policy| policy.matches(request));
        let allowed = match &self.0 {
            None => true,
            Some(Rules::Allow(policies)) => one_of(policies),
            Some(Rules::Deny(policies)) => !one_of(policies),
        };
        if allowed {
            return Verdict::Admit;
        }
        let (reason, status) = (Reason::AccessDenied, StatusCode::FORBIDDEN);
        Verdict::Refuse(Refusal { reason, status, grpc_status: None })
    }
}

impl Rules {
    fn decode(wire: rbac::Rbac) -> Result<Self, Unusable> {
        use rbac::rbac::Action;
        let rbac::Rbac { action, policies, audit_logging_options } = wire;
        unsupported("audit_logging_options", audit_logging_options.is_some())?;
        let policies: Result<Box<[Policy]>, Unusable> = policies
            .into_iter()
            .map(|(name, wire)| {
                Policy::decode(wire).map_err(|bad| bad.within(format_args!("policies[{name:?}]")))
            })
            .collect();
        match Action::try_from(action) {
            Ok(Action::Allow) => policies.map(Self::Allow),
            Ok(Action::Deny) => policies.map(Self::Deny),
            // Only sets metadata for access logs, which are configured for the whole proxy.
            Ok(Action::Log) => Err(Unusable::new("action", "LOG is not supported")),
            Err(_) => Err(Unusable::new("action", "is unknown")),
        }
    }
}

impl Policy {
    fn decode(wire: rbac::Policy) -> Result<Self, Unusable> {
        let rbac::Policy { permissions, principals, condition, checked_condition, cel_config } = wire;
        unsupported_any(&[
            ("condition", condition.is_some()),
            ("checked_condition", checked_condition.is_some()),
            ("cel_config", cel_config.is_some()),
        ])?;
        // An empty list would match nothing, and so leave a DENY policy without effect.
        required("permissions", permissions.first())?;
        required("principals", principals.first())?;
        Ok(Self {
            permissions: Condition::OneOf(each("permissions", permissions, Condition::permission)?.into()),
            principals: Condition::OneOf(each("principals", principals, Condition::principal)?.into()),
        })
    }

    fn matches(&self, request: &FilterRequest<'_>) -> bool {
        self.permissions.holds(request) && self.principals.holds(request)
    }
}

#[cfg(test)]
mod tests;
