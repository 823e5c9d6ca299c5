//! Which upgrades pass (`HttpConnectionManager.upgrade_configs`, `RouteAction.upgrade_configs`).
//!
//! What neither the route nor the listener lists is not offered to the application. Envoy answers 403, unless it is told to
//! ignore such an offer (`ignore_http_11_upgrade`); here it is always ignored, as a server may (RFC 9110 section 7.8).

use http::HeaderValue;
use outrigger_proto::xds::hcm::http_connection_manager;
use outrigger_proto::xds::route::route_action;

use crate::field::{Unusable, each, unsupported_any};

/// Every protocol that is not listed by name. A word of ours, which Envoy takes for a protocol that nobody asks for.
pub const ANY: &str = "*";

/// What a listener or a route says of upgrades.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upgrades(Box<[(Box<str>, bool)]>);

impl Upgrades {
    /// Upgrades to any protocol.
    pub fn any() -> Self {
        Self(Box::new([(ANY.into(), true)]))
    }

    /// Reads what a listener says.
    pub fn of_listener(wire: Vec<http_connection_manager::UpgradeConfig>) -> Result<Self, Unusable> {
        Self::read(wire, |upgrade| {
            let http_connection_manager::UpgradeConfig { upgrade_type, filters, enabled } = upgrade;
            unsupported_any(&[("filters", !filters.is_empty())])?;
            Ok((upgrade_type, enabled.is_none_or(|enabled| enabled.value)))
        })
    }

    /// Reads what a route says, which counts before what its listener says.
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
            // CONNECT leads to where it says, for clients of the proxy port alone; none is forwarded as a request.
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

    /// Whether an upgrade to `protocol`, one of those that `Upgrade` lists, passes; `None` when nothing is said of it.
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
