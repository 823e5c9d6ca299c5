//! Reads an object of a cluster's API server, leniently: the server's schema admitted it, and may be newer than ours.
//!
//! An unknown field is ignored and reported, and so is a preference that is not supported. Anything else that is not supported is
//! refused, as in files. An error in an object that is active all the same, such as an mTLS mode that is not known, is reported as refused.

use serde_json::Value;

use super::change::{Diagnostic, IgnoredField, ResourceChange, Update};
use super::origin::Origin;
use crate::model::diagnostic::Severity;
use crate::model::resource::{Decoded, Outcome, decode_admitted};

/// Reads an object: returns a changed resource or refusals, and the fields that were ignored.
pub fn read(object: Value) -> Update {
    let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (meta("namespace"), meta("name"));
    let (uid, resource_version) = (meta("uid"), meta("resourceVersion"));
    let version = Some(resource_version.clone());
    let origin = Origin::Object { namespace, name, uid, resource_version };
    let (Decoded { title, id, outcome, stand_in, item: _ }, ignored) = decode_admitted(object);
    let ignored = ignored.into_iter().map(|problem| IgnoredField {
        origin: origin.clone(),
        resource: title.clone().unwrap_or_default(),
        field: problem.field,
        reason: problem.message,
    });
    let ignored = ignored.collect();
    let refusal = |problem| Diagnostic { origin: origin.clone(), resource: title.clone(), problem };
    match (id, outcome) {
        (Some(id), Outcome::Accepted(resource)) => {
            let errors = resource.remarks.iter().filter(|remark| remark.code.severity() == Severity::Error);
            let refusals = errors.cloned().map(refusal).collect();
            let change = ResourceChange { id, origin: origin.clone(), version, resource: Some(resource) };
            Update { changes: vec![change], refusals, ignored, stand_in: None }
        }
        (_, outcome) => {
            let problems = if let Outcome::Refused(problems) = outcome { problems } else { Vec::new() };
            let refusals = problems.into_iter().map(refusal).collect();
            let stand_in = stand_in.map(|resource| {
                let id = resource.metadata.id.clone();
                ResourceChange { id, origin: origin.clone(), version, resource: Some(resource) }
            });
            Update { changes: Vec::new(), refusals, ignored, stand_in }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::mesh_builder::MeshBuilder;
    use crate::model::registration::MtlsMode;

    fn service(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
               "metadata": {"name": "cart", "namespace": "shop", "uid": "u1", "resourceVersion": "71", "later": 1}})
    }

    #[test]
    fn an_unknown_field_of_an_admitted_object_is_ignored_and_reported() {
        let update = read(service(json!({"ports": [{"port": 80, "mtu": 9000}]})));
        assert!(update.refusals.is_empty() && update.changes[0].resource.is_some());
        let ignored: Vec<_> = update.ignored.iter().map(ToString::to_string).collect();
        assert_eq!(
            ignored,
            [
                "object shop/cart at version 71, Service shop/cart, metadata.later: unknown field",
                "object shop/cart at version 71, Service shop/cart, spec.ports[0].mtu: unknown field",
            ]
        );
    }

    #[test]
    fn what_cannot_be_served_is_refused_also_when_it_was_admitted() {
        let update = read(service(json!({"ports": [{"port": 80}], "type": "Later"})));
        assert!(update.changes.is_empty());
        assert_eq!(update.refusals[0].problem.field, "spec.type");
    }

    #[test]
    fn a_namespace_with_an_unknown_mtls_mode_is_strict_and_reported() {
        let namespace = |mode: &str| {
            let labels = json!({ "outrigger.dev/mtls": mode });
            let metadata = json!({ "name": "shop", "labels": labels, "resourceVersion": "3" });
            read(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }))
        };
        let (strict, misspelled) = (namespace("strict"), namespace("strickt"));
        assert!(strict.refusals.is_empty());
        assert_eq!(
            misspelled.refusals[0].to_string(),
            "object shop at version 3, Namespace shop, metadata.labels.outrigger.dev/mtls: unknown mode \"strickt\": its pods are \
             strict; write permissive or strict [invalid-value]"
        );
        let mut mesh = MeshBuilder::default();
        mesh.apply(misspelled.changes.into_iter().map(|change| (change.id, change.resource)));
        assert_eq!(mesh.mesh().namespace(&"shop".into()).mtls, Some(MtlsMode::Strict));
    }

    #[test]
    fn a_service_with_session_affinity_is_served_without_it() {
        let affinity = json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}});
        let mut service = service(affinity);
        service["metadata"].as_object_mut().unwrap().remove("later");
        let update = read(service);
        assert!(update.refusals.is_empty() && update.changes[0].resource.is_some());
        let ignored: Vec<_> =
            update.ignored.iter().map(|one| (one.field.as_str(), one.reason.as_str())).collect();
        let reason = "is not supported yet";
        assert_eq!(ignored, [("spec.sessionAffinity", reason), ("spec.sessionAffinityConfig", reason)]);
    }
}
