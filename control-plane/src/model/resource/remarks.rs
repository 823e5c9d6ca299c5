//! Problems of a resource that is accepted all the same: fields without effect, protocol names that are probably misspelled, and mTLS modes
//! that are not known.

use serde_json::Value;

use super::{Body, Metadata};
use crate::model::diagnostic::{Code, Problem};
use crate::model::service::AppProtocol;
use crate::model::similar::misspelled;

/// Returns the problems of a resource that was decoded from `document`.
pub(super) fn of(document: &Value, metadata: &Metadata, body: &Body) -> Vec<Problem> {
    match body {
        Body::Namespace(_) => metadata.mtls_problem().into_iter().collect(),
        Body::Route(spec) if spec.parents.0.iter().any(|parent| parent.is_service()) => {
            let hostnames = document.pointer("/spec/hostnames").and_then(Value::as_array);
            hostnames.filter(|names| !names.is_empty()).map(|_| hostnames_ignored()).into_iter().collect()
        }
        Body::Service(_) => {
            let ports = document.pointer("/spec/ports").and_then(Value::as_array);
            let named = |(at, port): (usize, &Value)| unknown_protocol(at, port["appProtocol"].as_str()?);
            ports.into_iter().flatten().enumerate().filter_map(named).collect()
        }
        _ => Vec::new(),
    }
}

fn hostnames_ignored() -> Problem {
    let message = "has no effect on a route that is attached to a Service (GEP-1294)";
    Problem::of(Code::IgnoredField, "spec.hostnames", message)
}

/// A name that is not known is valid: its protocol is detected. One that resembles a known name is probably that.
fn unknown_protocol(at: usize, name: &str) -> Option<Problem> {
    let known = || AppProtocol::NAMES.iter().flat_map(|(_, names)| names.iter().copied());
    if known().any(|other| other.eq_ignore_ascii_case(name)) {
        return None;
    }
    let right = misspelled(name, known().filter(|other| other.len() > 2))?;
    let message = format!("unknown protocol {name:?}: the protocol of each connection is detected");
    let field = format!("spec.ports[{at}].appProtocol");
    Some(Problem::of(Code::UnknownAppProtocol, field, message).help(format!("did you mean {right:?}?")))
}
