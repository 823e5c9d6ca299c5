//! The Helm chart has the objects of `outrigger install`, except the namespace, which Helm creates. Part of `tests/heavier`, which builds
//! Helm and sets `OUTRIGGER_HELM` to its path.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart");

/// Each flag of `outrigger install`, and the value of the chart.
const VALUES: [(&str, &str, &str); 8] = [
    ("--image-registry", "imageRegistry", "registry.example:5000/team"),
    ("--image-tag", "imageTag", "1.2.3-rc.1"),
    ("--replicas", "replicas", "3"),
    ("--trust-domain", "trustDomain", "example.org"),
    ("--cluster-domain", "clusterDomain", "cluster.example"),
    ("--otlp-endpoint", "otlpEndpoint", "http://jaeger.tracing:4317"),
    ("--cni-bin-dir", "cni.binDir", "/k3s/bin"),
    ("--cni-conf-dir", "cni.confDir", "/k3s/net.d"),
];

#[test]
fn helm_finds_nothing_wrong_with_the_chart() {
    run(helm().args(["lint", "--strict", CHART]));
}

#[test]
fn the_chart_renders_to_the_objects_of_install() {
    let defaults = (install(&[]), template(&[]));
    assert_eq!(defaults.0, defaults.1);
    let mut flags: Vec<_> = VALUES.iter().flat_map(|(flag, _, value)| [*flag, *value]).collect();
    flags.extend(["--cni-enabled", "--api-key-secrets-enabled"]);
    let mut values: Vec<_> = VALUES.iter().map(|(_, name, value)| format!("{name}={value}")).collect();
    values.extend(["cni.enabled=true", "apiKeySecrets.enabled=true"].map(str::to_owned));
    let values: Vec<_> = values.iter().flat_map(|value| ["--set", value.as_str()]).collect();
    let changed = (install(&flags), template(&values));
    assert_eq!(changed.0, changed.1);
    assert_ne!(changed.0, defaults.0);
}

fn install(flags: &[&str]) -> BTreeMap<String, Value> {
    let outrigger = env!("CARGO_BIN_EXE_outrigger");
    let mut objects = objects(&run(Command::new(outrigger).arg("install").args(flags)));
    assert!(objects.remove("Namespace/outrigger-system").is_some(), "{:?}", objects.keys());
    objects
}

fn template(values: &[&str]) -> BTreeMap<String, Value> {
    let release =
        ["template", "outrigger", CHART, "--namespace", "outrigger-system", "--kube-version", "1.34.0"];
    objects(&run(helm().args(release).args(values)))
}

/// Returns the objects of a stream of YAML documents by kind and name.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    assert!(objects.len() > 8, "{text}");
    let name = |of: &Value| of.as_str().unwrap().to_owned();
    objects
        .into_iter()
        .map(|object| (format!("{}/{}", name(&object["kind"]), name(&object["metadata"]["name"])), object))
        .collect()
}

fn helm() -> Command {
    Command::new(std::env::var_os("OUTRIGGER_HELM").expect("OUTRIGGER_HELM: see tests/heavier"))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
