//! An HTTP service that authorizes requests: what it is asked, and what its response means
//! (`envoy.extensions.filters.http.ext_authz.v3.HttpService`).
//!
//! Status 200 allows a request, another status below 500 denies it and is passed on to the client, and one from 500 on is a
//! failure of the service.

use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use outrigger_core::Name;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::{core, ext_authz as wire};

use super::answer::Answer;
use super::fields::{self, Names, PARTIAL_BODY, Selection};
use crate::field::{Unusable, each, non_empty, positive_duration, required, unsupported, unsupported_any};
use crate::header_mutation::{HeaderMutation, mutable_name};
use crate::question::{self, LONGEST_REPLY, Question, ServiceReply};
use crate::verdict::{Beginning, FilterRequest, Response};

/// The field in which the service lists fields that are removed from the request.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// A service.
#[derive(Debug, Clone)]
pub(super) struct HttpService {
    pub(super) cluster: Name,
    timeout: Duration,
    path: PathChange,
    allowed: Option<Names>,
    added: Vec<(HeaderName, HeaderValue)>,
    upstream: Option<Names>,
    upstream_appended: Option<Names>,
    client: Option<Names>,
    client_on_success: Option<Names>,
}

/// The path that the service is asked with.
#[derive(Debug, Clone)]
enum PathChange {
    Prefixed(String),
    Replaced(PathAndQuery),
}

impl HttpService {
    pub(super) fn decode(wire: wire::HttpService) -> Result<Self, Unusable> {
        let wire::HttpService {
            server_uri,
            path_prefix,
            path_override,
            authorization_request,
            authorization_response,
            retry_policy,
        } = wire;
        unsupported("retry_policy", retry_policy.is_some())?;
        // Only the cluster of the URI is used, as in Envoy: authority and path are those of the request.
        let core::HttpUri { uri: _, timeout, http_upstream_type } = required("server_uri", server_uri)?;
        let core::http_uri::HttpUpstreamType::Cluster(cluster) =
            required("server_uri.cluster", http_upstream_type)?;
        let path = match path_override.as_str() {
            "" => PathChange::Prefixed(prefix(path_prefix)?),
            _ if !path_prefix.is_empty() => {
                return Err(Unusable::new("path_override", "is set beside path_prefix"));
            }
            path => {
                let path = PathAndQuery::try_from(path).ok().filter(|_| path.starts_with('/'));
                PathChange::Replaced(path.ok_or_else(|| Unusable::new("path_override", "is no path"))?)
            }
        };
        #[allow(deprecated)] // the older form of the filter's own list
        let wire::AuthorizationRequest { allowed_headers, headers_to_add } =
            authorization_request.unwrap_or_default();
        let wire::AuthorizationResponse {
            allowed_upstream_headers,
            allowed_upstream_headers_to_append,
            allowed_client_headers,
            allowed_client_headers_on_success,
            dynamic_metadata_from_headers,
        } = authorization_response.unwrap_or_default();
        unsupported_any(&[(
            "authorization_response.dynamic_metadata_from_headers",
            dynamic_metadata_from_headers.is_some(),
        )])?;
        let response = |name: &str, wire| Names::optional(&format!("authorization_response.{name}"), wire);
        Ok(Self {
            cluster: non_empty("server_uri.cluster", cluster)?.into(),
            timeout: positive_duration("server_uri.timeout", timeout)?.unwrap_or(super::TIMEOUT),
            path,
            allowed: Names::optional("authorization_request.allowed_headers", allowed_headers)?,
            added: each("authorization_request.headers_to_add", headers_to_add, question::field)?,
            upstream: response("allowed_upstream_headers", allowed_upstream_headers)?,
            upstream_appended: response(
                "allowed_upstream_headers_to_append",
                allowed_upstream_headers_to_append,
            )?,
            client: response("allowed_client_headers", allowed_client_headers)?,
            client_on_success: response(
                "allowed_client_headers_on_success",
                allowed_client_headers_on_success,
            )?,
        })
    }

    /// Returns the question about a request. `body` is what was read of its body. `None` if the path with the prefix is none.
    pub(super) fn question(
        &self,
        shown: &Selection,
        request: &FilterRequest<'_>,
        body: Option<Beginning>,
    ) -> Option<Question> {
        let head = &request.head;
        let path = match &self.path {
            PathChange::Replaced(path) => path.clone(),
            PathChange::Prefixed(prefix) if prefix.is_empty() => PathAndQuery::try_from(head.path).ok()?,
            PathChange::Prefixed(prefix) => PathAndQuery::try_from(format!("{prefix}{}", head.path)).ok()?,
        };
        let shows = |name: &str| {
            let listed = self.allowed.as_ref().is_some_and(|names| names.contains(name));
            let always = name == header::AUTHORIZATION.as_str();
            // The length is that of the question's own body.
            name != header::CONTENT_LENGTH.as_str()
                && !shown.is_disallowed(name)
                && (always || listed || shown.shows(name, false))
        };
        let mut fields = HeaderMap::new();
        if shown.raw {
            for (name, value) in fields::lines(head.headers, shows) {
                fields.append(name, value.clone());
            }
        } else {
            for name in head.headers.keys().filter(|name| shows(name.as_str())) {
                fields.insert(name, HeaderValue::try_from(fields::text_of(head.headers, name)).ok()?);
            }
        }
        if let Some(body) = &body {
            fields.insert(PARTIAL_BODY, HeaderValue::from_static(if body.is_cut { "true" } else { "false" }));
        }
        for (name, value) in &self.added {
            fields.insert(name, value.clone());
        }
        Some(Question {
            cluster: self.cluster.clone(),
            timeout: self.timeout,
            longest_reply: LONGEST_REPLY,
            is_grpc: false,
            method: head.method.clone(),
            authority: Authority::try_from(head.authority).ok()?,
            path,
            fields,
            body: body.map(|body| body.bytes).unwrap_or_default(),
        })
    }

    /// Returns what a reply means.
    pub(super) fn answer(&self, reply: &ServiceReply) -> Answer {
        match reply.status {
            StatusCode::OK => self.allowed(&reply.fields),
            status if status.is_server_error() || status.is_informational() => Answer::Error(None),
            status => Answer::Denied(Box::new(Response {
                reason: Reason::ExternalAuthorizationDenied,
                status,
                fields: self.of_denial(&reply.fields),
                body: Bytes::clone(&reply.body),
            })),
        }
    }

    fn allowed(&self, fields: &HeaderMap) -> Answer {
        let (mut request, mut response) = (HeaderMutation::default(), HeaderMutation::default());
        let listed = |names: &Option<Names>, name: &HeaderName| {
            // A matcher of many names may match some that no policy may change.
            names.as_ref().is_some_and(|names| names.contains(name.as_str()))
                && mutable_name("", name.as_str()).is_ok()
        };
        for name in fields.keys() {
            for (at, value) in fields.get_all(name).iter().enumerate() {
                if listed(&self.upstream, name) {
                    if at == 0 {
                        request.set(name.clone(), value.clone())
                    } else {
                        request.append(name.clone(), value.clone())
                    }
                } else if listed(&self.upstream_appended, name) {
                    request.append(name.clone(), value.clone());
                }
                if listed(&self.client_on_success, name) {
                    response.append(name.clone(), value.clone());
                }
            }
        }
        let lists = fields.get_all(TO_REMOVE).iter().filter_map(|value| value.to_str().ok());
        let names = lists.flat_map(|list| list.split(','));
        names.filter_map(|name| mutable_name("", name.trim()).ok()).for_each(|name| request.remove(name));
        Answer::Allowed { request, response }
    }

    fn of_denial(&self, fields: &HeaderMap) -> HeaderMap {
        let always = [header::WWW_AUTHENTICATE, header::LOCATION];
        let passes = |name: &HeaderName| {
            let listed = |names: &Names| always.contains(name) || names.contains(name.as_str());
            self.client.as_ref().is_none_or(listed) && mutable_name("", name.as_str()).is_ok()
        };
        let passing = fields.iter().filter(|(name, _)| passes(name));
        passing.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Returns the prefix of paths, which must be the beginning of one.
fn prefix(prefix: String) -> Result<String, Unusable> {
    let is_path = prefix.starts_with('/') && PathAndQuery::try_from(prefix.as_str()).is_ok();
    if prefix.is_empty() || (is_path && !prefix.contains('?')) {
        return Ok(prefix);
    }
    Err(Unusable::new("path_prefix", "is no path"))
}
