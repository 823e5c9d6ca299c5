//! Which upgrades are allowed (`HttpConnectionManager.upgrade_configs`, `RouteAction.upgrade_configs`).
//!
//! A protocol that neither the route nor the listener lists is not offered to the application. Envoy answers 403, unless it
//! is configured to ignore the upgrade (`ignore_http_11_upgrade`). Here it is always ignored (RFC 9110 section 7.8).

use http::HeaderValue;
use outrigger_proto::xds::hcm::http_connection_manager;
use outrigger_proto::xds::route::route_action;

use crate::field::{Unusable, each, unsupported_any};

/// Matches every protocol that is not listed by name. An extension of ours: to Envoy, it is the name of an unused protocol.
pub const ANY: &str = "*";

/// The upgrades that a listener or a route allows or denies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upgrades(Box<[(Box<str>, bool)]>);

impl Upgrades {
    /// Allows upgrades to any protocol.
    pub fn any() -> Self {
        Self(Box::new([(ANY.into(), true)]))
    }

    /// Decodes a listener's list.
    pub fn of_listener(wire: Vec<http_connection_manager::UpgradeConfig>) -> Result<Self, Unusable> {
        Self::read(wire, |upgrade| {
            let http_connection_manager::UpgradeConfig { upgrade_type, filters, enabled } = upgrade;
            unsupported_any(&[("filters", !filters.is_empty())])?;
            Ok((upgrade_type, enabled.is_none_or(|enabled| enabled.value)))
        })
    }

    /// Decodes a route's list, which takes precedence over its listener's.
    pub fn of_route(wire: Vec<route_action::UpgradeConfig>) -> Result<Self, Unusable> {
        Self::read(wire, |upgrade| {
            let route_action::UpgradeConfig { upgrade_type, enabled, connect_config } = upgrade;
            unsupported_any(&[("connect_config", connect_config.is_some())])?;
            Ok((upgrade_type, enabled.is_none_or(|enabled| enabled.value)))
        })
    }

    fn read<W>(wire: Vec<W>, open: impl Fn(W) -> Result<(String, bool), Unusable>) -> Result<Self, Unusable> {
        let mut seen: Vec<(Box<str>, bool)> = Vec::new();
        each("upgrade_configs", wire, |upgrade| {
            let (name, enabled) = open(upgrade)?;
            if name.is_empty() {
                return Err(Unusable::new("upgrade_type", "is required"));
            }
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            // CONNECT opens a tunnel, only on the proxy port, to the authority that it names. It is never forwarded.
            if enabled && (is("CONNECT") || is("CONNECT-UDP")) {
                return Err(Unusable::new("upgrade_type", format_args!("{name:?} is not supported")));
            }
            if seen.iter().any(|(other, _)| is(other)) {
                return Err(Unusable::new("upgrade_type", format_args!("{name:?} is listed twice")));
            }
            seen.push((name.into(), enabled));
            Ok(())
        })?;
        Ok(Self(seen.into()))
    }

    /// Returns whether an upgrade to `protocol`, one element of `Upgrade`, is allowed, or `None` if it is not listed.
    pub fn allow(&self, protocol: &HeaderValue) -> Option<bool> {
        let listed = |name: &str| {
            let found = self.0.iter().find(|(other, _)| name.eq_ignore_ascii_case(other));
            found.map(|(_, enabled)| *enabled)
        };
        protocol.to_str().ok().and_then(listed).or_else(|| listed(ANY))
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::protobuf::BoolValue;

    use super::*;

    fn listener(listed: &[(&str, Option<bool>)]) -> Result<Upgrades, Unusable> {
        let wire = listed.iter().map(|(name, enabled)| http_connection_manager::UpgradeConfig {
            upgrade_type: (*name).into(),
            enabled: enabled.map(|value| BoolValue { value }),
            filters: Vec::new(),
        });
        Upgrades::of_listener(wire.collect())
    }

    fn allow(upgrades: &Upgrades, protocol: &'static str) -> Option<bool> {
        upgrades.allow(&HeaderValue::from_static(protocol))
    }

    #[test]
    fn what_is_listed_passes_and_nothing_is_said_of_the_rest() {
        let upgrades = listener(&[("websocket", None), ("tcp", Some(false))]).unwrap();
        assert_eq!(allow(&upgrades, "WebSocket"), Some(true));
        assert_eq!(allow(&upgrades, "tcp"), Some(false));
        assert_eq!(allow(&upgrades, "websocket/2"), None, "a protocol is compared with its version");
    }

    #[test]
    fn a_star_is_for_all_that_have_no_name_there() {
        let upgrades = listener(&[("tcp", Some(false)), (ANY, None)]).unwrap();
        assert_eq!((allow(&upgrades, "tcp"), allow(&upgrades, "SPDY/3.1")), (Some(false), Some(true)));
        assert_eq!(allow(&Upgrades::any(), "a, b"), Some(true));
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        let field = |listed: &[_]| listener(listed).unwrap_err().to_string();
        assert!(field(&[("", None)]).contains("upgrade_type"));
        assert!(field(&[("CONNECT", None)]).contains("not supported"));
        assert!(listener(&[("CONNECT", Some(false))]).is_ok());
        assert!(field(&[("a", None), ("A", None)]).contains("twice"));
        let connect = route_action::UpgradeConfig {
            upgrade_type: "tcp".into(),
            enabled: None,
            connect_config: Some(route_action::upgrade_config::ConnectConfig::default()),
        };
        assert!(Upgrades::of_route(vec![connect]).unwrap_err().to_string().contains("connect_config"));
    }
}
