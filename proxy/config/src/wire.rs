//! Decoding of small messages that several resources share.

use std::net::{IpAddr, SocketAddr};

use outrigger_policy::field::{Unusable, required, unsupported_any};
use outrigger_proto::xds::core;
use outrigger_proto::xds::protobuf::{Struct, value::Kind};

/// Decodes a numeric TCP address.
pub(crate) fn socket_address(wire: core::Address) -> Result<SocketAddr, Unusable> {
    use core::address::Address;
    use core::socket_address::PortSpecifier;
    let core::Address { address } = wire;
    let socket = match required("address", address)? {
        Address::SocketAddress(socket) => socket,
        Address::Pipe(_) => return Err(Unusable::new("pipe", "is not supported")),
        Address::EnvoyInternalAddress(_) => {
            return Err(Unusable::new("envoy_internal_address", "is not supported"));
        }
    };
    let core::SocketAddress {
        protocol,
        address,
        resolver_name,
        // Would let IPv4 clients connect to an IPv6 socket; both families need two listeners here.
        ipv4_compat: _,
        network_namespace_filepath,
        port_specifier,
    } = socket;
    let within = |bad: Unusable| bad.within("socket_address");
    unsupported_any(&[
        ("protocol", protocol != core::socket_address::Protocol::Tcp as i32),
        ("resolver_name", !resolver_name.is_empty()),
        ("network_namespace_filepath", !network_namespace_filepath.is_empty()),
    ])
    .map_err(within)?;
    let ip: IpAddr = address
        .parse()
        .map_err(|_| within(Unusable::new("address", format_args!("{address:?} is no IP address"))))?;
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port)
            .map_err(|_| within(Unusable::new("port_value", format_args!("{port} is no port"))))?,
        Some(PortSpecifier::NamedPort(_)) => {
            return Err(within(Unusable::new("named_port", "is not supported")));
        }
        None => return Err(within(Unusable::new("port_specifier", "is required"))),
    };
    Ok(SocketAddr::new(ip, port))
}

/// Returns an error if a config source is not the ADS stream that this resource came on.
#[allow(deprecated)] // `path` is still sent
pub(crate) fn from_ads(field: &str, source: Option<core::ConfigSource>) -> Result<(), Unusable> {
    use core::config_source::ConfigSourceSpecifier;
    let core::ConfigSource {
        // Names other servers, which are refused below.
        authorities: _,
        // Warming has one timeout for all resources.
        initial_fetch_timeout: _,
        // Only v3 exists.
        resource_api_version: _,
        config_source_specifier,
    } = required(field, source)?;
    let other = match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => return Ok(()),
        None => return Err(Unusable::new(field, "must be ads or self")),
        Some(ConfigSourceSpecifier::Path(_)) => "path",
        Some(ConfigSourceSpecifier::PathConfigSource(_)) => "path_config_source",
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => "api_config_source",
    };
    Err(Unusable::new(format!("{field}.{other}"), "is not supported: must be ads or self"))
}

/// Returns the string value of a `Struct` field.
pub(crate) fn string_field<'a>(of: &'a Struct, field: &str) -> Option<&'a str> {
    match &of.fields.get(field)?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}
