//! The first use: the mesh installed, a namespace labelled, the example's pods with sidecars, mTLS between them, and a trace in a Jaeger.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cluster::{self, eventually, image, kubectl, on_the_node};
use crate::namespace::Namespace;

/// The example, as deploy/README.md applies it.
const EXAMPLE: [&str; 2] = [
    include_str!("../../../deploy/examples/kubernetes/jaeger.yaml"),
    include_str!("../../../deploy/examples/kubernetes/shop.yaml"),
];

#[test]
fn the_example_runs_with_sidecars_and_its_trace_is_in_jaeger() {
    cluster::load(&[image("jaeger")]);
    let namespace = Namespace::meshed("shop", "permissive");
    EXAMPLE.iter().for_each(|yaml| drop(cluster::apply(yaml)));
    for deployment in ["customer", "web", "cart", "catalog", "payments", "stock"] {
        namespace.ready(&format!("deploy/{deployment}"));
    }

    // A call crosses two sidecars: customer -> web -> cart -> catalog.
    let jaeger = kubectl(&["-n", "tracing", "get", "service", "jaeger", "-o", "jsonpath={.spec.clusterIP}"]);
    let url = format!("http://{jaeger}:16686/api/traces?service=web&limit=20");
    let services = ["customer", "web", "cart", "catalog"].map(str::to_owned).into();
    eventually("the trace", 60, || {
        let text = on_the_node(&["curl", "-fsS", &url])?;
        let page: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let traces = page["data"].as_array().ok_or("no data")?;
        let found: Vec<_> = traces.iter().map(services_of).collect();
        if found.iter().any(|of| of.is_superset(&services)) { Ok(()) } else { Err(format!("{found:?}")) }
    });

    // What the shop calls goes on when plaintext is refused.
    let url = format!("http://{}:8080/cart", namespace.address("app=cart"));
    let call = || on_the_node(&["curl", "-fsS", "-m", "5", &url]);
    call().unwrap();
    kubectl(&["label", "namespace", "shop", "outrigger.dev/mtls=strict"]);
    eventually("plaintext refused", 20, || call().map_or(Ok(()), Err));
    namespace
        .exec_in("deploy/customer", "customer", &["outrigger", "sample", "customer", "--count=3"])
        .unwrap();
}

/// Returns the services that have a span in a trace.
fn services_of(trace: &Value) -> BTreeSet<String> {
    let processes = trace["processes"].as_object().into_iter().flatten();
    processes.filter_map(|(_, process)| Some(process["serviceName"].as_str()?.to_owned())).collect()
}
