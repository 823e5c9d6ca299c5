//! Who may call what (`RBAC` of `envoy.extensions.filters.http.rbac.v3` and `envoy.extensions.filters.network.rbac.v3`): a
//! request or connection is allowed or refused by the verified identity and the address of its caller, and by what it requests.
//!
//! Rules that are only audited (`shadow_rules`) are evaluated in the same way and refuse nothing.

mod condition;
mod claims;

use http::StatusCode;
use outrigger_core::Name;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::{network_rbac, rbac, rbac_filter};

use crate::field::{Unusable, each, non_empty, required, unsupported, unsupported_any};
use crate::header_match::Head;
use crate::verdict::{NamedClaims, Source, Verdict};
use condition::{Condition, Scope};

/// The name of no policy: what refuses a request that no policy of an `ALLOW` filter matches, as in Envoy's logs.
const NONE: &str = "none";

/// The rules of a filter.
#[derive(Debug, Clone)]
pub struct Rbac {
    /// Without rules, everything is allowed.
    enforced: Option<Rules>,
    audited: Option<Rules>,
}

/// What a caller requests: the head of the request, and the claims of its verified tokens.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its head.
    pub head: &'a Head<'a>,
    /// The claims of its verified tokens.
    pub claims: &'a [NamedClaims],
}

/// What the rules of a filter, or of several, decide about a request or connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The policy that refuses it, or `none` if no policy allows it. It is for records; clients are not told.
    pub denied_by: Option<&'a Name>,
    /// The policy of the audited rules that would refuse it, or `none`.
    pub audit_denied_by: Option<&'a Name>,
}

#[derive(Debug, Clone)]
struct Rules {
    action: Action,
    /// In the order of their names, so that the first one that matches is always the same.
    policies: Box<[Policy]>,
    none: Name,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    /// A request must satisfy one of the policies.
    Allow,
    /// A request must satisfy none of the policies.
    Deny,
}

/// Requests and callers.
#[derive(Debug, Clone)]
struct Policy {
    name: Name,
    permissions: Condition,
    principals: Condition,
}

impl Rbac {
    /// Decodes the HTTP filter. Without rules it allows every request.
    pub fn decode(wire: rbac_filter::Rbac) -> Result<Self, Unusable> {
        let rbac_filter::Rbac {
            rules,
            rules_stat_prefix: _, // refusals are counted by policy
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix: _, // refusals are counted by policy
            track_per_rule_stats: _,     // always
        } = wire;
        unsupported_any(&[("matcher", matcher.is_some()), ("shadow_matcher", shadow_matcher.is_some())])?;
        Self::new(rules, shadow_rules, Scope::Request)
    }

    /// Decodes a filter's configuration for a route. Without one, the filter allows every request of the route.
    pub fn decode_for_route(wire: rbac_filter::RbacPerRoute) -> Result<Self, Unusable> {
        let rbac_filter::RbacPerRoute { rbac } = wire;
        let rbac = rbac.map(|wire| Self::decode(wire).map_err(|bad| bad.within("rbac")));
        Ok(rbac.transpose()?.unwrap_or(Self { enforced: None, audited: None }))
    }

    /// Decodes the network filter. Conditions on requests are refused: a connection has none.
    pub(crate) fn decode_for_connection(wire: network_rbac::Rbac) -> Result<Self, Unusable> {
        let network_rbac::Rbac {
            rules,
            matcher,
            shadow_rules,
            shadow_matcher,
            shadow_rules_stat_prefix: _, // refusals are counted by policy
            stat_prefix,
            enforcement_type: _, // decided before the first byte, and again when the configuration changes
            delay_deny,
        } = wire;
        unsupported_any(&[
            ("matcher", matcher.is_some()),
            ("shadow_matcher", shadow_matcher.is_some()),
            ("delay_deny", delay_deny.is_some()),
        ])?;
        non_empty("stat_prefix", stat_prefix)?; // required as in Envoy, but not used
        Self::new(rules, shadow_rules, Scope::Connection)
    }

    fn new(rules: Option<rbac::Rbac>, shadow_rules: Option<rbac::Rbac>, on: Scope) -> Result<Self, Unusable> {
        let decode = |field: &'static str, wire: Option<rbac::Rbac>| match wire {
            Some(wire) => Rules::decode(wire, on).map_err(|bad| bad.within(field)),
            None => Ok(None),
        };
        Ok(Self { enforced: decode("rules", rules)?, audited: decode("shadow_rules", shadow_rules)? })
    }

    /// Decides about a connection, or about a request on it.
    pub fn decide(&self, source: &Source<'_>, asked: Option<Asked<'_>>) -> Decision<'_> {
        Decision {
            denied_by: self.enforced.as_ref().and_then(|rules| rules.denied_by(source, asked)),
            audit_denied_by: self.audited.as_ref().and_then(|rules| rules.denied_by(source, asked)),
        }
    }
}

impl Decision<'_> {
    /// Returns the verdict for an HTTP request.
    pub fn verdict(self) -> Verdict {
        match self.denied_by {
            Some(_) => Verdict::refuse(Reason::AccessDenied, StatusCode::FORBIDDEN),
            None => Verdict::Admit,
        }
    }
}

impl Rules {
    /// Decodes rules. Returns `None` if they never refuse anything.
    fn decode(wire: rbac::Rbac, on: Scope) -> Result<Option<Self>, Unusable> {
        use rbac::rbac::Action as Wire;
        let rbac::Rbac { action, policies, audit_logging_options } = wire;
        unsupported("audit_logging_options", audit_logging_options.is_some())?;
        let decode = |(name, wire): (String, _)| {
            let bad = |bad: Unusable| bad.within(format_args!("policies[{name:?}]"));
            Policy::decode(name.as_str().into(), wire, on).map_err(bad)
        };
        let mut policies = policies.into_iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        policies.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let action = match Wire::try_from(action) {
            Ok(Wire::Allow) => Action::Allow,
            Ok(Wire::Deny) => Action::Deny,
            // Allows everything. It asks for access log lines, which are written for every request anyway.
            Ok(Wire::Log) => return Ok(None),
            Err(_) => return Err(Unusable::new("action", "is unknown")),
        };
        Ok(Some(Self { action, policies: policies.into(), none: NONE.into() }))
    }

    /// Returns the policy that refuses a request or connection, or [`NONE`] if no policy allows it.
    fn denied_by(&self, source: &Source<'_>, asked: Option<Asked<'_>>) -> Option<&Name> {
        let matching = self.policies.iter().find(|policy| policy.matches(source, asked));
        match (self.action, matching) {
            (Action::Allow, Some(_)) | (Action::Deny, None) => None,
            (Action::Allow, None) => Some(&self.none),
            (Action::Deny, Some(policy)) => Some(&policy.name),
        }
    }
}

impl Policy {
    fn decode(name: Name, wire: rbac::Policy, on: Scope) -> Result<Self, Unusable> {
        let rbac::Policy { permissions, principals, condition, checked_condition, cel_config } = wire;
        unsupported_any(&[
            ("condition", condition.is_some()),
            ("checked_condition", checked_condition.is_some()),
            ("cel_config", cel_config.is_some()),
        ])?;
        // An empty list would match nothing, and so leave a DENY policy without effect.
        required("permissions", permissions.first())?;
        required("principals", principals.first())?;
        let permission = |wire| Condition::permission(wire, on);
        let principal = |wire| Condition::principal(wire, on);
        Ok(Self {
            name,
            permissions: Condition::OneOf(each("permissions", permissions, permission)?.into()),
            principals: Condition::OneOf(each("principals", principals, principal)?.into()),
        })
    }

    fn matches(&self, source: &Source<'_>, asked: Option<Asked<'_>>) -> bool {
        self.permissions.holds(source, asked) && self.principals.holds(source, asked)
    }
}

#[cfg(test)]
mod tests;
