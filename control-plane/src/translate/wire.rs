//! Small xDS values that many resources use: typed configs, durations, wrappers, addresses, matchers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_proto::xds::core::config_source::ConfigSourceSpecifier;
use outrigger_proto::xds::core::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, TransportSocket, address,
    socket_address, transport_socket,
};
use outrigger_proto::xds::matcher::{RegexMatcher, StringMatcher, string_matcher};
use outrigger_proto::xds::protobuf::{self, Any, BoolValue, Struct, UInt32Value, Value};
use outrigger_proto::xds::tls::SdsSecretConfig;
use prost::Message;

pub(super) fn any(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.into(), value: message.encode_to_vec() }
}

/// Returns a message without fields, such as the configuration of a filter that needs none.
pub(super) fn empty(type_url: &str) -> Any {
    Any { type_url: type_url.into(), value: Vec::new() }
}

/// Converts a duration. One that exceeds the range of the message becomes its maximum.
pub(super) fn duration(duration: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Some(protobuf::Duration { seconds, nanos: duration.subsec_nanos().cast_signed() })
}

pub(super) fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(super) fn text(text: &str) -> Value {
    Value { kind: Some(protobuf::value::Kind::StringValue(text.into())) }
}

/// Returns a struct of one field. With more fields the encoding would not be deterministic, since the map is unordered.
pub(super) fn field(key: &str, value: &str) -> Struct {
    Struct { fields: HashMap::from([(key.into(), text(value))]) }
}

pub(super) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3 as i32,
        ..Default::default()
    })
}

/// Refers to a secret that the proxy has itself. The source is set since the message requires one.
pub(super) fn secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.into(), sds_config: ads() }
}

pub(super) fn socket_address(socket: SocketAddr) -> Option<Address> {
    Some(Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: socket.ip().to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(socket.port().into())),
            ..Default::default()
        })),
    })
}

pub(super) fn transport_socket(name: &str, config: Any) -> Option<TransportSocket> {
    let config_type = Some(transport_socket::ConfigType::TypedConfig(config));
    Some(TransportSocket { name: name.into(), config_type })
}

pub(super) fn exact(value: &str) -> StringMatcher {
    let match_pattern = Some(string_matcher::MatchPattern::Exact(value.into()));
    StringMatcher { match_pattern, ..Default::default() }
}

pub(super) fn matching(expression: &str) -> StringMatcher {
    let match_pattern = Some(string_matcher::MatchPattern::SafeRegex(regex(expression)));
    StringMatcher { match_pattern, ..Default::default() }
}

pub(super) fn regex(expression: &str) -> RegexMatcher {
    RegexMatcher { regex: expression.into(), ..Default::default() }
}

pub(super) fn strings(names: &[Name]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}
