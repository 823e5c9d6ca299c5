//! The issuers of tokens (`JwtProvider`) of an AuthenticationPolicy, and what it requires of them (`JwtRequirement`).

use std::time::Duration;

use outrigger_core::Name;
use outrigger_proto::xds::core::http_uri::HttpUpstreamType;
use outrigger_proto::xds::core::{DataSource, HttpUri, data_source};
use outrigger_proto::xds::jwt_authn::jwt_claim_to_header::PathSegment;
use outrigger_proto::xds::jwt_authn::jwt_provider::{JwksSourceSpecifier, NormalizePayload};
use outrigger_proto::xds::jwt_authn::jwt_requirement::RequiresType;
use outrigger_proto::xds::jwt_authn::{
    JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementOrList, RemoteJwks,
};

use super::destination::{Target, host};
use super::key_cluster;
use super::rbac::CLAIMS;
use super::wire::{duration, strings};
use crate::model::authentication::{Authentication, AuthenticationMode, CredentialPlace, Issuer, KeySource};
use crate::model::policy::Policy;
use crate::model::service::ServiceKey;

/// The longest time for one fetch of keys.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the issuers of a policy, by the names under which it requires them.
pub(super) fn providers(
    policy: &Policy<Authentication>,
    domain: &str,
) -> impl Iterator<Item = (String, JwtProvider)> {
    let namespace = &policy.name.namespace;
    let one = move |(at, issuer): (usize, &Issuer)| {
        let header_in_metadata =
            if has_limited_algorithms(issuer) { header(policy, at) } else { String::new() };
        (name(policy, at), JwtProvider { header_in_metadata, ..provider(issuer, namespace, domain) })
    };
    policy.spec.issuers.iter().enumerate().map(one)
}

/// Returns the algorithms that a later filter must enforce, with the name of each issuer and the name under which its tokens' headers are: Envoy
/// has no list of them, and what is in a set of keys elsewhere is not known here.
pub(super) fn limited_algorithms(
    policy: &Policy<Authentication>,
) -> impl Iterator<Item = (String, String, &[&'static str])> {
    let limited = policy.spec.issuers.iter().enumerate().filter(|(_, issuer)| has_limited_algorithms(issuer));
    limited.map(|(at, issuer)| (name(policy, at), header(policy, at), &issuer.algorithms[..]))
}

/// A set in the policy has keys for the algorithms alone.
fn has_limited_algorithms(issuer: &Issuer) -> bool {
    !issuer.algorithms.is_empty() && !matches!(issuer.keys, KeySource::Inline(_))
}

fn header(policy: &Policy<Authentication>, at: usize) -> String {
    format!("header of {}", name(policy, at))
}

/// Returns what a policy with issuers requires: a token of one of them; or if tokens are optional, none at all.
pub(super) fn requirement(policy: &Policy<Authentication>) -> JwtRequirement {
    let requirement = |of| JwtRequirement { requires_type: Some(of) };
    let issuers =
        (0..policy.spec.issuers.len()).map(|at| requirement(RequiresType::ProviderName(name(policy, at))));
    let mut requirements: Vec<_> = issuers.collect();
    if policy.spec.mode == AuthenticationMode::Optional {
        requirements.push(requirement(RequiresType::AllowMissing(Default::default())));
    }
    match requirements.len() {
        1 => requirements.remove(0),
        _ => requirement(RequiresType::RequiresAny(JwtRequirementOrList { requirements })),
    }
}

fn name(policy: &Policy<Authentication>, at: usize) -> String {
    format!("{}/{at}", policy.name)
}

fn provider(of: &Issuer, namespace: &str, domain: &str) -> JwtProvider {
    let Issuer { issuer, audiences, keys, algorithms: _, clock_skew, places, forwards, claim_headers } = of;
    let mut provider = JwtProvider {
        issuer: issuer.to_string(),
        audiences: strings(audiences),
        // A token that never expires could not be withdrawn.
        require_expiration: true,
        clock_skew_seconds: clock_skew.and_then(|skew| skew.as_secs().try_into().ok()).unwrap_or(0),
        forward: *forwards,
        payload_in_metadata: CLAIMS.into(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: vec!["scope".into()],
        }),
        jwks_source_specifier: Some(key_source(keys, namespace, domain)),
        ..Default::default()
    };
    for place in places {
        match place {
            CredentialPlace::Header { name, prefix } => provider
                .from_headers
                .push(JwtHeader { name: name.to_string(), value_prefix: prefix.to_string() }),
            CredentialPlace::Query(name) => provider.from_params.push(name.to_string()),
            CredentialPlace::Cookie(name) => provider.from_cookies.push(name.to_string()),
        }
    }
    let claim = |(path, header): &(Vec<Name>, Name)| claim_header(path, header);
    provider.claim_to_headers = claim_headers.iter().map(claim).collect();
    provider
}

/// A dot in `claim_name` leads into an object. The path has no such meaning, but older proxies do not know it.
fn claim_header(path: &[Name], header: &str) -> JwtClaimToHeader {
    let header_name = header.into();
    match path {
        [name] if !name.contains('.') => {
            JwtClaimToHeader { header_name, claim_name: name.to_string(), ..Default::default() }
        }
        path => {
            let segment = |name: &Name| PathSegment { key: name.to_string() };
            let claim_path = path.iter().map(segment).collect();
            JwtClaimToHeader { header_name, claim_path, ..Default::default() }
        }
    }
}

fn key_source(keys: &KeySource, policy_namespace: &str, domain: &str) -> JwksSourceSpecifier {
    match keys {
        KeySource::Inline(set) => JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(data_source::Specifier::InlineString(set.to_string())),
            ..Default::default()
        }),
        KeySource::Service { namespace, name, port, path, exists } => {
            let service = ServiceKey::new(namespace.as_deref().unwrap_or(policy_namespace), &**name);
            let uri = format!("http://{}:{port}{path}", host(&service, domain));
            let cluster = match exists {
                true => Target::service(service, *port).name(domain),
                false => key_cluster::NOWHERE.into(),
            };
            remote(uri, &cluster)
        }
        KeySource::Uri(uri) => remote(uri.uri.to_string(), &key_cluster::name(uri)),
    }
}

fn remote(uri: String, cluster: &str) -> JwksSourceSpecifier {
    JwksSourceSpecifier::RemoteJwks(RemoteJwks {
        http_uri: Some(HttpUri {
            uri,
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.into())),
            timeout: duration(FETCH_TIMEOUT),
        }),
        ..Default::default()
    })
}
