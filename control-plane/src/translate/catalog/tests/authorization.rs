//! AuthorizationPolicies in the inbound listener of a workload.

use outrigger_proto::xds::hcm::http_filter;
use outrigger_proto::xds::listener::filter;
use outrigger_proto::xds::rbac::rbac::Action as RbacAction;
use outrigger_proto::xds::{network_rbac, rbac, rbac_filter};

use super::inbound::serving_from;
use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::model::mesh_builder::testing::{route, service};

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: outrigger.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: {namespace}}},
           spec: {{{spec}}}}}"
    )
}

/// The inbound listener of `cart-1` with these resources besides the Service `cart`.
fn listener(resources: &[&str]) -> Listener {
    let mut builder = MeshBuilder::default();
    builder.with(&[&service("cart", 80, "http")]).with(resources);
    read(&serving_from(builder.mesh()), Kind::Listener, "inbound|127.0.0.1:9000")
}

fn manager(listener: &Listener) -> HttpConnectionManager {
    let Some(filter::ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("{listener:?}")
    };
    HttpConnectionManager::decode(any.value.as_slice()).unwrap()
}

/// Each filter before the router: `allow shop/a/0, shop/b/0`.
fn filters(manager: &HttpConnectionManager) -> Vec<String> {
    let text = |filter: &outrigger_proto::xds::hcm::HttpFilter| {
        let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            panic!("{filter:?}")
        };
        let rbac = rbac_filter::Rbac::decode(any.value.as_slice()).unwrap();
        format!("{} {}", filter.name.rsplit('.').next().unwrap(), text_of(rbac))
    };
    let (_, filters) = manager.http_filters.split_last().unwrap();
    filters.iter().map(text).collect()
}

fn text_of(filter: rbac_filter::Rbac) -> String {
    let text = |rules: rbac::Rbac| {
        let mut names: Vec<_> = rules.policies.into_keys().collect();
        names.sort();
        format!("{:?} {}", RbacAction::try_from(rules.action).unwrap(), names.join(", "))
    };
    let enforced = filter.rules.map_or_else(|| "everything".into(), text);
    filter.shadow_rules.map_or(enforced.clone(), |audited| format!("{enforced}, audited: {}", text(audited)))
}

#[test]
fn without_a_policy_there_is_no_filter() {
    let elsewhere = policy("a", "office", "action: Allow");
    let of_root = policy(
        "a",
        "outrigger-system",
        "action: Allow, targetRefs: [{group: '', kind: Service, name: cart}]",
    );
    assert_eq!(filters(&manager(&listener(&[&elsewhere, &of_root]))), [""; 0]);
}

#[test]
fn what_is_denied_comes_before_what_is_allowed_from_every_place() {
    let of = |target: &str| format!("targetRefs: [{{group: '', kind: {target}}}]");
    let listener = listener(&[
        &service("other", 80, "http"),
        &policy("mesh", "outrigger-system", "action: Deny, rules: [{}]"),
        &policy("all", "shop", "action: Allow"),
        &policy("cart", "shop", &format!("action: Allow, rules: [{{}}], {}", of("Service, name: cart"))),
        &policy("other", "shop", &format!("action: Allow, rules: [{{}}], {}", of("Service, name: other"))),
        &policy(
            "pods",
            "shop",
            &format!("action: Deny, rules: [{{}}], {}", of("Pod, selector: {matchLabels: {a: b}}")),
        ),
    ]);
    let expected = ["deny Deny outrigger-system/mesh/0", "allow Allow shop/cart/0"];
    assert_eq!(filters(&manager(&listener)), expected);
}

#[test]
fn an_allow_policy_without_rules_allows_nothing() {
    assert_eq!(filters(&manager(&listener(&[&policy("a", "shop", "action: Allow")]))), ["allow Allow "]);
}

#[test]
fn a_rule_for_another_port_is_left_out() {
    let rules = "action: Deny, rules: [{to: [{ports: [10000]}]}, {to: [{ports: [10001]}]}]";
    assert_eq!(filters(&manager(&listener(&[&policy("a", "shop", rules)]))), ["deny Deny shop/a/0"]);
}

#[test]
fn a_connection_of_opaque_bytes_is_judged_without_conditions_on_requests() {
    let filters = |policies: &[&str]| -> Vec<String> {
        let mut builder = MeshBuilder::default();
        builder.with(&[&service("cart", 80, "tcp")]).with(policies);
        let listener: Listener =
            read(&serving_from(builder.mesh()), Kind::Listener, "inbound|127.0.0.1:9000");
        let (_, filters) = listener.filter_chains[0].filters.split_last().unwrap();
        let text = |filter: &outrigger_proto::xds::listener::Filter| {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                panic!("{filter:?}")
            };
            let rbac = network_rbac::Rbac::decode(any.value.as_slice()).unwrap();
            assert!(!rbac.stat_prefix.is_empty());
            text_of(rbac_filter::Rbac {
                rules: rbac.rules,
                shadow_rules: rbac.shadow_rules,
                ..Default::default()
            })
        };
        filters.iter().map(text).collect()
    };
    assert_eq!(filters(&[]), [""; 0]);
    let rules = "[{}, {to: [{methods: [GET]}]}]";
    let [allow, deny] =
        ["Allow", "Deny"].map(|action| policy("a", "shop", &format!("action: {action}, rules: {rules}")));
    assert_eq!(filters(&[&allow]), ["Allow shop/a/0"]);
    assert_eq!(filters(&[&deny]), ["Deny shop/a/0, shop/a/1"]);
}

#[test]
fn an_audit_policy_is_audited_beside_what_is_allowed() {
    let [audit, allow] = [("a", "Audit"), ("b", "Allow")]
        .map(|(name, action)| policy(name, "shop", &format!("action: {action}, rules: [{{}}]")));
    assert_eq!(filters(&manager(&listener(&[&audit]))), ["allow everything, audited: Allow shop/a/0"]);
    let both = ["allow Allow shop/b/0, audited: Allow shop/a/0, shop/b/0"];
    assert_eq!(filters(&manager(&listener(&[&audit, &allow]))), both);
}

#[test]
fn a_route_that_is_a_target_has_its_policies_beside_the_others_and_keeps_its_place() {
    let rules =
        "{name: pay, matches: [{path: {value: /pay}}]}, {matches: [{path: {value: /pay/x}}]}, {name: rest}";
    let target =
        "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: pay}]";
    let listener = listener(&[
        &route("HTTPRoute", "r", "name: cart", rules),
        &policy("all", "shop", "action: Deny, rules: [{}]"),
        &policy("pay", "shop", &format!("action: Allow, rules: [{{}}], {target}")),
    ]);
    let manager = manager(&listener);
    assert_eq!(filters(&manager), ["deny Deny shop/all/0", "allow everything"]);
    let Some(RouteSpecifier::RouteConfig(table)) = &manager.route_specifier else { panic!("{manager:?}") };
    let text = |route: &outrigger_proto::xds::route::Route| {
        let path = match route.r#match.as_ref().unwrap().path_specifier.clone().unwrap() {
            PathSpecifier::Prefix(path) | PathSpecifier::PathSeparatedPrefix(path) => path,
            other => panic!("{other:?}"),
        };
        let mut configs: Vec<_> = route
            .typed_per_filter_config
            .iter()
            .map(|(name, any)| {
                let rbac = rbac_filter::RbacPerRoute::decode(any.value.as_slice()).unwrap().rbac;
                format!("{}: {}", name.rsplit('.').next().unwrap(), text_of(rbac.unwrap_or_default()))
            })
            .collect();
        configs.sort();
        format!("{path} {}", configs.join("; "))
    };
    assert_eq!(
        table.virtual_hosts[0].routes.iter().map(text).collect::<Vec<_>>(),
        ["/pay/x ", "/pay allow: Allow shop/pay/0; deny: Deny shop/all/0", "/ "]
    );
}

#[test]
fn a_listener_with_policies_is_encoded_to_the_same_bytes_every_time() {
    let spec = |action: &str| format!("action: {action}, rules: [{{}}, {{}}, {{}}, {{}}]");
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]";
    let documents = [
        service("cart", 80, "http"),
        route("HTTPRoute", "r", "name: cart", "{}"),
        policy("a", "shop", &spec("Allow")),
        policy("b", "shop", &spec("Deny")),
        policy("c", "shop", &format!("{}, {target}", spec("Deny"))),
    ];
    let version = || {
        let mut builder = MeshBuilder::default();
        builder.with(&documents.iter().map(String::as_str).collect::<Vec<_>>());
        let catalog = serving_from(builder.mesh());
        catalog.resource(&shop(), Kind::Listener, "inbound|127.0.0.1:9000").unwrap().version
    };
    let first = version();
    assert!((0..20).all(|_| version() == first));
}

#[test]
fn a_changed_policy_changes_the_listeners_of_its_namespace_or_of_the_mesh() {
    let affected = |namespace: &str| {
        let mut builder = MeshBuilder::default();
        builder.with(&[&service("cart", 80, "http")]);
        let catalog = serving_from(builder.mesh());
        builder.with(&[&policy("a", namespace, "action: Allow")]);
        let registrations = inbound::registered(&[9000], false, None);
        let affected = catalog.publish(Arc::new(builder.mesh().with_registrations(registrations)));
        affected.inbound.into_iter().map(|(workload, _)| workload).collect::<Vec<_>>()
    };
    assert_eq!(affected("shop"), [shop().workload]);
    assert_eq!(affected("outrigger-system"), [shop().workload]);
    assert_eq!(affected("office"), []);
}
