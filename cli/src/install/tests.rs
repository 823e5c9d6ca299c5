//! Tests of the objects that `outrigger install` prints.

use std::collections::BTreeSet;

use clap::{Args as _, Command, FromArgMatches as _};

use super::*;

fn parsed(line: &[&str]) -> Result<InstallArgs, clap::Error> {
    let command = InstallArgs::augment_args(Command::new("install"));
    let matches = command.try_get_matches_from([&["install"], line].concat())?;
    InstallArgs::from_arg_matches(&matches)
}

fn objects(line: &[&str]) -> Vec<Value> {
    serde_saphyr::from_multiple(&manifest(&parsed(line).unwrap()).unwrap()).unwrap()
}

fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

#[test]
fn every_flag_is_a_value_of_the_chart_with_the_same_default() {
    let values: Value = serde_saphyr::from_str(include_str!("../../../deploy/chart/values.yaml")).unwrap();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let of_chart: BTreeSet<_> = values
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(name, value)| match value {
            Value::Object(group) => {
                group.iter().map(|(inner, value)| (format!("{name}.{inner}"), text(value))).collect()
            }
            value => vec![(name.clone(), text(value))],
        })
        .collect();
    let flags: BTreeSet<_> =
        parsed(&[]).unwrap().values().map(|(name, value)| (name.to_owned(), value)).into();
    assert_eq!(of_chart, flags);
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart: Value = serde_saphyr::from_str(include_str!("../../../deploy/chart/Chart.yaml")).unwrap();
    assert_eq!((chart["version"].as_str(), chart["appVersion"].as_str()), (Some(VERSION), Some(VERSION)));
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn the_examples_run_the_image_of_this_version() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/kubernetes");
    let mut images = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        images.extend(
            text.split("image: outrigger/").skip(1).map(|rest| rest.lines().next().unwrap().to_owned()),
        );
    }
    assert_eq!(images.into_iter().collect::<Vec<_>>(), [format!("cli:{VERSION}")]);
}

#[test]
fn every_template_of_the_chart_is_installed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart/templates");
    let files = std::fs::read_dir(folder).unwrap();
    let of_chart: BTreeSet<_> =
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    // The namespace is not in the chart.
    assert_eq!(of_chart, TEMPLATES[1..].iter().map(|&template| template.to_owned()).collect());
}

#[test]
fn flags_are_in_the_deployment() {
    let objects = objects(&[
        "--image-registry=registry.example:5000",
        "--image-tag=1.2",
        "--replicas=3",
        "--trust-domain=example.org",
        "--cluster-domain=cluster.example",
        "--otlp-endpoint=http://jaeger.tracing:4317",
    ]);
    let spec = &one(&objects, "Deployment")["spec"];
    assert_eq!(spec["replicas"], 3);
    let container = &spec["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example:5000/outrigger/control-plane:1.2");
    let args: Vec<_> =
        container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    for expected in [
        "--trust-domain=example.org",
        "--cluster-domain=cluster.example",
        "--proxy-image=registry.example:5000/outrigger/proxy:1.2",
        "--proxy-env=OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger.tracing:4317",
    ] {
        assert!(args.contains(&expected), "{expected}: {args:?}");
    }
}

#[test]
fn the_cni_plugin_is_installed_only_if_it_is_enabled() {
    let [without, with] = [objects(&[]), objects(&["--cni-enabled", "--cni-conf-dir=/k3s/net.d"])];
    assert!(!without.iter().any(|object| object["kind"] == "DaemonSet"));
    let spec = &one(&with, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(spec["containers"][0]["image"], format!("docker.io/outrigger/proxy:{VERSION}"));
    let paths = spec["volumes"].as_array().unwrap().iter().map(|volume| &volume["hostPath"]["path"]);
    assert_eq!(paths.collect::<Vec<_>>(), ["/opt/cni/bin", "/k3s/net.d"]);
    for (objects, enabled) in [(&without, false), (&with, true)] {
        let args = &one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
        assert_eq!(args.as_array().unwrap().contains(&"--capture=cni".into()), enabled);
        let rules = one(objects, "ClusterRole")["rules"].as_array().unwrap().clone();
        assert_eq!(rules.iter().any(|rule| rule["resources"][0] == "pods/eviction"), enabled);
    }
}

#[test]
fn the_control_plane_may_read_secrets_of_other_namespaces_only_if_that_is_enabled() {
    for (flags, expected) in [(&[][..], 0), (&["--api-key-secrets-enabled"], 1)] {
        let rules = one(&objects(flags), "ClusterRole")["rules"].as_array().unwrap().clone();
        let of_secrets: Vec<_> = rules.iter().filter(|rule| rule["resources"][0] == "secrets").collect();
        assert_eq!(of_secrets.len(), expected);
        assert!(of_secrets.iter().all(|rule| rule["verbs"] == serde_json::json!(["list", "watch"])));
    }
}

#[test]
fn a_value_cannot_change_the_structure_of_the_yaml() {
    for flag in
        ["--image-registry=a\"b", "--trust-domain=a b", "--otlp-endpoint=http://a\n", "--image-tag={{ x }}"]
    {
        assert!(parsed(&[flag]).unwrap_err().to_string().contains("is not allowed"), "{flag}");
    }
    assert!(parsed(&["--replicas=0"]).is_err());
}

#[test]
fn a_value_that_the_cluster_or_a_sidecar_would_refuse_later_is_refused() {
    for (flag, problem) in [
        ("--image-registry=https://registry.example", "HOST[:PORT]"),
        ("--image-registry=", "HOST[:PORT]"),
        ("--image-registry=registry.example/", "HOST[:PORT]"),
        ("--image-tag=sha256:abc", "is not allowed"),
        ("--image-tag=", "1 to 128 characters"),
        ("--trust-domain=Example.org", "not a SPIFFE trust domain"),
        ("--trust-domain=", "not a SPIFFE trust domain"),
        ("--cluster-domain=cluster.local.", "without a dot"),
        ("--otlp-endpoint=jaeger.tracing:4317", "http://HOST:PORT"),
        ("--otlp-endpoint=ftp://jaeger", "http://HOST:PORT"),
        ("--cni-bin-dir=bin", "begin with /"),
        ("--cni-bin-dir=/bin", "--cni-enabled"),
    ] {
        let error = parsed(&[flag]).unwrap_err().to_string();
        assert!(error.contains(problem), "{flag}: {error}");
    }
    parsed(&["--image-registry=[::1]:5000/mirror", "--image-tag=1.2_rc-1"]).unwrap();
}

#[test]
fn every_object_is_deleted_in_the_reverse_order() {
    let installed: Vec<_> = objects(&["--cni-enabled"]).iter().map(name_of).collect();
    let deleted = TEMPLATES.iter().rev().flat_map(|template| {
        let objects = template::objects(template).unwrap();
        objects.iter().rev().map(name_of).collect::<Vec<_>>()
    });
    let mut deleted: Vec<_> = deleted.collect();
    assert_eq!(deleted[0]["kind"], "MutatingWebhookConfiguration");
    assert_eq!(deleted.last().unwrap()["kind"], "Namespace");
    deleted.reverse();
    assert_eq!(deleted, installed);
}

#[test]
fn the_service_and_the_webhook_lead_to_ports_of_the_pod() {
    let objects = objects(&[]);
    let container = &one(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let ports: Vec<_> = container["ports"].as_array().unwrap().iter().map(|port| &port["name"]).collect();
    let service = one(&objects, "Service")["spec"]["ports"].as_array().unwrap();
    assert!(service.iter().all(|port| ports.contains(&&port["targetPort"])), "{service:?}");
    for webhook in one(&objects, "MutatingWebhookConfiguration")["webhooks"].as_array().unwrap() {
        let called = &webhook["clientConfig"]["service"]["port"];
        assert!(service.iter().any(|port| port["port"] == *called), "{called}");
    }
}

#[test]
fn both_entries_of_the_webhook_differ_in_selectors_only() {
    let objects = objects(&[]);
    let [mut by_namespace, mut by_pod] =
        [0, 1].map(|entry| one(&objects, "MutatingWebhookConfiguration")["webhooks"][entry].clone());
    for entry in [&mut by_namespace, &mut by_pod] {
        let selector = entry["namespaceSelector"]["matchExpressions"].as_array().unwrap();
        let never = selector.iter().find(|one| one["operator"] == "NotIn").unwrap();
        for namespace in ["kube-system", "outrigger-system"] {
            assert!(never["values"].as_array().unwrap().contains(&namespace.into()), "{never}");
        }
        for field in ["name", "namespaceSelector", "objectSelector"] {
            entry.as_object_mut().unwrap().remove(field).unwrap();
        }
    }
    assert_eq!(by_namespace, by_pod);
}

#[test]
fn values_and_blocks_are_rendered_and_anything_else_is_an_error() {
    let value_of = |name: &str| match name {
        "a" => Some("1"),
        "on" => Some("true"),
        "off" => Some("false"),
        _ => None,
    };
    let render = |template: &str| render(template, &value_of);
    assert_eq!(render("x: {{ .Values.a }}/{{.Values.a}}\n").unwrap(), "x: 1/1\n");
    let block = |condition: &str| {
        render(&format!("a\n{{{{ if .Values.{condition} }}}}\nb\n{{{{ end }}}}\nc\n")).unwrap()
    };
    assert_eq!((block("on"), block("off")), ("a\nb\nc\n".into(), "a\nc\n".into()));
    for template in [
        "{{ .Values.b }}",
        "{{ .Values.a",
        "{{ end }}",
        "{{ else }}",
        "{{ if .Values.b }}\n{{ end }}",
        "{{ if .Values.on }}\n{{ if .Values.on }}\n{{ end }}\n{{ end }}",
        "{{ range .Values.a }}",
    ] {
        assert!(render(template).unwrap_err().contains("unknown action"), "{template}");
    }
    assert!(render("{{ if .Values.on }}\nb\n").unwrap_err().contains("without an end"));
}
