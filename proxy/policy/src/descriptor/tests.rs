use http::{HeaderMap, HeaderValue, Method};
use outrigger_proto::xds::protobuf;

use super::*;

/// Returns the entries that an action makes of a request.
fn made(wire: action::ActionSpecifier) -> Option<Descriptor> {
    let mut headers = HeaderMap::new();
    headers.append("x-a", HeaderValue::from_static("1"));
    headers.append("x-a", HeaderValue::from_static("2"));
    let path = "/pay?user=a%20b&x";
    let head = Head { method: &Method::GET, scheme: "http", authority: "cart", path, headers: &headers };
    let (address, cluster) = ("::ffff:10.1.2.3".parse().unwrap(), Some("cart"));
    let subject = Subject { head, identity: None, address, cluster };
    let rule = route::RateLimit {
        actions: vec![rate_limit::Action { action_specifier: Some(wire) }],
        ..Default::default()
    };
    DescriptorRule::decode(rule).unwrap().descriptor(&subject)
}

fn entry(key: &str, value: &str) -> Option<Descriptor> {
    Some(vec![(key.to_owned(), value.to_owned())])
}

#[test]
fn actions_make_entries_of_what_they_find() {
    use action::ActionSpecifier as Wire;
    let field = |name: &str| {
        Wire::RequestHeaders(action::RequestHeaders {
            header_name: name.into(),
            descriptor_key: "k".into(),
            skip_if_absent: false,
        })
    };
    let query = |name: &str| {
        Wire::QueryParameters(action::QueryParameters {
            query_parameter_name: name.into(),
            descriptor_key: "k".into(),
            skip_if_absent: false,
        })
    };
    let header_match = |name: &str, expect| {
        Wire::HeaderValueMatch(action::HeaderValueMatch {
            descriptor_value: "v".into(),
            headers: vec![route::HeaderMatcher { name: name.into(), ..Default::default() }],
            expect_match: Some(protobuf::BoolValue { value: expect }),
            ..Default::default()
        })
    };
    let identity = |default: &str| {
        Wire::GenericKey(action::GenericKey {
            descriptor_value: IDENTITY.into(),
            default_value: default.into(),
            descriptor_key: "caller".into(),
        })
    };
    let network = action::MaskedRemoteAddress {
        v4_prefix_mask_len: Some(protobuf::UInt32Value { value: 16 }),
        v6_prefix_mask_len: None,
    };
    for (wire, expected) in [
        (field("X-A"), entry("k", "1,2")),
        (field(":path"), entry("k", "/pay?user=a%20b&x")),
        (field("x-b"), None),
        (query("user"), entry("k", "a%20b")),
        (query("x"), entry("k", "")),
        (query("y"), None),
        (header_match("x-a", true), entry("header_match", "v")),
        (header_match("x-a", false), None),
        (header_match("x-b", false), entry("header_match", "v")),
        (identity("nobody"), entry("caller", "nobody")),
        (identity(""), None),
        (Wire::RemoteAddress(action::RemoteAddress {}), entry("remote_address", "10.1.2.3")),
        (Wire::MaskedRemoteAddress(network), entry("masked_remote_address", "10.1.0.0/16")),
        (Wire::DestinationCluster(action::DestinationCluster {}), entry("destination_cluster", "cart")),
    ] {
        assert_eq!(made(wire), expected);
    }
}

#[test]
fn actions_that_cannot_be_honoured_are_refused_by_field() {
    use action::ActionSpecifier as Wire;
    let refused =
        |wire| Action::decode(rate_limit::Action { action_specifier: Some(wire) }).unwrap_err().field;
    let long = action::MaskedRemoteAddress {
        v4_prefix_mask_len: Some(protobuf::UInt32Value { value: 33 }),
        v6_prefix_mask_len: None,
    };
    for (wire, field) in [
        (Wire::SourceCluster(action::SourceCluster {}), "source_cluster"),
        (Wire::Metadata(Default::default()), "metadata"),
        (Wire::MaskedRemoteAddress(long), "masked_remote_address.v4_prefix_mask_len"),
        (Wire::HeaderValueMatch(Default::default()), "header_value_match.headers"),
        (Wire::RequestHeaders(Default::default()), "request_headers.header_name"),
        (Wire::QueryParameters(Default::default()), "query_parameters.descriptor_key"),
    ] {
        assert_eq!(refused(wire), field);
    }
    assert_eq!(checked_stage(11).unwrap_err().field, "stage");
}
