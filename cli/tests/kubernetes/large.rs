//! Much configuration: one large object.

use crate::load::Load;
use crate::manifests::{deployment, http_route, labelling, server};
use crate::namespace::Namespace;

#[test]
fn a_route_of_one_mebibyte_is_active() {
    let namespace = Namespace::meshed("large", "strict");
    namespace.apply(&deployment("web", 1, &server("")));
    let load = Load::start(&namespace, "http://web/", 10);
    namespace.ready("deploy/web");
    let value = "v".repeat(4000);
    let rule = |rule: usize| {
        let one = |at: usize| {
            format!(
                "{{headers: [{{name: x-{rule}-{at}, value: {value}}}, {{name: x-other, value: {value}}}]}}"
            )
        };
        let matches = (0..8).map(one).collect::<Vec<_>>().join(", ");
        format!("{{matches: [{matches}], backendRefs: [{{name: web, port: 80}}]}}")
    };
    let rules: Vec<_> = (0..15).map(rule).chain([labelling("large", "web", 80)]).collect();
    let large = http_route("web", 80, &rules.join(", "));
    assert!(large.len() > 950_000);
    namespace.apply(&large);
    namespace.has_conditions("httproute", "web", &["Accepted=True", "ResolvedRefs=True"]);
    load.is_routed("large", 20);
}
