//! BackendTrafficPolicies, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{ok, status};
use outrigger_test_support::wait::eventually;
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::Sidecar;
use tokio::sync::watch;

/// A policy of a Service of namespace `shop`, which has its name.
fn policy(service: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: BackendTrafficPolicy\n\
         metadata: {{name: {service}, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: {service}}}], {spec}}}\n"
    )
}

/// Starts an application that answers requests for `/hold` once the sender has sent true, and others at once.
async fn holding() -> (Application, watch::Sender<bool>) {
    let (release, released) = watch::channel(false);
    let app = Application::raw(move |mut connection| {
        let mut released = released.clone();
        async move {
            while let Some(request) = connection.request().await {
                if request.path() == "/hold" && released.wait_for(|released| *released).await.is_err() {
                    break;
                }
                if connection.send(ok("held")).await.is_err() {
                    break;
                }
            }
        }
    });
    (app.await, release)
}

/// Sends requests that the application holds, and waits until it has read all of them.
async fn hold(sidecar: &Sidecar, host: &str, app: &Application, count: usize) -> Vec<Client> {
    let (before, mut clients) = (app.requests(), Vec::new());
    for _ in 0..count {
        let mut client = sidecar.client().await;
        client.send(format!("GET /hold HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        clients.push(client);
    }
    eventually("requests that are held", async || (app.requests() == before + count).then_some(())).await;
    clients
}

/// Sends a GET. Returns its status, and the reason of a response that the sidecar made.
async fn outcome(sidecar: &Sidecar, host: &str) -> (u16, String) {
    let response = sidecar.get(host, "/").await;
    (response.status, response.reason().to_owned())
}

#[tokio::test]
async fn each_port_has_the_limit_of_its_policy() {
    let mesh = Mesh::start(&example(0)).await;
    let ((payments, paid), (reports, reported)) = (holding().await, holding().await);
    let served = mesh.sidecar("payments").serves("payments:80", payments.address);
    let _served = served.serves("payments:81", reports.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let overflow = (503, "upstream_overflow".to_owned());
    for (host, app, release, limit) in
        [("payments", &payments, paid, 3), ("payments:81", &reports, reported, 1)]
    {
        let held = hold(&web, host, app, limit).await;
        assert_eq!(outcome(&web, host).await, overflow, "{host}");
        release.send(true).unwrap();
        for mut client in held {
            assert_eq!(client.response().await.status, 200);
        }
        assert_eq!(outcome(&web, host).await, (200, String::new()));
        assert_eq!(app.requests(), limit + 1, "what is refused is not sent");
    }
}

#[tokio::test]
async fn the_endpoints_are_called_in_turn() {
    let documents = [service("app", 80, "http"), policy("app", "loadBalancer: {type: RoundRobin}")].concat();
    let mesh = Mesh::start(&documents).await;
    let names = ["one", "two", "three"];
    let (mut apps, mut served) = (Vec::new(), Vec::new());
    for name in names {
        let app = Application::echo(name).await;
        served.push(mesh.sidecar("app").instance(name).serves("app", app.address).start().await);
        apps.push(app);
    }
    let web = mesh.sidecar("web").start().await;
    for name in names {
        web.get_until("app", "/", |response| response.by() == (200, name)).await;
    }
    let (mut client, mut seen) = (web.client().await, Vec::new());
    for _ in 0..12 {
        seen.push(client.get("app", "/").await.by().1.to_owned());
    }
    let mut first = seen[..3].to_vec();
    first.sort();
    assert_eq!(first, ["one", "three", "two"], "{seen:?}");
    assert!((3..12).all(|at| seen[at] == seen[at - 3]), "{seen:?}");
}

#[tokio::test]
async fn requests_with_the_same_value_go_to_the_same_endpoint() {
    let hash = |name: &str, balancer: &str, hash: &str| {
        policy(name, &format!("loadBalancer: {{type: {balancer}, consistentHash: {{{hash}}}}}"))
    };
    let documents = [
        service("ring", 80, "http"),
        service("maglev", 80, "http"),
        hash("ring", "RingHash", "type: Header, header: X-User"),
        hash("maglev", "Maglev", "type: QueryParam, queryParam: user"),
    ];
    let mesh = Mesh::start(&documents.concat()).await;
    let names = ["one", "two", "three"];
    let (mut apps, mut served) = (Vec::new(), Vec::new());
    for name in names {
        let app = Application::echo(name).await;
        let sidecar = mesh.sidecar("app").instance(name).serves("ring", app.address);
        served.push(sidecar.serves("maglev", app.address).start().await);
        apps.push(app);
    }
    let (web, other) = (mesh.sidecar("web").start().await, mesh.sidecar("other").start().await);
    for (host, sidecar) in [("ring", &web), ("maglev", &web), ("ring", &other), ("maglev", &other)] {
        for name in names {
            sidecar.get_until(host, "/", |response| response.by() == (200, name)).await;
        }
    }
    let ask = async |sidecar: &Sidecar, host: &str, user: usize| {
        let (path, fields) = (format!("/?a=b&user={user}"), format!("x-user: {user}\r\n"));
        let (path, fields) = if host == "ring" { ("/", &*fields) } else { (&*path, "") };
        let response = sidecar.client().await.request("GET", host, path, fields).await;
        assert_eq!(response.status, 200);
        response.by().1.to_owned()
    };
    for host in ["ring", "maglev"] {
        let mut all = BTreeSet::new();
        for user in 0..40 {
            let first = ask(&web, host, user).await;
            for sidecar in [&web, &other, &web] {
                assert_eq!(ask(sidecar, host, user).await, first, "{host}: user {user}");
            }
            all.insert(first);
        }
        assert_eq!(all.len(), 3, "{host}: {all:?}");
    }
}

#[tokio::test]
async fn retries_are_bounded_by_the_budget_of_the_service() {
    let of_gateway_api = "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
        metadata: {name: all, namespace: shop}\n\
        spec: {targetRefs: [{group: '', kind: Service, name: all}], \
               retryConstraint: {budget: {percent: 100}, minRetryRate: {count: 1}}}\n";
    let documents = [
        ["none", "fifth", "all"].map(|name| service(name, 80, "http")).concat(),
        policy("none", "limits: {maxRetries: 0}"),
        policy("fifth", "retryBudget: {percent: 20, interval: 1m, minRetryRate: {count: 1}}"),
        of_gateway_api.to_owned(),
    ];
    let mesh = Mesh::start(&documents.concat()).await;
    let failing = async || Application::http(|_| status(503)).await;
    let (none, fifth, all) = (failing().await, failing().await, failing().await);
    let served = mesh.sidecar("apps").serves("none", none.address).serves("fifth", fifth.address);
    let _served = served.serves("all", all.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let retries = async |host: &str, app: &Application| {
        let mut client = web.client().await;
        for _ in 0..20 {
            assert_eq!(client.get(host, "/").await.status, 503);
        }
        app.requests() - 20
    };
    assert_eq!(retries("none", &none).await, 0);
    let of_a_fifth = retries("fifth", &fifth).await;
    assert!((1..=5).contains(&of_a_fifth), "{of_a_fifth}");
    let of_all = retries("all", &all).await;
    assert!((15..=21).contains(&of_all), "{of_all}");
}

#[tokio::test]
async fn a_refused_policy_keeps_its_good_version_and_without_one_the_defaults_hold() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let (app, release) = holding().await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let refused = policy("app", "limits: {maxRequests: 0}");
    mesh.write("policy.yaml", &refused);
    mesh.refusal("spec.limits.maxRequests").await;
    let _held = hold(&web, "app", &app, 1).await;
    assert_eq!(outcome(&web, "app").await.0, 200);
    mesh.write("policy.yaml", &policy("app", "limits: {maxRequests: 1}"));
    web.get_until("app", "/", |response| response.reason() == "upstream_overflow").await;
    mesh.write("policy.yaml", &refused);
    mesh.refusal("spec.limits.maxRequests").await;
    assert_eq!(outcome(&web, "app").await.0, 503);
    mesh.write("policy.yaml", "");
    web.get_until("app", "/", |response| response.status == 200).await;
    release.send(true).unwrap();
}

#[tokio::test]
async fn no_value_that_is_accepted_is_refused_by_a_sidecar() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    web.get_until("app", "/", |response| response.status == 200).await;
    let most = "4294967295";
    for (at, spec) in [
        format!(
            "loadBalancer: {{type: PeakEWMA}}, limits: {{maxConnections: {most}, maxPendingRequests: {most}, maxRequests: {most}}},
             retryBudget: {{percent: 100, interval: 1h, minRetryRate: {{count: 1000000, interval: 1ms}}}},
             outlierDetection: {{interval: 99999h, baseEjectionTime: 99999h, maxEjectionTime: 99999h, maxEjectionPercent: 100,
               consecutive5xxErrors: {most}, consecutiveGatewayErrors: {most}, consecutiveLocalOriginFailures: {most},
               failurePercentage: {{threshold: 100, minimumHosts: {most}, requestVolume: {most}}},
               successRate: {{minimumHosts: {most}, requestVolume: {most}, stdevFactor: {most}}}}}"
        ),
        "loadBalancer: {type: LeastRequest}, limits: {maxConnections: 1, maxPendingRequests: 1, maxRequests: 1, maxRetries: 0},
         outlierDetection: {interval: 1ms, baseEjectionTime: 1ms, maxEjectionTime: 1ms, maxEjectionPercent: 0,
           consecutive5xxErrors: 0, consecutiveGatewayErrors: 0, consecutiveLocalOriginFailures: 0,
           failurePercentage: {threshold: 1, minimumHosts: 1, requestVolume: 1},
           successRate: {minimumHosts: 1, requestVolume: 1, stdevFactor: 1}}"
            .to_owned(),
        format!("retryBudget: {{percent: 0, interval: 1s}}, limits: {{maxRequests: {most}}}"),
    ]
    .iter()
    .enumerate()
    {
        mesh.write("policy.yaml", &policy("app", &format!("{spec}, connectTimeout: {}ms", 1001 + at)));
        let active = format!("\"1.{:03}s\"", at + 1);
        let dump =
            eventually(&active, async || web.page("/config_dump").await.filter(|dump| dump.contains(&active)))
                .await;
        assert!(!dump.contains("error_state"), "{dump}");
        assert_eq!(web.get("app", "/").await.by(), (200, "app"));
    }
}

#[tokio::test]
async fn changes_of_a_policy_under_load_lose_nothing() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let (one, two) = (Application::echo("one").await, Application::echo("two").await);
    let first = mesh.sidecar("app").instance("app-1").serves("app", one.address).start().await;
    let second = mesh.sidecar("app").instance("app-2").serves("app", two.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let load = Load::start(web.outbound(), "app");
    load.wait_for(100).await;
    let specs = [
        "loadBalancer: {type: RoundRobin}",
        "loadBalancer: {type: Random}, limits: {maxRequests: 50, maxConnections: 50}, overload: Disabled",
        "loadBalancer: {type: LeastRequest}, outlierDetection: {mode: Disabled}, limits: {maxRetries: 1}",
        "retryBudget: {percent: 50, interval: 1h}, outlierDetection: {consecutive5xxErrors: 100}",
    ];
    for (at, spec) in specs.iter().enumerate() {
        let timeout = 1001 + at;
        mesh.write("policy.yaml", &policy("app", &format!("{spec}, connectTimeout: {timeout}ms")));
        let active = format!("\"1.{:03}s\"", at + 1);
        eventually(&active, async || web.page("/config_dump").await.filter(|dump| dump.contains(&active)))
            .await;
        load.wait_for(100).await;
    }
    mesh.write("policy.yaml", "");
    eventually("the default", async || {
        web.page("/config_dump").await.filter(|dump| !dump.contains("\"1.004s\""))
    })
    .await;
    load.wait_for(100).await;
    load.finish().await.assert_nothing_lost();
    drop((first, second));
}

#[tokio::test]
async fn a_new_endpoint_starts_slowly() {
    let slow = "loadBalancer: {type: RoundRobin}, slowStart: {window: 1h, minWeightPercent: 10}";
    let mesh = Mesh::start(&[service("app", 80, "http"), policy("app", slow)].concat()).await;
    let mut apps = Vec::new();
    for name in ["one", "two", "new"] {
        apps.push(Application::echo(name).await);
    }
    let serve = async |name: &str, app: &Application| {
        mesh.sidecar("app").instance(name).serves("app", app.address).start().await
    };
    let _served = (serve("one", &apps[0]).await, serve("two", &apps[1]).await);
    let web = mesh.sidecar("web").start().await;
    for name in ["one", "two"] {
        web.get_until("app", "/", |response| response.by() == (200, name)).await;
    }
    let _new = serve("new", &apps[2]).await;
    web.get_until("app", "/", |response| response.by() == (200, "new")).await;
    let before = apps[2].requests();
    let mut client = web.client().await;
    for _ in 0..600 {
        assert_eq!(client.get("app", "/").await.status, 200);
    }
    // A weight of a tenth beside two whole ones is 29 of 600 requests; a third is 200.
    let by_new = apps[2].requests() - before;
    assert!((1..100).contains(&by_new), "{by_new}");
}

#[tokio::test]
async fn a_new_endpoint_starts_slowly_with_the_default_balancer() {
    let slow = "slowStart: {window: 1h, minWeightPercent: 10}";
    let mesh = Mesh::start(&[service("app", 80, "http"), policy("app", slow)].concat()).await;
    // So much longer than anything else that takes time that all endpoints are equally fast.
    let app = async || {
        Application::raw(|mut connection| async move {
            while connection.request().await.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if connection.send(ok("app")).await.is_err() {
                    break;
                }
            }
        })
        .await
    };
    let (one, two, new) = (app().await, app().await, app().await);
    let serve = async |name: &str, app: &Application| {
        mesh.sidecar("app").instance(name).serves("app", app.address).start().await
    };
    let _served = (serve("one", &one).await, serve("two", &two).await);
    let web = mesh.sidecar("web").start().await;
    let load = Load::start(web.outbound(), "app");
    let asked = async |app: &Application, requests: usize| {
        let until = app.requests() + requests;
        eventually("requests", async || (app.requests() >= until).then_some(())).await;
    };
    asked(&one, 20).await;
    asked(&two, 20).await;
    let _new = serve("new", &new).await;
    asked(&new, 5).await;
    let all = || one.requests() + two.requests() + new.requests();
    let before = (new.requests(), all());
    asked(&new, 20).await;
    let (of_new, of_all) = (new.requests() - before.0, all() - before.1);
    load.finish().await.assert_nothing_lost();
    // A weight of a tenth beside two whole ones is one of 21 requests, or two for an idle endpoint; a third is one of 3.
    assert!(of_new * 6 < of_all, "{of_new} of {of_all}");
}

/// Returns an example of the page, by its index.
fn example(index: usize) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/backend-traffic.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut examples = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    examples.nth(index).unwrap().to_owned()
}
