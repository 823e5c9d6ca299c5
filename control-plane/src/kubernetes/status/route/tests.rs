//! The status of routes, as it is written to the API server.

use super::*;
use crate::model::mesh_builder::MeshBuilder;
use crate::source::object;

const NOW: &str = "2026-11-28T12:00:00Z";
const THEN: &str = "2026-01-01T00:00:00Z";

/// The control plane's model, after it has read some objects.
#[derive(Default)]
struct Model(MeshBuilder);

impl Model {
    fn with_catalog() -> Self {
        let service = |name: &str| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
                   "spec": {"ports": [{"port": 80, "appProtocol": "http"}]}})
        };
        let mut model = Self::default();
        model.read(&service("catalog"));
        model.read(&service("cart"));
        model
    }

    fn read(&mut self, object: &Value) -> Update {
        let update = object::read(object.clone());
        let changes = update.changes.iter().map(|change| (change.id.clone(), change.resource.clone()));
        self.0.apply(changes);
        update
    }

    /// Returns the next `status.parents` of a route that the model has read.
    fn next(&mut self, object: &Value) -> Option<Vec<Value>> {
        let update = self.read(object);
        self.status_of(object, &update, None)
    }

    fn status_of(&self, object: &Value, update: &Update, rejected: Option<&str>) -> Option<Vec<Value>> {
        let id = ResourceId { kind: Kind::HttpRoute, namespace: "shop".into(), name: "r".into() };
        let route = RouteObject::of(&id, object).unwrap().decoded(update);
        let statuses = self.0.statuses();
        let model = statuses.get(&id).map(|status| &**status);
        route.next_parents(model, rejected, NOW.parse().unwrap())
    }
}

fn parent(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name})
}

fn route(generation: i64, parents: &[Value], backend: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
           "metadata": {"name": "r", "namespace": "shop", "generation": generation, "resourceVersion": "7"},
           "spec": {"parentRefs": parents, "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]}})
}

/// `Accepted=True (Accepted) at 1: message`, one for each condition of the only parent.
fn texts(parents: &[Value]) -> Vec<String> {
    let [entry] = parents else { panic!("{parents:?}") };
    assert_eq!(entry["controllerName"], CONTROLLER_NAME);
    let text = |condition: &Value| {
        let [kind, status, reason, message] =
            ["type", "status", "reason", "message"].map(|field| condition[field].as_str().unwrap());
        format!("{kind}={status} ({reason}) at {}: {message}", condition["observedGeneration"])
    };
    entry["conditions"].as_array().unwrap().iter().map(text).collect()
}

#[test]
fn an_attached_route_is_accepted_and_then_written_no_more() {
    let (mut model, mut object) = (Model::with_catalog(), route(1, &[parent("catalog")], "cart"));
    let next = model.next(&object).unwrap();
    assert_eq!(next[0]["parentRef"], parent("catalog"));
    assert_eq!(next[0]["conditions"][0]["lastTransitionTime"], NOW);
    assert_eq!(texts(&next), ["Accepted=True (Accepted) at 1: ", "ResolvedRefs=True (ResolvedRefs) at 1: "]);
    object["status"] = json!({"parents": next});
    assert_eq!(model.next(&object), None);
}

#[test]
fn a_change_keeps_the_time_of_conditions_that_it_does_not_change() {
    let mut model = Model::with_catalog();
    let mut object = route(2, &[parent("catalog")], "missing");
    let condition = |kind| {
        json!({"type": kind, "status": "True", "reason": kind, "message": "", "observedGeneration": 1,
               "lastTransitionTime": THEN})
    };
    let conditions = [condition("Accepted"), condition("ResolvedRefs")];
    object["status"] = json!({"parents": [{"parentRef": parent("catalog"), "controllerName": CONTROLLER_NAME, "conditions": conditions}]});
    let next = model.next(&object).unwrap();
    let times: Vec<_> =
        [0, 1].iter().map(|at| next[0]["conditions"][at]["lastTransitionTime"].clone()).collect();
    assert_eq!(times, [THEN, NOW]);
    assert_eq!(
        texts(&next)[1],
        "ResolvedRefs=False (BackendNotFound) at 2: there is no Service shop/missing"
    );
}

#[test]
fn entries_of_other_controllers_are_untouched_and_stale_own_ones_removed() {
    let mut model = Model::with_catalog();
    let gateway = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"});
    let other = json!({"parentRef": gateway, "controllerName": "example.com/edge", "conditions": []});
    let stale = json!({"parentRef": parent("old"), "controllerName": CONTROLLER_NAME, "conditions": []});
    let mut object = route(1, &[gateway.clone(), parent("catalog")], "cart");
    object["status"] = json!({"parents": [stale.clone(), other]});
    let next = model.next(&object).unwrap();
    assert_eq!(next[0], other);
    assert_eq!((next.len(), &next[1]["parentRef"]), (2, &parent("catalog")));
    // A route that no longer has a parent Service.
    object["spec"]["parentRefs"] = json!([gateway]);
    assert_eq!(model.next(&object), Some(vec![other.clone()]));
    object["status"] = json!({"parents": [other]});
    assert_eq!(model.next(&object), None);
}

#[test]
fn nothing_is_written_before_the_model_has_read_the_object() {
    let mut model = Model::with_catalog();
    let (old, new) = (route(1, &[parent("catalog")], "cart"), route(2, &[parent("catalog")], "cart"));
    assert_eq!(model.status_of(&old, &object::read(old.clone()), None), None);
    model.read(&old);
    assert_eq!(model.status_of(&new, &object::read(new.clone()), None), None);
    assert!(model.next(&new).is_some());
}

#[test]
fn a_refused_route_names_the_field() {
    let mut model = Model::with_catalog();
    let mut object = route(1, &[parent("catalog")], "cart");
    object["spec"]["rules"][0]["sessionPersistence"] = json!({"idleTimeout": "1m"});
    assert_eq!(
        texts(&model.next(&object).unwrap()),
        [
            "Accepted=False (UnsupportedValue) at 1: spec.rules[0].sessionPersistence.idleTimeout: is not supported yet [unsupported-field]"
        ]
    );
}

#[test]
fn a_refused_change_falls_back_to_the_last_good_version() {
    let mut model = Model::with_catalog();
    model.next(&route(1, &[parent("catalog")], "cart"));
    let mut object = route(2, &[parent("catalog")], "cart");
    object["spec"]["rules"][0]["timeouts"] = json!({"request": "never"});
    let texts = texts(&model.next(&object).unwrap());
    assert_eq!(texts[0], "Accepted=True (Accepted) at 1: ");
    let start = "PartiallyInvalid=True (UnsupportedValue) at 2: Fall Back to generation 1: spec.rules[0].timeouts.request";
    assert!(texts[2].starts_with(start), "{texts:?}");
}

#[test]
fn fields_without_effect_are_named_in_an_accepted_route() {
    let mut model = Model::with_catalog();
    let mut object = route(1, &[parent("catalog")], "cart");
    object["spec"]["rules"][0]["later"] = json!(1);
    object["spec"]["hostnames"] = json!(["a.example"]);
    assert_eq!(
        texts(&model.next(&object).unwrap())[0],
        "Accepted=True (Accepted) at 1: spec.rules[0].later: unknown field, ignored; \
         spec.hostnames: has no effect on a route that is attached to a Service (GEP-1294)"
    );
}

#[test]
fn a_rejection_of_a_proxy_is_a_condition_while_it_lasts() {
    let mut model = Model::with_catalog();
    let mut object = route(1, &[parent("catalog")], "cart");
    let update = model.read(&object);
    let rejected = model.status_of(&object, &update, Some("web-1: no such filter")).unwrap();
    assert_eq!(
        texts(&rejected)[2],
        "outrigger.dev/Programmed=False (RejectedByProxy) at 1: web-1: no such filter"
    );
    object["status"] = json!({"parents": rejected});
    assert_eq!(texts(&model.status_of(&object, &update, None).unwrap()).len(), 2);
}

fn policy(spec: Value) -> Value {
    json!({"apiVersion": "outrigger.dev/v1alpha1", "kind": "AuthorizationPolicy", "spec": spec,
           "metadata": {"name": "p", "namespace": "shop", "generation": 1, "resourceVersion": "7"}})
}

/// Returns the next `status.ancestors` of a policy that the model has read.
fn next_of_policy(model: &mut Model, object: &Value) -> Vec<Value> {
    next_of_kind(Kind::AuthorizationPolicy, model, object)
}

fn next_of_kind(kind: Kind, model: &mut Model, object: &Value) -> Vec<Value> {
    let update = model.read(object);
    let id = ResourceId { kind, namespace: "shop".into(), name: "p".into() };
    let statuses = model.0.statuses();
    let policy = RouteObject::of(&id, object).unwrap().decoded(&update);
    assert_eq!(policy.shape.list, "ancestors");
    policy.next_parents(statuses.get(&id).map(|status| &**status), None, NOW.parse().unwrap()).unwrap()
}

#[test]
fn a_policy_has_an_entry_for_each_target_or_for_its_namespace() {
    let mut model = Model::with_catalog();
    let target = |name: &str| json!({"group": "", "kind": "Service", "name": name});
    let pods = json!({"group": "", "kind": "Pod", "selector": {"matchLabels": {"app": "a"}}});
    let targets = json!([target("catalog"), target("missing"), pods]);
    let next = next_of_policy(&mut model, &policy(json!({"action": "Allow", "targetRefs": targets})));
    let namespace = json!({"group": "", "kind": "Namespace", "name": "shop"});
    let references: Vec<_> = next.iter().map(|entry| entry["ancestorRef"].clone()).collect();
    assert_eq!(references, [target("catalog"), target("missing"), namespace.clone()]);
    let accepted: Vec<_> = next.iter().flat_map(|entry| texts(std::slice::from_ref(entry))).collect();
    assert_eq!(
        accepted,
        [
            "Accepted=True (Accepted) at 1: ",
            "Accepted=False (TargetNotFound) at 1: there is no Service shop/missing",
            "Accepted=True (Accepted) at 1: "
        ]
    );
    let whole = next_of_policy(&mut model, &policy(json!({"action": "Allow"})));
    assert_eq!(whole[0]["ancestorRef"], namespace);
}

#[test]
fn a_claim_that_no_token_can_have_is_named_beside_the_fields_without_effect() {
    let mut model = Model::with_catalog();
    let catalog = json!([{"group": "", "kind": "Service", "name": "catalog"}]);
    let limit = json!([{"requests": 1, "per": "Minute", "by": [{"claim": {"name": "sub"}}]}]);
    let mut object = policy(json!({"targetRefs": catalog, "local": limit}));
    object["kind"] = json!("RateLimitPolicy");
    let accepted = texts(&next_of_kind(Kind::RateLimitPolicy, &mut model, &object)).remove(0);
    let claim = "spec.local[0].by[0].claim: no request has the claim \"sub\", since no AuthenticationPolicy";
    assert!(accepted.starts_with(&format!("Accepted=True (Accepted) at 1: {claim}")), "{accepted}");
    let id = ResourceId { kind: Kind::RateLimitPolicy, namespace: "shop".into(), name: "p".into() };
    let mut noted = RouteObject::of(&id, &object).unwrap();
    noted.notes = vec!["spec.later: unknown field, ignored".to_owned()];
    let statuses = model.0.statuses();
    let conditions = noted.of_accepted(&statuses.get(&id).unwrap().parents[0]).unwrap();
    let start = format!("spec.later: unknown field, ignored; {claim}");
    assert!(conditions[0].message.starts_with(&start), "{}", conditions[0].message);
}

#[test]
fn a_policy_of_gateway_api_has_entries_for_its_services_alone() {
    let mut model = Model::with_catalog();
    let target = |group: &str, kind: &str, name: &str| json!({"group": group, "kind": kind, "name": name});
    let service = target("", "Service", "catalog");
    let targets = json!([target("example.com", "Backend", "b"), service]);
    let next = |model: &mut Model, spec: Value| {
        let object = json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
            "spec": spec, "metadata": {"name": "p", "namespace": "shop", "generation": 1, "resourceVersion": "7"}});
        let id = ResourceId { kind: Kind::XBackendTrafficPolicy, namespace: "shop".into(), name: "p".into() };
        let update = model.read(&object);
        let (policy, statuses) =
            (RouteObject::of(&id, &object).unwrap().decoded(&update), model.0.statuses());
        policy.next_parents(statuses.get(&id).map(|status| &**status), None, NOW.parse().unwrap())
    };
    let accepted = next(&mut model, json!({"targetRefs": targets, "retryConstraint": {}})).unwrap();
    assert_eq!((&accepted[0]["ancestorRef"], accepted.len()), (&service, 1));
    assert_eq!(texts(&accepted), ["Accepted=True (Accepted) at 1: "]);
    let sessions = json!({"targetRefs": [target("example.com", "Backend", "b")], "sessionPersistence": {}});
    assert_eq!(next(&mut model, sessions), None, "it is for others");
}

#[test]
fn a_refused_policy_names_the_field() {
    let mut model = Model::with_catalog();
    let next = next_of_policy(&mut model, &policy(json!({"action": "Permit"})));
    let [text] = &texts(&next)[..] else { panic!("{next:?}") };
    assert!(text.starts_with("Accepted=False (Invalid) at 1: spec.action: unknown value"), "{text}");
}
