//! Every code, as it is reported.

use std::collections::BTreeSet;

use super::*;

mod policies;

/// Checks texts of files; returns `file:line:column code resource, field: message; help` for each problem but `no-endpoints`.
fn check_texts(texts: &[(&str, &str)]) -> Vec<String> {
    let input = |(name, text): &(&str, &str)| Input::Text(name.into(), (*text).to_owned());
    let report = check(texts.iter().map(input).collect());
    report.problems.iter().filter(|one| one.problem.code != Code::NoEndpoints).map(line).collect()
}

fn line(one: &Located) -> String {
    let Located { file, position, document: _, resource, problem } = one;
    let file = file.as_ref().map_or_else(String::new, |file| file.display().to_string());
    let position = position.map_or_else(String::new, |at| format!(":{}:{}", at.line, at.column));
    let Problem { field, code, message, help } = problem;
    let help = help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
    format!("{file}{position} {code} {}, {field}: {message}{help}", resource.as_deref().unwrap_or("-"))
}

fn service(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

fn route(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}\n"
    )
}

/// The Services of the tests: HTTP, several ports, opaque bytes, an external name.
fn services() -> String {
    service("catalog", "ports: [{port: 80, appProtocol: http}]")
        + &service("catalog-v1", "ports: [{port: 80, appProtocol: http}]")
        + &service("cart", "ports: [{name: http, port: 80, appProtocol: http}, {name: metrics, port: 9090}]")
        + &service("stock", "ports: [{port: 5432, appProtocol: postgresql}]")
        + &service("world", "type: ExternalName, externalName: example.com")
}

const PARENT: &str = "  parentRefs: [{group: '', kind: Service, name: catalog, port: 80}]\n";

/// An HTTPRoute of `catalog` with these rules.
fn rules(name: &str, rules: &str) -> String {
    route("HTTPRoute", name, &format!("{PARENT}  rules: {rules}"))
}

type Files = Vec<(&'static str, String)>;

/// Each case: the files, and the problems that are reported.
fn cases() -> Vec<(Files, Vec<&'static str>)> {
    [of_services_and_routes(), policies::cases(), policies::of_secrets()].concat()
}

fn of_services_and_routes() -> Vec<(Files, Vec<&'static str>)> {
    let beside = |yaml: String| vec![("a.yaml", services()), ("b.yaml", yaml)];
    let alone = |yaml: &str| vec![("b.yaml", yaml.to_owned())];
    let forward = "[{backendRefs: [{name: catalog-v1, port: 80}]}]";
    vec![
        (alone("a: 1\nb: [\n"), vec!["b.yaml:2:4 invalid-yaml -, : invalid YAML: "]),
        (
            alone("image: nginx\n"),
            vec!["b.yaml:1:1 not-a-resource -, apiVersion: is missing"],
        ),
        (
            alone("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRout\nmetadata: {name: a}\n"),
            vec![
                "b.yaml:2:1 unknown-kind HTTPRout default/a, kind: unknown kind HTTPRout of gateway.networking.k8s.io; did you mean HTTPRoute?",
            ],
        ),
        (
            alone("apiVersion: networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n"),
            vec![
                "b.yaml:2:1 unknown-kind HTTPRoute default/a, kind: unknown kind HTTPRoute of networking.k8s.io; write apiVersion: gateway.networking.k8s.io/v1",
            ],
        ),
        (
            alone("apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: HTTPRoute\nmetadata: {name: a}\n"),
            vec![
                "b.yaml:1:1 unknown-version HTTPRoute default/a, apiVersion: HTTPRoute has no version v1alpha2: write v1 or v1beta1",
            ],
        ),
        (
            alone(&route("TLSRoute", "a", PARENT)),
            vec!["b.yaml:3:1 unsupported-kind TLSRoute shop/a, kind: TLSRoute is not supported yet"],
        ),
        (
            beside(service("cart", "ports: [{port: 80}]")),
            vec!["b.yaml:4:12 duplicate-resource Service shop/cart, metadata.name: is already defined in a.yaml"],
        ),
        (
            beside(rules("a", "[{backendRef: [{name: catalog-v1, port: 80}], backendRefs: [{name: catalog-v1, prot: 80, port: 80}]}]")),
            vec![
                "b.yaml:7:12 unknown-field HTTPRoute shop/a, spec.rules[0].backendRef: unknown field; did you mean \"backendRefs\"?",
                "b.yaml:7:89 unknown-field HTTPRoute shop/a, spec.rules[0].backendRefs[0].prot: unknown field; did you mean \"port\"?",
            ],
        ),
        (
            beside(rules("a", "[{backendRefs: [{port: 80}]}]")),
            vec!["b.yaml:7:26 missing-field HTTPRoute shop/a, spec.rules[0].backendRefs[0]: missing field `name`"],
        ),
        (
            beside(rules("a", "[{sessionPersistence: {idleTimeout: 1m}}]")),
            vec!["b.yaml:7:33 unsupported-field HTTPRoute shop/a, spec.rules[0].sessionPersistence.idleTimeout: is not supported yet"],
        ),
        (
            beside(rules("a", "[{matches: [{method: get}], timeouts: {request: 1.5s}}]")),
            vec![
                "b.yaml:7:23 invalid-value HTTPRoute shop/a, spec.rules[0].matches[0].method: unknown value \"get\"; did you mean \"GET\"?",
                "b.yaml:7:49 invalid-value HTTPRoute shop/a, spec.rules[0].timeouts.request: \"1.5s\" is not a duration such as 1m30s (GEP-2257)",
            ],
        ),
        (
            beside(route("HTTPRoute", "a", &format!("  parentRefs: [{{kind: Service, name: catalog}}]\n  rules: {forward}"))),
            vec![
                "b.yaml:6:16 parent-group HTTPRoute shop/a, spec.parentRefs[0]: there is no kind Service in group gateway.networking.k8s.io, the default for parents; write group: \"\"",
            ],
        ),
        (
            beside(route("HTTPRoute", "a", &format!("  parentRefs: [{{name: catalog}}]\n  rules: {forward}"))),
            vec![
                "b.yaml:6:16 parent-kind HTTPRoute shop/a, spec.parentRefs[0]: is attached to Gateway shop/catalog, which the mesh does not read; there is a Service of this name; to attach to the Service, write group: \"\" and kind: Service",
            ],
        ),
        (
            beside(route("HTTPRoute", "a", &format!("  parentRefs: [{{name: edge}}]\n  rules: {forward}"))),
            vec![
                "b.yaml:6:16 parent-not-handled HTTPRoute shop/a, spec.parentRefs[0]: is attached to Gateway shop/edge: the mesh attaches routes to Services, so it has no effect there",
            ],
        ),
        (
            beside(route("HTTPRoute", "a", &format!("  rules: {forward}"))),
            vec![
                "b.yaml:5:1 no-parent HTTPRoute shop/a, spec: is attached to nothing: it has no parentRefs; a parent in the mesh is a Service: group: \"\", kind: Service",
            ],
        ),
        (
            beside(rules("a", forward).replace("name: catalog,", "name: catalogue,")),
            vec![
                "b.yaml:6:43 unknown-parent HTTPRoute shop/a, spec.parentRefs[0].name: there is no Service shop/catalogue; did you mean catalog or catalog-v1?",
            ],
        ),
        (
            beside(rules("a", forward).replace("name: catalog, port: 80", "name: cart, port: 81")),
            vec![
                "b.yaml:6:55 unknown-parent-port HTTPRoute shop/a, spec.parentRefs[0].port: the Service has no such TCP port; cart has the ports 80 (http), 9090 (metrics)",
            ],
        ),
        (
            beside(rules("a", forward).replace("name: catalog,", "name: world,")),
            vec![
                "b.yaml:6:43 unsupported-parent HTTPRoute shop/a, spec.parentRefs[0].name: a Service of type ExternalName cannot be a parent (GEP-1294)",
            ],
        ),
        (
            beside(rules("a", forward).replace("name: catalog, port: 80", "name: stock")),
            vec![
                "b.yaml:6:16 parent-protocol HTTPRoute shop/a, spec.parentRefs[0]: the protocol of the port is not HTTP, by its appProtocol or its name; route connections with a TCPRoute, or declare appProtocol: http on the port",
            ],
        ),
        (
            beside(rules("a", forward) + &route("TCPRoute", "b", &format!("{PARENT}  rules: [{{backendRefs: [{{name: stock, port: 5432}}]}}]"))),
            vec![
                "b.yaml:13:16 conflicting-route TCPRoute shop/b, spec.parentRefs[0]: HTTPRoute shop/a is active on every port that this route selects; of a port's routes one kind is active: GRPCRoute before HTTPRoute before one TCPRoute",
            ],
        ),
        (
            beside(rules("a", forward) + &rules("b", forward)),
            vec![
                "b.yaml:14:3 shadowed-route HTTPRoute shop/b, spec.rules: never applies on port 80 of Service shop/catalog: HTTPRoute shop/a matches the same requests first; of equal matches, that of the older route applies, then by name",
            ],
        ),
        (
            beside(rules("a", "[{matches: [{path: {value: /a}}], backendRefs: [{name: catalog-v1, port: 80}]}, {matches: [{path: {value: /a/}}, {path: {value: /b}}], backendRefs: [{name: cart, port: 80}]}]")),
            vec![
                "b.yaml:7:101 shadowed-match HTTPRoute shop/a, spec.rules[1].matches[0]: never applies on port 80 of Service shop/catalog: rules[0] matches the same requests first",
            ],
        ),
        (
            beside(rules("a", "[{backendRefs: [{name: catalog-v2, port: 80}]}]")),
            vec![
                "b.yaml:7:27 unknown-backend HTTPRoute shop/a, spec.rules[0].backendRefs[0].name: there is no Service shop/catalog-v2; did you mean catalog-v1 or catalog?",
            ],
        ),
        (
            beside(rules("a", "[{backendRefs: [{name: catalog-v1, port: 8080}]}]")),
            vec![
                "b.yaml:7:45 unknown-backend-port HTTPRoute shop/a, spec.rules[0].backendRefs[0].port: Service shop/catalog-v1 has no port 8080; catalog-v1 has the port 80",
            ],
        ),
        (
            beside(rules("a", "[{backendRefs: [{name: old, namespace: archive, port: 80}]}]")
                + &service("old", "ports: [{port: 80}]").replace("shop", "archive")),
            vec![
                "b.yaml:7:26 backend-not-permitted HTTPRoute shop/a, spec.rules[0].backendRefs[0]: no ReferenceGrant in archive permits a HTTPRoute of shop to refer to Service archive/old; add a ReferenceGrant to namespace archive: from HTTPRoute of shop, to Service old",
            ],
        ),
        (
            beside(rules("a", "[{backendRefs: [{name: world, port: 80}]}, {backendRefs: [{group: example.com, kind: Bucket, name: b}]}]")),
            vec![
                "b.yaml:7:27 unsupported-backend HTTPRoute shop/a, spec.rules[0].backendRefs[0].name: Service shop/world is of type ExternalName, which cannot be a backend (GEP-1294)",
                "b.yaml:7:89 unsupported-backend HTTPRoute shop/a, spec.rules[1].backendRefs[0].kind: Bucket shop/b cannot be a backend: only Services can",
                "b.yaml:7:53 shadowed-match",
            ],
        ),
        (
            beside(rules("a", "[{backendRefs: [{name: stock, port: 5432}]}]")),
            vec![
                "b.yaml:7:40 backend-protocol HTTPRoute shop/a, spec.rules[0].backendRefs[0].port: the protocol of Service shop/stock:5432 is tcp, which does not fit a HTTPRoute",
            ],
        ),
        (
            beside("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: c-1, namespace: shop,\n  labels: {kubernetes.io/service-name: crat}}, addressType: IPv4, endpoints: [], ports: [{port: 80}]}\n".into()),
            vec![
                "b.yaml:2:12 unknown-service EndpointSlice shop/c-1, metadata.labels.kubernetes.io/service-name: there is no Service shop/crat; did you mean cart?",
            ],
        ),
        (
            beside("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: c-1, namespace: shop,\n  labels: {kubernetes.io/service-name: cart}}, addressType: IPv4, endpoints: [],\n  ports: [{port: 80}]}\n".into()),
            vec![
                "b.yaml:3:3 unknown-slice-port EndpointSlice shop/c-1, ports: has no name, and Service shop/cart has no port without one; the endpoints of a port are found by its name: cart has the ports 80 (http), 9090 (metrics)",
            ],
        ),
        (
            alone(&(service("a", "clusterIP: 10.0.0.1, ports: [{port: 80}]") + &service("b", "clusterIP: 10.0.0.1, ports: [{port: 80}]"))),
            vec![
                "b.yaml:10:8 duplicate-cluster-ip Service shop/b, spec.clusterIP: 10.0.0.1 is the cluster IP of Service shop/a too, which gets its connections",
            ],
        ),
        (
            alone("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n"),
            vec!["b.yaml no-resources -, : there is no resource that the mesh reads, only Deployment"],
        ),
        (
            beside(rules("a", "[{matches: [{path: {value: /a}}]}]")),
            vec![
                "b.yaml:7:11 no-backends HTTPRoute shop/a, spec.rules[0]: has no backends: every request that it matches is answered with 500; add backendRefs",
            ],
        ),
        (
            beside(rules("a", "[{backendRefs: [{name: cart, port: 80, weight: 0}]}]")),
            vec![
                "b.yaml:7:12 zero-weights HTTPRoute shop/a, spec.rules[0].backendRefs: every weight is 0: every request that it matches is answered with 500",
            ],
        ),
        (
            beside(rules("a", "[{backendRefs: [{name: cart, port: 80}], timeouts: {request: 1s}, retry: {backoff: 2s}}]")),
            vec![
                "b.yaml:7:84 retry-beyond-timeout HTTPRoute shop/a, spec.rules[0].retry.backoff: no retry can happen: backoff is not shorter than timeouts.request",
            ],
        ),
        (
            alone(&service("a", "ports: [{port: 80, appProtocol: htp}]")),
            vec![
                "b.yaml:5:27 unknown-app-protocol Service shop/a, spec.ports[0].appProtocol: unknown protocol \"htp\": the protocol of each connection is detected; did you mean \"http\"?",
            ],
        ),
        (
            beside(route("HTTPRoute", "a", &format!("{PARENT}  hostnames: [catalog]\n  rules: {forward}"))),
            vec![
                "b.yaml:7:3 ignored-field HTTPRoute shop/a, spec.hostnames: has no effect on a route that is attached to a Service (GEP-1294)",
            ],
        ),
    ]
}

#[test]
fn every_mistake_is_reported_at_its_place_with_the_next_step() {
    let mut wrong = Vec::new();
    for (files, expected) in cases() {
        let texts: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let found = check_texts(&texts);
        let is_found = |one: &&str| found.iter().any(|found| found.starts_with(one));
        if found.len() != expected.len() || !expected.iter().all(is_found) {
            wrong.push(format!("found {found:#?}, not {expected:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_of_files_is_produced() {
    let root = tempfile::tempdir().unwrap();
    let missing = check(vec![Input::Path(root.path().join("missing.yaml"))]);
    let whole = check(vec![Input::Text("a.yaml".into(), services())]);
    let mut produced: BTreeSet<Code> =
        missing.problems.iter().chain(&whole.problems).map(|one| one.problem.code).collect();
    for (files, _) in cases().into_iter().chain([(policies::asking_each_other(), vec![])]) {
        let inputs = files.into_iter().map(|(name, text)| Input::Text(name.into(), text)).collect();
        produced.extend(check(inputs).problems.iter().map(|one| one.problem.code));
    }
    let of_clusters = [
        Code::UnknownTargetPort,
        Code::ControlPlaneNotReady,
        Code::UnusableWebhook,
        Code::OldCluster,
        Code::MissingCrds,
        Code::OldCrds,
        Code::ClockSkew,
        Code::ExpiringRoots,
        Code::OldSidecar,
        Code::MissingSidecar,
        Code::CniPluginNotReady,
        Code::ContradictingAppProtocols,
        Code::PlaintextClient,
        Code::UnreadableSidecar,
        Code::NotInstalled,
        Code::StrictIsSafe,
    ];
    let all: BTreeSet<Code> = Code::ALL.iter().copied().filter(|code| !of_clusters.contains(code)).collect();
    assert_eq!(produced, all);
}

#[test]
fn a_valid_mesh_has_no_problem_but_the_note_on_its_endpoints() {
    let valid = rules("a", "[{backendRefs: [{name: catalog-v1, port: 80}]}]");
    assert_eq!(check_texts(&[("a.yaml", &services()), ("b.yaml", &valid)]), [""; 0]);
    let report = check(vec![Input::Text("a.yaml".into(), services())]);
    let [one] = &*report.problems else { panic!("{report:?}") };
    assert!(
        one.problem.message.starts_with("Services shop/cart, shop/catalog, shop/catalog-v1, shop/stock"),
        "{one:?}"
    );
}

#[test]
fn other_kinds_are_counted_and_are_no_problem() {
    let text = services()
        + "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {anything: 1}}\n"
        + "---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}\n"
        + "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: a}}\n"
        + "---\n{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}\n";
    assert_eq!(check_texts(&[("a.yaml", &text)]), [""; 0]);
    let report = check(vec![Input::Text("a.yaml".into(), text)]);
    let kinds: Vec<_> = report.not_handled.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    assert_eq!(kinds, ["1 Deployment", "1 Gateway", "1 Service", "1 ServiceAccount"]);
    assert_eq!((report.accepted, report.files), (5, 1));
}

#[test]
fn directories_files_and_texts_are_checked_together() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("config");
    fs::create_dir_all(directory.join("below")).unwrap();
    let empty = check(vec![Input::Path(directory.clone())]);
    let [one] = &*empty.problems else { panic!("{empty:?}") };
    assert_eq!((one.problem.code, one.file.as_ref()), (Code::NoResources, Some(&directory)));
    fs::write(directory.join("below/services.yaml"), services()).unwrap();
    fs::write(directory.join("notes.txt"), "no YAML: [").unwrap();
    // A file that is named is read whatever its name is.
    let file = root.path().join("route.txt");
    fs::write(&file, rules("a", "[{backendRefs: [{name: cart, port: 80}]}]")).unwrap();
    let text = rules("b", "[{backendRefs: [{name: card, port: 80}], matches: [{path: {value: /b}}]}]");
    let report = check(vec![Input::Path(directory), Input::Path(file), Input::Text("-".into(), text)]);
    assert_eq!((report.files, report.accepted, report.count(Severity::Error)), (3, 7, 1));
    assert!(
        line(&report.problems[0]).contains("did you mean cart?")
            || line(&report.problems[1]).contains("did you mean cart?")
    );
}

#[test]
fn a_problem_in_a_list_is_found_at_its_item() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n\
        - apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec:\n    ports:\n    - port: 80\n      appProtocol: htp\n";
    let found = check_texts(&[("a.yaml", list)]);
    assert!(found[0].starts_with("a.yaml:11:7 unknown-app-protocol Service default/a"), "{found:?}");
}

#[test]
fn the_documentation_lists_every_code_under_its_severity() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/check.md")).unwrap();
    let mut listed = Vec::new();
    for section in page.split("\n## ").skip(1) {
        let severity = match section.lines().next() {
            Some("Errors") => Severity::Error,
            Some("Warnings") => Severity::Warning,
            _ => Severity::Info,
        };
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        listed.extend(rows.map(|(code, _)| (code.to_owned(), severity)));
    }
    let codes: Vec<_> = Code::ALL.iter().map(|code| (code.name().to_owned(), code.severity())).collect();
    assert_eq!(listed, codes);
}
