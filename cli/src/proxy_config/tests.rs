use serde_json::json;

use super::*;

fn plain(text: String) -> String {
    anstream::adapter::strip_str(&text).to_string()
}

fn page(dump: &str, list: &str, entries: Value) -> Value {
    let kind = format!("type.googleapis.com/envoy.admin.v3.{dump}");
    json!({ "configs": [{ "@type": "other" }, { "@type": kind, list: entries }] })
}

#[test]
fn a_listener_without_an_address_is_a_destination() {
    let metadata = |name: &str| json!({ "filter_metadata": { "outrigger.destination": { "name": name } } });
    let chain = json!({
        "filters": [{ "name": "envoy.filters.network.tcp_proxy" }], "metadata": metadata("b.shop.svc.cluster.local:9000"),
    });
    let cart = json!({
        "name": "cart:80", "traffic_direction": "OUTBOUND", "api_listener": {},
        "metadata": metadata("cart.shop.svc.cluster.local:80"),
    });
    let inbound = json!({
        "name": "inbound|10.0.0.1:9080", "traffic_direction": "INBOUND", "filter_chains": [chain],
        "address": { "socket_address": { "address": "10.0.0.1", "port_value": 9080 } },
    });
    let entries = json!([
        { "name": "cart:80", "active_state": { "listener": cart, "version_info": "1" } },
        { "name": "inbound|10.0.0.1:9080", "warming_state": { "listener": inbound, "version_info": "2" } },
    ]);
    let page = page("ListenersConfigDump", "dynamic_listeners", entries);
    let resources = dump::resources(&page, Kind::Listener);
    assert_eq!(
        plain(listeners::table(&resources, false)),
        "\
NAME                   ADDRESS        DIRECTION  PROTOCOL  DESTINATION                     STATUS
cart:80                -              outbound   HTTP      cart.shop.svc.cluster.local:80  ACKED
inbound|10.0.0.1:9080  10.0.0.1:9080  inbound    TCP       b.shop.svc.cluster.local:9000   WARMING
"
    );
    assert_eq!(resources[1].ports, [9080]);
}

#[test]
fn each_route_has_a_row_with_what_it_matches_and_where_it_leads() {
    let exact = |name: &str, value: &str| json!({ "name": name, "string_match": { "exact": value } });
    let routes = json!([
        {
            "name": "HTTPRoute shop/cart/0",
            "match": {
                "path_separated_prefix": "/cart", "headers": [exact(":method", "GET"), exact("x-canary", "yes")],
                "query_parameters": [exact("debug", "1")],
            },
            "route": { "cluster": "v2:80", "timeout": "3s", "retry_policy": { "num_retries": 2 } },
        },
        {
            "match": { "safe_regex": { "regex": "/a+" } },
            "route": { "timeout": "0s", "weighted_clusters": { "clusters": [
                { "name": "v1:80", "weight": 90 }, { "name": "v2:80", "weight": 18 },
            ] } },
        },
        { "match": { "path": "/old" }, "redirect": {} },
        { "match": { "prefix": "/" }, "direct_response": { "status": 500 } },
    ]);
    let config = json!({ "name": "cart:80", "virtual_hosts": [{ "domains": ["*"], "routes": routes }] });
    let entries = json!([{ "version_info": "7", "route_config": config }]);
    let page = page("RoutesConfigDump", "dynamic_route_configs", entries);
    let resources = dump::resources(&page, Kind::Route);
    assert_eq!(
        plain(routes::table(&resources, true)),
        "\
NAME     MATCH                              DESTINATION                   ROUTE                  DOMAINS  TIMEOUT  RETRIES  STATUS  VERSION
cart:80  GET /cart/* x-canary=yes ?debug=1  v2:80                         HTTPRoute shop/cart/0  *        3s       2        ACKED   7
cart:80  ~/a+                               v1:80 (83.3%), v2:80 (16.7%)  -                      *        none     -        ACKED   7
cart:80  /old                               redirect                      -                      *        -        -        ACKED   7
cart:80  /*                                 answer 500                    -                      *        -        -        ACKED   7
"
    );
}

#[test]
fn a_refused_resource_is_listed_with_the_reason() {
    let error = json!({ "failed_configuration": { "name": "cart:80" }, "details": "no such field" });
    let page = page("RoutesConfigDump", "dynamic_route_configs", json!([{ "error_state": error }]));
    let resources = dump::resources(&page, Kind::Route);
    let text = plain(routes::table(&resources, false) + &dump::refusals(&resources));
    assert_eq!(
        text,
        "\
NAME     MATCH  DESTINATION  ROUTE
cart:80  -      -            -

Refused, the last good version stays active:
NAME     REASON
cart:80  no such field
"
    );
}

#[test]
fn a_cluster_has_its_healthy_endpoints_and_its_protocol() {
    let http2 = json!({ "options": { "explicit_http_config": { "http2_protocol_options": {} } } });
    let cluster = json!({ "name": "cart:80", "type": "EDS", "typed_extension_protocol_options": http2 });
    let entries = json!([{ "cluster": cluster, "version_info": "1" }]);
    let page = page("ClustersConfigDump", "dynamic_active_clusters", entries);
    let usage = json!([{
        "name": "cart:80",
        "endpoints": [
            { "address": "10.0.0.1:80", "health": "healthy", "ejected": false, "tls": true, "latency_ewma_ms": 2.97 },
            { "address": "10.0.0.2:80", "health": "healthy", "ejected": true, "tls": true },
        ],
        "use": { "attempts": 7 },
    }]);
    assert_eq!(
        plain(clusters::table(&dump::resources(&page, Kind::Cluster), &usage, false)),
        "\
NAME     TYPE  PROTOCOL  HEALTHY  STATUS
cart:80  EDS   HTTP/2    1/2      ACKED
"
    );
    let clusters: Vec<_> = dump::list(&usage).iter().collect();
    assert_eq!(
        plain(endpoints::table(&clusters, false)),
        "\
ENDPOINT     HEALTH   EJECTED  TLS  CLUSTER
10.0.0.1:80  healthy  no       yes  cart:80
10.0.0.2:80  healthy  yes      yes  cart:80
"
    );
}

#[test]
fn the_certificate_is_followed_by_the_roots() {
    let page = json!({
        "spiffe_id": "spiffe://cluster.local/ns/shop/sa/cart", "serial": "0c5a", "not_after": "2026-11-29T11:12:12Z",
        "roots": [{ "trust_domain": "cluster.local", "subjects": ["CN=Root"] }],
    });
    assert_eq!(
        plain(certificates::table(&page, false, "2026-11-29T11:12:00Z".parse().unwrap())),
        "\
TYPE         NAME                                    SERIAL  ENDS
certificate  spiffe://cluster.local/ns/shop/sa/cart  0c5a    in 12s
root         cluster.local (CN=Root)                 -       -
"
    );
}

#[test]
fn a_name_has_a_namespace_and_a_port() {
    for (name, namespace, port) in [
        ("cart.shop.svc.cluster.local:80", Some("shop"), Some(80)),
        ("10.0.0.5:8080@cart.shop.svc.cluster.local:80", Some("shop"), Some(80)),
        ("cart:80", None, Some(80)),
        ("inbound|127.0.0.1:8080", None, Some(8080)),
        ("outbound", None, None),
    ] {
        assert_eq!(ServiceName::of(name), ServiceName { namespace, port }, "{name}");
    }
}
