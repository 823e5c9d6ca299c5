//! Rate limits across changes of the configuration: a limit that stays has the same buckets.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, Version};
use outrigger_config::snapshot::Snapshot;
use outrigger_core::identity::SpiffeId;
use outrigger_policy::filter::FilterConfig;
use outrigger_policy::header_match::Head;
use outrigger_policy::verdict::{FilterRequest, ResponseChanges, Source, Verdict, Workload};
use outrigger_proto::xds::local_ratelimit::LocalRateLimit;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{core, listener, route, type_url, types};

use crate::fixture::*;

#[derive(Debug)]
struct Nobody;

impl Workload for Nobody {
    fn identity(&self) -> Option<SpiffeId> {
        None
    }
}

fn limit(max_tokens: u32, status: i32) -> Any {
    let all = core::RuntimeFractionalPercent {
        default_value: Some(types::FractionalPercent { numerator: 100, denominator: 0 }),
        ..Default::default()
    };
    let wire = LocalRateLimit {
        stat_prefix: "limit".into(),
        token_bucket: Some(types::TokenBucket {
            max_tokens,
            tokens_per_fill: None,
            fill_interval: seconds(3600),
        }),
        filter_enabled: Some(all.clone()),
        filter_enforced: Some(all),
        status: Some(types::HttpStatus { code: status }),
        ..Default::default()
    };
    packed(type_url::LOCAL_RATE_LIMIT, &wire)
}

/// Returns how many requests pass a filter.
fn passing(filter: &FilterConfig) -> usize {
    let headers = HeaderMap::new();
    let head = Head { method: &Method::GET, scheme: "http", authority: "cart", path: "/", headers: &headers };
    let source = Source {
        identity: None,
        address: [10, 0, 0, 1].into(),
        port: 50_000,
        destination: "10.0.0.2:80".parse().unwrap(),
        server_name: None,
    };
    let request = FilterRequest {
        head,
        source,
        cluster: None,
        descriptors: None,
        version: Version::HTTP_11,
        has_body: false,
        body_length: None,
        workload: &Nobody,
        random: || 0,
        now: || Duration::from_secs(1),
        time_of_day: || SystemTime::UNIX_EPOCH,
        claims: &[],
    };
    let decide = |_: &i32| filter.decide(filter, &request, &mut ResponseChanges::default()) == Verdict::Admit;
    (0..100).take_while(decide).count()
}

/// The listener `cart:80` with this filter.
fn with_filter(name: &str, filter: Any) -> Any {
    let mut of = manager(rds(CART));
    of.http_filters.insert(0, http_filter(name, filter));
    let mut wire = destination("cart:80");
    let api_listener = Some(packed(type_url::HTTP_CONNECTION_MANAGER, &of));
    wire.api_listener = Some(listener::ApiListener { api_listener });
    listener_body(wire)
}

fn of_listener(snapshot: &Snapshot) -> usize {
    use outrigger_config::listener::Handler;
    match &snapshot.destination("cart:80").unwrap().handler {
        Handler::Http(manager) => passing(&manager.filters[0].config),
        other => panic!("{other:?}"),
    }
}

/// The route table with this limit for the filter `limit` in its first route.
fn with_override(limit: Any) -> Any {
    let mut wire = table(CART, CART);
    let typed_per_filter_config = [("limit".to_owned(), limit)].into();
    wire.virtual_hosts[0].routes = vec![route::Route { typed_per_filter_config, ..forward(CART) }];
    table_body(wire)
}

fn of_route(snapshot: &Snapshot) -> usize {
    let table = snapshot.routes.get(CART).unwrap();
    let (_, config) = table.hosts[0].routes[0].filters.configs().next().unwrap();
    passing(config)
}

#[test]
fn a_changed_limit_of_a_listener_gives_nobody_a_full_bucket() {
    let mut mesh = cart();
    let mut passes = |version, name, limit| {
        accept(&mut mesh, "cart:80", version, with_filter(name, limit));
        of_listener(&build(&mut mesh))
    };
    assert_eq!(passes("1", "limit", limit(3, 429)), 3);
    assert_eq!(passes("2", "limit", limit(3, 503)), 0);
    assert_eq!(passes("3", "limit", limit(5, 503)), 0);
    assert_eq!(passes("4", "other", limit(5, 503)), 5, "another filter is another limit");
}

#[test]
fn a_changed_limit_of_a_route_gives_nobody_a_full_bucket() {
    let mut mesh = cart();
    let mut passes = |version, limit| {
        accept(&mut mesh, CART, version, with_override(limit));
        of_route(&build(&mut mesh))
    };
    assert_eq!([passes("1", limit(3, 429)), passes("2", limit(4, 503))], [3, 0]);
}
