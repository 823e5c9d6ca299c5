//! How one endpoint is checked, where that differs from the checks of its cluster.

use std::net::SocketAddr;

use http::uri::Authority;
use outrigger_policy::field::Unusable;
use outrigger_proto::xds::endpoint::endpoint::HealthCheckConfig;

use crate::wire::socket_address;

/// What is particular to the active health checks of an endpoint (`Endpoint.HealthCheckConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointCheck {
    /// The address that is checked.
    pub address: Option<SocketAddr>,
    /// The port that is checked.
    pub port: Option<u16>,
    /// The authority of checks over HTTP.
    pub hostname: Option<Authority>,
    /// Whether it is not checked, and counts as one that passes.
    pub disabled: bool,
}

impl EndpointCheck {
    pub(super) fn decode(wire: HealthCheckConfig) -> Result<Self, Unusable> {
        let HealthCheckConfig { port_value, hostname, address, disable_active_health_check: disabled } = wire;
        let port = u16::try_from(port_value).map_err(|_| Unusable::new("port_value", "is no port"))?;
        let address = address.map(|address| socket_address(address).map_err(|bad| bad.within("address")));
        let hostname = (!hostname.is_empty()).then(|| Authority::try_from(hostname.as_str()));
        Ok(Self {
            address: address.transpose()?,
            port: (port > 0).then_some(port),
            hostname: hostname.transpose().map_err(|_| Unusable::new("hostname", "is no authority"))?,
            disabled,
        })
    }
}
