//! One request of the API server: an AdmissionReview in, an AdmissionReview out (admission.k8s.io/v1).
//!
//! The pod is handled as JSON, so that fields of a newer cluster are preserved. The response has a JSON Patch.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::injection::{Injection, Refusal, Settings, inject};

/// The outcome, for metrics and logs.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Injected,
    /// With the reason.
    Skipped(&'static str),
    Refused(Refusal),
}

/// A request, its outcome and its response.
#[derive(Debug)]
pub(super) struct Reviewed {
    /// Namespace and name of the pod; the name may be a prefix of it.
    pub(super) pod: String,
    pub(super) outcome: Outcome,
    pub(super) response: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionReview {
    api_version: String,
    kind: String,
    request: AdmissionRequest,
}

#[derive(Deserialize)]
struct AdmissionRequest {
    uid: String,
    #[serde(default)]
    namespace: String,
    object: Value,
}

/// Answers a request. Returns an error if it is not an AdmissionReview of v1.
pub(super) fn review(body: &[u8], settings: &Settings) -> Result<Reviewed, String> {
    let AdmissionReview { api_version, kind, request } =
        serde_json::from_slice(body).map_err(|error| format!("not an AdmissionReview: {error}"))?;
    if (api_version.as_str(), kind.as_str()) != ("admission.k8s.io/v1", "AdmissionReview") {
        return Err(format!("not an AdmissionReview of admission.k8s.io/v1, but {kind} of {api_version}"));
    }
    let AdmissionRequest { uid, namespace, object } = request;
    let metadata = |name: &str| object.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
    let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or_default();
    let pod = format!("{namespace}/{name}");
    let mut response = json!({ "uid": uid, "allowed": true });
    let outcome = match inject(object.clone(), settings) {
        Ok(Injection::Injected { pod, warnings }) => {
            let patch = json_patch::diff(&object, &pod);
            if !patch.0.is_empty() {
                let text = serde_json::to_vec(&patch).map_err(|error| error.to_string())?;
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(STANDARD.encode(text));
            }
            if !warnings.is_empty() {
                response["warnings"] = json!(warnings);
            }
            Outcome::Injected
        }
        Ok(Injection::Skipped(reason)) => Outcome::Skipped(reason),
        Err(refusal) => {
            response["allowed"] = json!(false);
            response["status"] = json!({ "code": 422, "reason": "Invalid", "message": refusal.to_string() });
            Outcome::Refused(refusal)
        }
    };
    let response = json!({ "apiVersion": api_version, "kind": kind, "response": response });
    Ok(Reviewed { pod, outcome, response })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::injection::testing::settings;

    fn request(pod: &Value) -> Vec<u8> {
        let request =
            json!({"uid": "u-1", "namespace": "shop", "operation": "CREATE", "object": pod, "unknown": 1});
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
            .to_string()
            .into()
    }

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "web"}]}})
    }

    #[test]
    fn the_patch_makes_the_injected_pod() {
        let Reviewed { pod: name, outcome, response } = review(&request(&pod()), &settings()).unwrap();
        assert_eq!((name.as_str(), outcome), ("shop/web-", Outcome::Injected));
        let response = &response["response"];
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-1"), &json!(true)));
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
        let mut patched = pod();
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(
            inject(pod(), &settings()),
            Ok(Injection::Injected { pod: patched.clone(), warnings: vec![] })
        );
        let again = review(&request(&patched), &settings()).unwrap().response;
        assert_eq!(again["response"], json!({"uid": "u-1", "allowed": true}), "nothing changes");
    }

    #[test]
    fn a_refusal_denies_the_pod_and_names_the_annotation() {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"outrigger.dev/log-level": "loud"});
        let Reviewed { outcome, response, .. } = review(&request(&pod), &settings()).unwrap();
        assert!(matches!(outcome, Outcome::Refused(_)));
        assert_eq!(response["response"]["allowed"], false);
        let message = response["response"]["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("metadata.annotations[outrigger.dev/log-level]: "), "{message}");
    }

    #[test]
    fn a_pod_that_is_left_alone_has_no_patch() {
        let mut pod = pod();
        pod["spec"]["hostNetwork"] = json!(true);
        let response = review(&request(&pod), &settings()).unwrap().response;
        assert_eq!(response["response"], json!({"uid": "u-1", "allowed": true}));
    }

    #[test]
    fn what_is_no_admission_review_is_an_error() {
        let other = br#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "", "object": 1}}"#;
        for body in [&b""[..], b"{}", b"[1]", b"{\"apiVersion\": 1}", other] {
            assert!(review(body, &settings()).is_err());
        }
        let Reviewed { outcome, .. } = review(&request(&json!([])), &settings()).unwrap();
        assert!(matches!(outcome, Outcome::Refused(_)));
    }
}
