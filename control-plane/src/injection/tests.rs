use proptest::prelude::*;
use serde_json::json;

use super::testing::settings;
use super::*;

fn web() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-5d4f-", "labels": {"pod-template-hash": "5d4f"}, "annotations": {"a/b": "c"}},
        "spec": {
            "fieldOfALaterVersion": {"x": [1]},
            "initContainers": [{"name": "migrate", "image": "m"}],
            "containers": [{
                "name": "web", "image": "w", "ports": [{"name": "http", "containerPort": 8080}],
                "livenessProbe": {"httpGet": {"path": "/live?$(x)", "port": "http"}, "periodSeconds": 3},
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn injected_with(pod: Value, settings: &Settings) -> Value {
    match inject(pod, settings).unwrap() {
        Injection::Injected { pod, .. } => pod,
        Injection::Skipped(reason) => panic!("skipped: {reason}"),
    }
}

fn injected(pod: Value) -> Value {
    injected_with(pod, &settings())
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap()).collect()
}

fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    container["env"].as_array().unwrap().iter().find(|variable| variable["name"] == name).unwrap()
}

#[test]
fn the_sidecar_is_before_the_pods_own_init_containers_and_unknown_fields_stay() {
    let pod = injected(web());
    let spec = &pod["spec"];
    assert_eq!(names(&spec["initContainers"]), ["outrigger-capture", "outrigger-proxy", "migrate"]);
    assert_eq!(names(&spec["containers"]), ["web"]);
    assert_eq!(names(&spec["volumes"]), ["data", "outrigger-token", "outrigger-roots", "outrigger-state"]);
    assert_eq!(spec["fieldOfALaterVersion"], json!({"x": [1]}));
    assert_eq!((&pod["kind"], &pod["metadata"]["annotations"]["a/b"]), (&json!("Pod"), &json!("c")));
    let proxy = &spec["initContainers"][1];
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["startupProbe"]["httpGet"], json!({"path": "/ready", "port": 15020, "scheme": "HTTP"}));
    assert_eq!(proxy["lifecycle"]["preStop"]["exec"]["command"], json!(["outrigger-proxy", "drain"]));
    assert_eq!(variable(proxy, "OTEL_SERVICE_NAME")["value"], "web");
    assert_eq!(variable(proxy, "OTEL_EXPORTER_OTLP_ENDPOINT")["value"], "http://jaeger:4317");
    assert_eq!(spec["terminationGracePeriodSeconds"], 35);
    let status: Value =
        serde_json::from_str(pod["metadata"]["annotations"]["outrigger.dev/status"].as_str().unwrap())
            .unwrap();
    assert_eq!(status["ports"], json!({"inbound": 15006, "outbound": 15001, "metrics": 15020}));
}

#[test]
fn the_sidecar_performs_the_probes_and_no_value_refers_to_a_variable() {
    let pod = injected(web());
    assert_eq!(pod["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"], "/app-health/web/livez");
    let text =
        variable(&pod["spec"]["initContainers"][1], "OUTRIGGER_PROXY_APP_PROBES")["value"].as_str().unwrap();
    assert!(!text.contains('$'), "the kubelet expands $(x): {text}");
    let probes: Value = serde_json::from_str(text).unwrap();
    assert_eq!(
        probes,
        json!({"/app-health/web/livez": {"httpGet": {"path": "/live?$(x)", "port": 8080}, "timeoutSeconds": 1}})
    );
}

#[test]
fn injecting_an_injected_pod_changes_nothing() {
    let once = injected(web());
    assert_eq!(injected(once.clone()), once);
}

#[test]
fn a_container_that_another_webhook_adds_later_gets_its_probes_rewritten_and_its_sleep() {
    let mut pod = injected(web());
    let other = json!({"name": "vault", "image": "v", "readinessProbe": {"tcpSocket": {"port": 8200}}});
    pod["spec"]["containers"].as_array_mut().unwrap().push(other);
    pod["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"name": "vault-init", "image": "v"}));
    let pod = injected(pod);
    let spec = &pod["spec"];
    assert_eq!(
        names(&spec["initContainers"]),
        ["outrigger-capture", "outrigger-proxy", "vault-init", "migrate"]
    );
    assert_eq!(spec["containers"][1]["readinessProbe"]["httpGet"]["path"], "/app-health/vault/readyz");
    assert_eq!(spec["containers"][1]["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
    assert_eq!(spec["terminationGracePeriodSeconds"], 35, "raised once");
    let text = variable(&spec["initContainers"][1], "OUTRIGGER_PROXY_APP_PROBES")["value"].as_str().unwrap();
    let probes: Value = serde_json::from_str(text).unwrap();
    assert_eq!(probes["/app-health/vault/readyz"], json!({"tcpSocket": {"port": 8200}, "timeoutSeconds": 1}));
    assert_eq!(probes["/app-health/web/livez"]["httpGet"]["port"], 8080, "the earlier ones stay");
}

#[test]
fn a_pod_without_the_dns_of_the_cluster_is_reported() {
    for (policy, warned) in [("Default", true), ("None", true), ("ClusterFirst", false)] {
        let mut pod = web();
        pod["spec"]["dnsPolicy"] = policy.into();
        let Injection::Injected { warnings, .. } = inject(pod, &settings()).unwrap() else { panic!() };
        assert_eq!(
            warnings.iter().any(|warning| warning.starts_with("spec.dnsPolicy: ")),
            warned,
            "{policy}"
        );
    }
}

#[test]
fn limits_that_limitranger_sets_between_two_calls_of_the_webhook_stay() {
    let mut once = injected(web());
    for container in once["spec"]["initContainers"].as_array_mut().unwrap() {
        container["resources"]["limits"] = json!({"cpu": "200m", "memory": "128Mi"});
    }
    assert_eq!(injected(once.clone()), once);
}

#[test]
fn annotations_change_the_sidecar_and_the_redirection() {
    let mut pod = web();
    pod["metadata"]["annotations"] = json!({
        "outrigger.dev/exclude-inbound-ports": "9100, 22",
        "outrigger.dev/exclude-outbound-ports": "25",
        "outrigger.dev/exclude-outbound-cidrs": "10.0.0.0/8",
        "outrigger.dev/proxy-memory-limit": "16Mi",
        "outrigger.dev/proxy-cpu-request": "200m",
        "outrigger.dev/log-level": "debug",
        "outrigger.dev/prestop-sleep": "0s",
    });
    let pod = injected(pod);
    let [capture, proxy] = [0, 1].map(|at| &pod["spec"]["initContainers"][at]);
    let args: Vec<_> = capture["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert_eq!(args[0], "capture");
    for arg in [
        "--exclude-inbound-ports=22,9100,15020",
        "--exclude-outbound-ports=25",
        "--exclude-outbound-cidrs=10.0.0.0/8",
    ] {
        assert!(args.contains(&arg), "{args:?}");
    }
    let resources = json!({"requests": {"cpu": "200m", "memory": "16Mi"}, "limits": {"memory": "16Mi"}});
    assert_eq!((&proxy["resources"], &capture["resources"]), (&resources, &resources));
    assert!(proxy["args"].as_array().unwrap().contains(&json!("--log=debug")));
    assert_eq!(pod["spec"]["containers"][0].get("lifecycle"), None);
    assert_eq!(pod["spec"].get("terminationGracePeriodSeconds"), None);
}

/// What Pod Security `restricted` requires of a container, and `baseline` of its capabilities.
fn is_restricted(container: &Value) -> bool {
    let context = &container["securityContext"];
    context["runAsNonRoot"] == true
        && context["runAsUser"] != 0
        && context["allowPrivilegeEscalation"] == false
        && context["capabilities"] == json!({"drop": ["ALL"]})
        && context["seccompProfile"]["type"] == "RuntimeDefault"
}

#[test]
fn all_but_net_admin_of_the_capture_container_is_restricted() {
    let pod = injected(web());
    let [capture, proxy] = [0, 1].map(|at| &pod["spec"]["initContainers"][at]);
    assert!(is_restricted(proxy) && proxy["securityContext"]["readOnlyRootFilesystem"] == true);
    let context = &capture["securityContext"];
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}));
    assert_eq!((&context["privileged"], &context["runAsUser"]), (&json!(false), &json!(0)));
    let cni = injected_with(web(), &Settings { capture: Capture::Cni, ..settings() });
    assert_eq!(
        names(&cni["spec"]["initContainers"]),
        ["outrigger-capture-check", "outrigger-proxy", "migrate"]
    );
    assert!([0, 1].iter().all(|at| is_restricted(&cni["spec"]["initContainers"][*at])));
    let check = &cni["spec"]["initContainers"][0]["securityContext"]["runAsUser"];
    assert!(*check == 1501 && *check != proxy["securityContext"]["runAsUser"], "it is to be redirected");
    let kinds = ["projected", "configMap", "emptyDir"];
    for volume in &pod["spec"]["volumes"].as_array().unwrap()[1..] {
        assert!(kinds.iter().any(|kind| volume.get(kind).is_some()), "{volume}");
    }
}

#[test]
fn a_cluster_before_1_29_gets_the_sidecar_as_the_first_container() {
    let pod = injected_with(web(), &Settings { kubernetes_minor: 28, ..settings() });
    let spec = &pod["spec"];
    assert_eq!(names(&spec["initContainers"]), ["outrigger-capture", "migrate"]);
    assert_eq!(names(&spec["containers"]), ["outrigger-proxy", "web"]);
    let proxy = &spec["containers"][0];
    assert_eq!(proxy["lifecycle"], json!({"postStart": {"exec": {"command": ["outrigger-proxy", "wait"]}}}));
    assert_eq!((proxy.get("restartPolicy"), proxy.get("startupProbe")), (None, None));
    assert_eq!(spec["containers"][1].get("lifecycle"), None, "no sleep action before 1.30");
    assert_eq!(injected_with(pod.clone(), &Settings { kubernetes_minor: 28, ..settings() }), pod);
}

#[test]
fn pods_that_cannot_have_a_sidecar_are_left_alone_and_a_bad_label_is_refused() {
    let with = |path: &str, value: Value| {
        let mut pod = web();
        let (parent, field) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[field] = value;
        inject(pod, &settings())
    };
    for (path, value) in [
        ("/spec/hostNetwork", json!(true)),
        ("/spec/os", json!({"name": "windows"})),
        ("/metadata/labels", json!({"outrigger.dev/inject": "disabled"})),
        ("/metadata/annotations", json!({"kubernetes.io/config.mirror": "x"})),
    ] {
        assert!(matches!(with(path, value), Ok(Injection::Skipped(_))), "{path}");
    }
    assert!(matches!(
        with("/metadata/labels", json!({"outrigger.dev/inject": "enabled"})),
        Ok(Injection::Injected { .. })
    ));
    let refusal = with("/metadata/labels", json!({"outrigger.dev/inject": "true"})).unwrap_err();
    assert_eq!(refusal.field, "metadata.labels[outrigger.dev/inject]");
}

#[test]
fn a_claimed_status_hides_no_container_and_removes_nothing() {
    let mut pod = web();
    pod["metadata"]["annotations"] = json!({"outrigger.dev/status": "{}"});
    pod["spec"]["containers"][0]["name"] = json!("outrigger-proxy");
    assert_eq!(inject(pod, &settings()).unwrap_err().field, "spec.containers[0].name");
    let status = injected(web())["metadata"]["annotations"]["outrigger.dev/status"].take();
    let mut copied = web();
    copied["metadata"]["annotations"]["outrigger.dev/status"] = status;
    assert_eq!(injected(copied), injected(web()));
}

#[test]
fn a_hook_by_http_is_reported() {
    let mut pod = web();
    pod["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"httpGet": {"port": 8080}}});
    let Ok(Injection::Injected { warnings, .. }) = inject(pod, &settings()) else { panic!("not injected") };
    assert!(warnings[0].starts_with("spec.containers[0].lifecycle.preStop.httpGet: "), "{warnings:?}");
}

/// JSON that resembles a pod, with values of wrong types.
fn pods() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        prop_oneof!["web", "outrigger-proxy", "/app-health/web/livez", "8080", "Always"]
            .prop_map(Value::from),
    ];
    let key = prop_oneof![
        "metadata",
        "annotations",
        "labels",
        "spec",
        "name",
        "securityContext",
        "runAsUser",
        "httpGet",
        "tcpSocket",
        "port",
        "livenessProbe",
        "lifecycle",
        "preStop",
        "terminationGracePeriodSeconds",
        "restartPolicy",
        "path",
        "outrigger.dev/status",
    ];
    let any = leaf.prop_recursive(4, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map(key.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    (any.clone(), any.clone(), any).prop_map(|(metadata, first, second)| {
        let mut pod = web();
        pod["metadata"] = metadata;
        for (field, value) in first.as_object().into_iter().flatten() {
            pod["spec"]["containers"][0][field] = value.clone();
        }
        for (field, value) in second.as_object().into_iter().flatten() {
            pod["spec"][field] = value.clone();
        }
        pod
    })
}

proptest! {
    #[test]
    fn any_json_is_refused_or_injected_once(pod in pods()) {
        if let Ok(Injection::Injected { pod, .. }) = inject(pod, &settings()) {
            prop_assert_eq!(injected(pod.clone()), pod);
        }
    }
}
