//! Callers that prefer the endpoints of their own zone, from a file to what the applications see.

use std::path::Path;

use outrigger_test_support::application::Application;
use outrigger_test_support::wait::eventually;
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::{Sidecar, SidecarBuilder};

/// A policy of the Service `app` of namespace `shop`.
fn policy(locality: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: app, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: app}}], locality: {{{locality}}}}}\n"
    )
}

fn in_zone<'a>(builder: SidecarBuilder<'a>, zone: &str) -> SidecarBuilder<'a> {
    builder.flag("--label", &format!("topology.kubernetes.io/zone={zone}"))
}

/// An instance of `app`.
struct Instance {
    app: Application,
    sidecar: Sidecar,
}

/// Starts an instance of `app` in a zone, behind a relay.
async fn instance(mesh: &Mesh, name: &'static str, zone: &str) -> Instance {
    let app = Application::echo(name).await;
    let builder = mesh.sidecar("app").instance(name).serves_behind_relay("app", app.address).await;
    Instance { sidecar: in_zone(builder, zone).start().await, app }
}

/// Starts a caller in a zone.
async fn caller(mesh: &Mesh, zone: &str) -> Sidecar {
    in_zone(mesh.sidecar("web").instance(&format!("web-{zone}")), zone).start().await
}

/// Waits until of a hundred requests of the load some reach `own`, and hardly any `other`: on a busy machine, an endpoint may seem silent
/// for a moment.
async fn stays(load: &Load, own: &Instance, other: &Instance) {
    eventually("the preferred zone", async || {
        let before = (own.app.requests(), other.app.requests());
        load.wait_for(100).await;
        (own.app.requests() > before.0 && other.app.requests() <= before.1 + 5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_caller_leaves_its_zone_when_that_has_no_endpoint_and_returns_without_a_lost_request() {
    let mesh = Mesh::start(&[service("app", 80, "http"), policy("preference: SameZone")].concat()).await;
    let b = instance(&mesh, "b", "b").await;
    let mut a = instance(&mesh, "a", "a").await;
    let (web, other) = (caller(&mesh, "a").await, caller(&mesh, "b").await);
    let of_other = Load::start(other.outbound(), "app");
    stays(&of_other, &b, &a).await;
    of_other.finish().await.assert_nothing_lost();
    let load = Load::start(web.outbound(), "app");
    stays(&load, &a, &b).await;

    a.sidecar.stop().await;
    let (by_a, by_b) = (a.app.requests(), b.app.requests());
    load.wait_for(200).await;
    assert!(b.app.requests() >= by_b + 100, "all that the zone's own endpoint has not taken");
    assert!(a.app.requests() <= by_a + 4);

    let again = instance(&mesh, "a-again", "a").await;
    stays(&load, &again, &b).await;
    load.finish().await.assert_nothing_lost();
}

#[tokio::test]
async fn a_caller_leaves_its_zone_when_the_endpoint_there_dies_and_stays_away_while_it_is_ejected() {
    let mesh = Mesh::start(&[service("app", 80, "http"), policy("preference: SameZone")].concat()).await;
    let (a, b) = (instance(&mesh, "a", "a").await, instance(&mesh, "b", "b").await);
    let web = caller(&mesh, "a").await;
    let load = Load::start(web.outbound(), "app");
    stays(&load, &a, &b).await;
    a.sidecar.relay().close();
    let by_b = b.app.requests();
    load.wait_for(200).await;
    assert!(b.app.requests() >= by_b + 100);
    let result = load.finish().await;
    assert!(result.lost_gets.is_empty(), "{result:?}");
    assert!(result.lost_posts.len() <= Load::POSTS_AT_A_TIME, "what was in flight: {result:?}");
}

#[tokio::test]
async fn zones_follow_in_the_order_of_the_policy_and_a_changed_one_applies() {
    let order = |to: &str| policy(&format!("preference: SameZone, failover: [{{from: a, to: [{to}]}}]"));
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    mesh.write("policy.yaml", &order("c"));
    let (b, c) = (instance(&mesh, "b", "b").await, instance(&mesh, "c", "c").await);
    let web = caller(&mesh, "a").await;
    let load = Load::start(web.outbound(), "app");
    stays(&load, &c, &b).await;
    mesh.write("policy.yaml", &order("b"));
    stays(&load, &b, &c).await;
    mesh.write("policy.yaml", &policy("preference: None"));
    for instance in [&b, &c] {
        let before = instance.app.requests();
        eventually("requests without a preference", async || {
            (instance.app.requests() > before + 20).then_some(())
        })
        .await;
    }
    mesh.write("policy.yaml", &policy("preference: Near"));
    mesh.refusal("spec.locality.preference").await;
    load.finish().await.assert_nothing_lost();
}

#[tokio::test]
async fn with_fewer_endpoints_than_the_minimum_a_zone_is_not_preferred() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/backend-traffic.md");
    let page = std::fs::read_to_string(page).unwrap();
    let example = page.split("```yaml\n").filter_map(|rest| rest.split("```").next());
    let example =
        example.into_iter().find(|text| text.contains("locality:")).unwrap().replace("payouts", "app");
    assert!(example.contains("minEndpoints: 2") && example.contains("from: eu-1a"), "{example}");
    let mesh = Mesh::start(&example).await;
    let (near, far) = (instance(&mesh, "near", "eu-1a").await, instance(&mesh, "far", "eu-1b").await);
    let web = caller(&mesh, "eu-1a").await;
    let load = Load::start(web.outbound(), "app");
    for instance in [&near, &far] {
        eventually("both", async || (instance.app.requests() > 20).then_some(())).await;
    }
    let second = instance(&mesh, "second", "eu-1a").await;
    stays(&load, &second, &far).await;
    load.finish().await.assert_nothing_lost();
}
