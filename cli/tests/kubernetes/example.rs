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

    // A call crosses two sidecars on each way: customer -> web -> cart -> catalog. Each one has verified its caller.
    let jaeger = kubectl(&["-n", "tracing", "get", "service", "jaeger", "-o", "jsonpath={.spec.clusterIP}"]);
    let url = format!("http://{jaeger}:16686/api/traces?service=web&limit=20");
    let hops = [("customer", "web"), ("web", "cart"), ("cart", "catalog")];
    let hops = hops.map(|(from, to)| format!("spiffe://cluster.local/ns/shop/sa/{from} -> {to}")).into();
    eventually("the trace", 60, || {
        let text = on_the_node(&["curl", "-fsS", &url])?;
        let page: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let traces = page["data"].as_array().ok_or("no data")?;
        let found: Vec<_> = traces.iter().map(hops_of).collect();
        if found.iter().any(|of| of.is_superset(&hops)) { Ok(()) } else { Err(format!("{found:?}")) }
    });

    // What the shop calls goes on when plaintext is refused, at every service.
    let pod = |service: &str| namespace.pods(&format!("app={service}")).remove(0);
    let call = |pod: &Value, port: u16| {
        let address = pod["status"]["podIP"].as_str().unwrap();
        on_the_node(&["curl", "-sS", "-m", "5", &format!("http://{address}:{port}/")])
    };
    call(&pod("cart"), 8080).unwrap();
    kubectl(&["label", "namespace", "shop", "outrigger.dev/mtls=strict"]);
    for (service, port) in
        [("web", 8080), ("cart", 8080), ("catalog", 8080), ("payments", 50051), ("stock", 9000)]
    {
        let pod = pod(service);
        eventually("plaintext refused", 20, || {
            let answer = call(&pod, port);
            let name = pod["metadata"]["name"].as_str().unwrap();
            let log = namespace.kubectl(&["logs", name, "-c", "outrigger-proxy"]);
            let refused = log.contains("a client without mTLS is refused: the port is strict");
            if answer.is_err() && refused { Ok(()) } else { Err(format!("{name}: {answer:?}: {log}")) }
        });
    }
    namespace
        .exec_in("deploy/customer", "customer", &["outrigger", "sample", "customer", "--count=3"])
        .unwrap();
}

/// Returns the hops of a trace: the verified caller, and the service that it called.
fn hops_of(trace: &Value) -> BTreeSet<String> {
    let spans = trace["spans"].as_array().into_iter().flatten();
    let hop = |span: &Value| {
        let tags = span["tags"].as_array()?;
        let caller = tags.iter().find(|tag| tag["key"] == "outrigger.source.spiffe_id")?["value"].as_str()?;
        let service = trace["processes"][span["processID"].as_str()?]["serviceName"].as_str()?;
        Some(format!("{caller} -> {service}"))
    };
    spans.filter_map(hop).collect()
}
