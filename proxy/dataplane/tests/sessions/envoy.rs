//! Sessions beside a real Envoy: what one of the two issues, the other honours. `tests/heavier envoy` runs this.

use std::net::SocketAddr;
use std::process::{Child, Command};

use outrigger_config::cluster::{Balancing, Cluster};
use outrigger_proto::xds::cookie_session::CookieBasedSessionState;
use outrigger_proto::xds::http_types::{Cookie, CookieAttribute};
use outrigger_proto::xds::protobuf::Duration;
use outrigger_proto::xds::{extension, type_url};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::Response;
use outrigger_test_support::wait::eventually;
use tokio::net::{TcpListener, TcpStream};

use super::support::cluster;
use super::{applications, by_header, list, packed, proxy, sessions, to_app};

const PER_ROUTE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute";

/// An Envoy with the same sessions as the proxies of [`envoy_and_we_honour_the_sessions_of_each_other`]: a host for each of them.
struct Envoy(Child, SocketAddr);

impl Envoy {
    async fn start(applications: &[Application], states: &[(&str, &str)]) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let at = |of: SocketAddr| {
            format!("{{socket_address: {{address: {}, port_value: {}}}}}", of.ip(), of.port())
        };
        let endpoint = |of: &Application| format!("{{endpoint: {{address: {}}}}}", at(of.address));
        let endpoints = applications.iter().map(endpoint).collect::<Vec<_>>().join(", ");
        let host = |(name, state): &(&str, &str)| {
            // Envoy finds the extension by its name.
            let extension =
                if *name == "header" { extension::HEADER_SESSION } else { extension::COOKIE_SESSION };
            format!(
                r#"{{name: {name}, domains: [{name}], routes: [{{match: {{prefix: "/"}}, route: {{cluster: app}}}}],
                typed_per_filter_config: {{sessions: {{"@type": {PER_ROUTE}, stateful_session: {{session_state: {{name: {extension}, typed_config: {state}}}}}}}}}}}"#
            )
        };
        let (front, hosts) = (at(address), states.iter().map(host).collect::<Vec<_>>().join(", "));
        let bootstrap = format!(
            r#"static_resources:
  listeners:
  - address: {front}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          http_filters:
          - name: sessions
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession}}
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts: [{hosts}]
  clusters:
  - name: app
    connect_timeout: 5s
    load_assignment: {{cluster_name: app, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}
"#
        );
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("envoy.yaml");
        std::fs::write(&file, bootstrap).unwrap();
        let flags = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"];
        let mut envoy = Command::new(std::env::var("OUTRIGGER_ENVOY").unwrap());
        let envoy = Self(envoy.arg("-c").arg(&file).args(flags).spawn().unwrap(), address);
        eventually("an Envoy", async || TcpStream::connect(address).await.ok()).await;
        envoy
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a response gives a client to repeat, and the attributes of a cookie.
fn given(response: &Response) -> Option<(String, String)> {
    let cookie = response.field("set-cookie").map(|line| line.split_once(';').unwrap_or((line, "")));
    let cookie = cookie.map(|(pair, rest)| (format!("Cookie: {pair}\r\n"), rest.to_owned()));
    cookie.or_else(|| Some((format!("X-At: {}\r\n", response.field("x-at")?), String::new())))
}

#[tokio::test]
#[ignore = "needs Envoy, in the variable OUTRIGGER_ENVOY: see tests/heavier envoy"]
async fn envoy_and_we_honour_the_sessions_of_each_other() {
    const STATE: &str = "type.googleapis.com/envoy.extensions.http.stateful_session";
    let cookie = |cookie| packed(type_url::COOKIE_SESSION, &CookieBasedSessionState { cookie: Some(cookie) });
    let of_cookie = |cookie: &str| {
        format!(r#"{{"@type": {STATE}.cookie.v3.CookieBasedSessionState, cookie: {{{cookie}}}}}"#)
    };
    let attributes = [("SameSite", "Lax"), ("Secure", "")];
    let attribute = |(name, value): (&str, &str)| CookieAttribute { name: name.into(), value: value.into() };
    let minute = Some(Duration { seconds: 60, nanos: 500_000_000 });
    let lasting = Cookie { name: "at".into(), ttl: minute, path: "/".into(), ..Default::default() };
    let attributes = attributes.map(attribute).into();
    let below = Cookie { name: "at".into(), path: "/a".into(), attributes, ..Default::default() };
    let anywhere = Cookie { name: "at".into(), ..Default::default() };
    let states = [
        ("lasting", cookie(lasting), of_cookie("name: at, ttl: 60.5s, path: /")),
        (
            "below",
            cookie(below),
            of_cookie("name: at, path: /a, attributes: [{name: SameSite, value: Lax}, {name: Secure}]"),
        ),
        ("anywhere", cookie(anywhere), of_cookie("name: at")),
        (
            "header",
            by_header(),
            format!(r#"{{"@type": {STATE}.header.v3.HeaderBasedSessionState, name: x-at}}"#),
        ),
    ];
    let applications = applications(3).await;
    let of_envoy: Vec<_> = states.iter().map(|(name, _, state)| (*name, state.as_str())).collect();
    let envoy = Envoy::start(&applications, &of_envoy).await;
    for (host, state, _) in states {
        let cluster = Cluster { balancing: Balancing::RoundRobin, ..cluster("app", list(&applications)) };
        let ours = proxy([cluster], sessions(state, false), to_app());
        let both = [envoy.1, ours.address(0)];
        let get = async |of: SocketAddr, path: &str, fields: &str| {
            let host = if of == envoy.1 { host } else { "app" };
            let response = Client::connect(of).await.request("GET", host, path, fields).await;
            assert_eq!(response.status, 200, "{host} {path}: {response:?}");
            response
        };
        for [issuer, reader] in [[both[0], both[1]], [both[1], both[0]]] {
            for _ in 0..3 {
                let first = get(issuer, "/a/b", "").await;
                let (fields, _) = given(&first).unwrap();
                for _ in 0..4 {
                    let next = get(reader, "/a/b", &fields).await;
                    assert_eq!(
                        (next.body.as_str(), given(&next)),
                        (first.body.as_str(), None),
                        "{host} {fields}"
                    );
                }
            }
        }
        for path in ["/", "/a", "/a/", "/a/b?c", "/a?b", "/ab", "/b/a"] {
            let [theirs, ours] = [given(&get(both[0], path, "").await), given(&get(both[1], path, "").await)];
            let attributes = |of: Option<(String, String)>| of.map(|(_, attributes)| attributes);
            assert_eq!(attributes(ours), attributes(theirs), "{host} {path}");
        }
        // What is no address, and the address of no endpoint (192.0.2.1:80), begin a new session.
        for value in ["", "%", "bm90aGluZw==", "MTkyLjAuMi4xOjgw", "Cg4xOTIuMC4yLjE6ODA="] {
            let fields = format!("Cookie: at={value}\r\nX-At: {value}\r\n");
            for of in both {
                assert!(given(&get(of, "/a", &fields).await).is_some(), "{host} {value}");
            }
        }
    }
}
