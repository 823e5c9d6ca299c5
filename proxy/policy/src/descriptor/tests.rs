use http::{HeaderMap, HeaderValue, Method};
use outrigger_proto::xds::protobuf;
use serde_json::json;

use super::*;

/// Returns the entries that an action makes of a request.
fn made(wire: action::ActionSpecifier) -> Option<Descriptor> {
    described(vec![rate_limit::Action { action_specifier: Some(wire) }])
}

/// Returns the descriptor that actions make of a request.
fn described(actions: Vec<rate_limit::Action>) -> Option<Descriptor> {
    let mut headers = HeaderMap::new();
    headers.append("x-a", HeaderValue::from_static("1"));
    headers.append("x-a", HeaderValue::from_static("2"));
    let path = "/pay?user=a%20b&x";
    let head = Head { method: &Method::GET, scheme: "http", authority: "cart", path, headers: &headers };
    let (address, cluster) = ("::ffff:10.1.2.3".parse().unwrap(), Some("cart"));
    let claims = json!({ "sub": "ann", "level": 7, "realm": { "name": "east" }, "team": "" });
    let claims = [("jwt".into(), Arc::new(claims.as_object().unwrap().clone()))];
    let subject = Subject { head, identity: None, address, cluster, claims: &claims };
    let rule = route::RateLimit { actions, ..Default::default() };
    DescriptorRule::decode(rule).unwrap().descriptor(&subject)
}

/// The action for a claim under the name `jwt`.
fn claim(path: &[&str], default: &str) -> action::MetaData {
    let segment = |key: &&str| PathSegment { segment: Some(Segment::Key((*key).into())) };
    let path = ["jwt"].iter().chain(path).map(segment).collect();
    action::MetaData {
        descriptor_key: "k".into(),
        metadata_key: Some(MetadataKey { key: "envoy.filters.http.jwt_authn".into(), path }),
        default_value: default.into(),
        ..Default::default()
    }
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
        (Wire::Metadata(claim(&["sub"], "")), entry("k", "ann")),
        (Wire::Metadata(claim(&["realm", "name"], "")), entry("k", "east")),
        (Wire::Metadata(claim(&["level"], "")), None),
        (Wire::Metadata(claim(&["team"], "none")), entry("k", "none")),
        (Wire::Metadata(claim(&["missing"], "")), None),
        (Wire::Metadata(claim(&["missing"], "none")), entry("k", "none")),
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
    let mut of_other_filter = claim(&["sub"], "");
    of_other_filter.metadata_key.as_mut().unwrap().key = "envoy.lua".into();
    let mut of_element = claim(&["sub"], "");
    of_element.metadata_key.as_mut().unwrap().path[1].segment = Some(Segment::Index(0));
    for (wire, field) in [
        (Wire::SourceCluster(action::SourceCluster {}), "source_cluster"),
        (Wire::Metadata(Default::default()), "metadata.metadata_key"),
        (Wire::Metadata(action::MetaData { source: 1, ..claim(&["sub"], "") }), "metadata.source"),
        (Wire::Metadata(claim(&[], "")), "metadata.metadata_key.path"),
        (
            Wire::Metadata(action::MetaData { descriptor_key: String::new(), ..claim(&["sub"], "") }),
            "metadata.descriptor_key",
        ),
        (Wire::Metadata(of_other_filter), "metadata.metadata_key.key"),
        (Wire::Metadata(of_element), "metadata.metadata_key.path[1].index"),
        (Wire::MaskedRemoteAddress(long), "masked_remote_address.v4_prefix_mask_len"),
        (Wire::HeaderValueMatch(Default::default()), "header_value_match.headers"),
        (Wire::RequestHeaders(Default::default()), "request_headers.header_name"),
        (Wire::QueryParameters(Default::default()), "query_parameters.descriptor_key"),
    ] {
        assert_eq!(refused(wire), field);
    }
    assert_eq!(checked_stage(11).unwrap_err().field, "stage");
}

#[test]
fn an_action_that_may_be_left_out_leaves_the_rest_of_the_descriptor() {
    let claim = action::MetaData { skip_if_absent: true, ..claim(&["missing"], "") };
    let fixed = action::GenericKey { descriptor_value: "v".into(), ..Default::default() };
    let of = |specifier| rate_limit::Action { action_specifier: Some(specifier) };
    let actions =
        vec![of(action::ActionSpecifier::Metadata(claim)), of(action::ActionSpecifier::GenericKey(fixed))];
    assert_eq!(described(actions), entry("generic_key", "v"));
}
