//! The manifests that tests put into their namespaces. None names a namespace: `Namespace::apply` does.

/// Returns a pod's spec: a server on port 8080, ready when it serves; `more` is added to the container.
pub(crate) fn server(more: &str) -> String {
    format!(
        "{{containers: [{{name: app, image: \"test/pod:1\", args: [serve, \"8080\"], ports: [{{name: http, containerPort: 8080}}], \
         readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}{more}}}]}}"
    )
}

/// Returns a pod's spec for pods that run on this node.
pub(crate) fn on_node(node: &str, spec: &str) -> String {
    spec.replacen('{', &format!("{{nodeSelector: {{kubernetes.io/hostname: {node}}}, "), 1)
}

/// Returns a Pod of an application.
pub(crate) fn pod(name: &str, app: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec: {spec}\n---\n"
    )
}

/// Returns a Deployment and a Service of that name, port 80 to 8080.
pub(crate) fn deployment(name: &str, replicas: u32, spec: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template: {{metadata: {{labels: {{app: {name}}}}}, spec: {spec}}}
---
{}",
        service(name, name, HTTP)
    )
}

/// Returns a StatefulSet of two pods and its headless Service, port 8080.
pub(crate) fn stateful_set(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: {name}}}
spec:
  serviceName: {name}
  podManagementPolicy: Parallel
  replicas: 2
  selector: {{matchLabels: {{app: {name}}}}}
  template: {{metadata: {{labels: {{app: {name}}}}}, spec: {spec}}}
---
{}",
        service(name, name, "clusterIP: None, ports: [{name: http, port: 8080}]")
    )
}

/// The ports of a Service that forwards port 80 to a `server`.
pub(crate) const HTTP: &str = "ports: [{name: http, port: 80, targetPort: 8080}]";

/// Returns a Service of an application; `fields` are its ports and what else its spec has.
pub(crate) fn service(name: &str, app: &str, fields: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {app}}}, {fields}}}\n---\n"
    )
}

/// Returns an HTTPRoute of a port of the Service of the same name; `rules` are its rules, as a list.
pub(crate) fn http_route(name: &str, port: u16, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: {name}, port: {port}}}]
  rules: [{rules}]
---
"
    )
}

/// Returns the rule of an HTTPRoute that sets the request header `x-route`.
pub(crate) fn labelling(value: &str, backend: &str, port: u16) -> String {
    format!(
        "{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-route, value: {value}}}]}}}}], \
         backendRefs: [{{name: {backend}, port: {port}}}]}}"
    )
}
