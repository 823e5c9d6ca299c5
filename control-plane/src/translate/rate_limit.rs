//! Envoy's rate limit filters of RateLimitPolicies (`LocalRateLimit`, `RateLimit`).
//!
//! The filters of a listener have every limit of its port once, so that a request of any route counts for the same limit. Which limits it
//! counts for follows from the descriptors that its route makes: those of the policies of the whole port and of the route.

use std::borrow::Cow;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_proto::xds::common_ratelimit::rate_limit_descriptor::Entry as WireEntry;
use outrigger_proto::xds::common_ratelimit::{LocalRateLimitDescriptor, XRateLimitHeadersRfcVersion};
use outrigger_proto::xds::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use outrigger_proto::xds::core::{ApiVersion, GrpcService, RuntimeFractionalPercent};
use outrigger_proto::xds::local_ratelimit::LocalRateLimit;
use outrigger_proto::xds::metadata_key::MetadataKey;
use outrigger_proto::xds::metadata_key::metadata_key::{PathSegment, path_segment::Segment};
use outrigger_proto::xds::ratelimit::RateLimit as GlobalFilter;
use outrigger_proto::xds::ratelimit::rate_limit::XRateLimitHeadersRfcVersion as GlobalHeaders;
use outrigger_proto::xds::ratelimit_config::RateLimitServiceConfig;
use outrigger_proto::xds::route;
use outrigger_proto::xds::route::rate_limit::Action;
use outrigger_proto::xds::route::rate_limit::action::{
    ActionSpecifier, GenericKey, HeaderValueMatch, MaskedRemoteAddress, MetaData, RemoteAddress,
    RequestHeaders,
};
use outrigger_proto::xds::type_url;
use outrigger_proto::xds::types::{FractionalPercent, TokenBucket};

use super::applied::{Applied, Configs};
use super::destination::Target;
use super::matching;
use super::rbac::{CLAIMS, OF_TOKENS};
use super::wire::{any, boolean, duration, uint};
use crate::model::policy::Policy;
use crate::model::rate_limit::{Entry, GlobalLimit, LocalLimit, RateLimit};
use crate::model::registration::WorkloadPort;
use crate::model::route::{PathMatch, Route, ValuePattern};
use crate::model::service::ServiceKey;

/// The name of the filter for the limits that the sidecar counts, which has the descriptors of stage 0.
const LOCAL: &str = "outrigger.rate_limit.local";

/// The names of the filters that ask services: one for each stage up to 10, the highest that Envoy has.
const GLOBAL: [&str; 10] = [
    "outrigger.rate_limit.global.1",
    "outrigger.rate_limit.global.2",
    "outrigger.rate_limit.global.3",
    "outrigger.rate_limit.global.4",
    "outrigger.rate_limit.global.5",
    "outrigger.rate_limit.global.6",
    "outrigger.rate_limit.global.7",
    "outrigger.rate_limit.global.8",
    "outrigger.rate_limit.global.9",
    "outrigger.rate_limit.global.10",
];
const FIRST_STAGE: u32 = 1;

/// How many values of an entry have buckets of their own at a time. The one that was not used for longest gives way.
const VALUES: u32 = 1000;

/// The key of the entry that says which limit of which policy a local descriptor is for.
const LIMIT: &str = "limit";

/// Stands for the verified identity of the caller; and what stands for a caller without one, and for a claim that is not there.
const IDENTITY: &str = "%DOWNSTREAM_PEER_URI_SAN%";
const ANONYMOUS: &str = "anonymous";

/// The policies of a port.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    policies: Applied<'a, RateLimit>,
    /// Those of the port and of its routes, each once.
    all: Vec<&'a Policy<RateLimit>>,
    services: Vec<Service<'a>>,
    cluster_domain: &'a str,
}

/// What one filter asks.
#[derive(Debug, PartialEq)]
struct Service<'a> {
    cluster: Name,
    domain: &'a str,
    timeout: Duration,
    fails_closed: bool,
}

impl<'a> Limits<'a> {
    /// Of the ports `ports`, which share a port of the application, with these routes.
    pub(super) fn new(
        policies: Applied<'a, RateLimit>,
        ports: &[&WorkloadPort],
        routes: &[&Route],
        cluster_domain: &'a str,
    ) -> Self {
        let mut all = policies.whole();
        for policy in routes.iter().flat_map(|route| policies.at_route(route)) {
            if !all.iter().any(|other| other.name == policy.name) {
                all.push(policy);
            }
        }
        // A service is not asked about the questions that it is asked itself, which would have no end.
        let name = |port: &WorkloadPort, key: &ServiceKey| {
            Target::service(key.clone(), port.service_port).name(cluster_domain)
        };
        let is_here = |asked: &Service<'_>| {
            ports.iter().any(|port| port.services.iter().any(|key| name(port, key) == asked.cluster))
        };
        let mut services = Vec::new();
        // Nor is one that could not answer without the answer to this question.
        let asking = all.iter().filter(|policy| !policy.is_unasked_at(ports));
        let asked = asking.filter_map(|policy| service(policy, cluster_domain));
        for service in asked.filter(|asked| !is_here(asked)) {
            if !services.contains(&service) && services.len() < GLOBAL.len() {
                services.push(service);
            }
        }
        Self { policies, all, services, cluster_domain }
    }

    /// Returns the HTTP filters, in order: none without a policy. What the sidecar refuses itself, no service is asked about.
    pub(super) fn filters(&self) -> Configs {
        let limits: Vec<_> = self.all.iter().flat_map(|policy| local_limits(policy)).collect();
        let local =
            (!limits.is_empty()).then(|| (LOCAL, any(type_url::LOCAL_RATE_LIMIT, &local_filter(limits))));
        let global = GLOBAL.into_iter().zip(FIRST_STAGE..).zip(&self.services);
        let global =
            global.map(|((name, stage), service)| (name, any(type_url::RATE_LIMIT, &service.filter(stage))));
        local.into_iter().chain(global).collect()
    }

    /// Adds to a route what makes the descriptors of its requests: for the policies of the port, and for those of the route `of` of the mesh.
    pub(super) fn describe(&self, to: &mut route::Route, of: Option<&Route>) {
        let Some(route::route::Action::Route(action)) = &mut to.action else { return };
        let of_route = of.into_iter().flat_map(|route| self.policies.at_route(route));
        let mut done = Vec::new();
        for policy in self.policies.whole().into_iter().chain(of_route) {
            if !done.contains(&&policy.name) {
                action.rate_limits.extend(self.descriptors(policy));
                done.push(&policy.name);
            }
        }
    }

    fn descriptors(&self, policy: &Policy<RateLimit>) -> Vec<route::RateLimit> {
        let local = policy.spec.local.iter().enumerate().map(|(at, limit)| {
            let own = generic(LIMIT, &limit_name(policy, at), "");
            (0, [own].into_iter().chain(limit.by.iter().map(action)).collect())
        });
        let service = service(policy, self.cluster_domain);
        let stage = (FIRST_STAGE..).zip(&self.services).find(|(_, other)| service.as_ref() == Some(other));
        let asked = stage.into_iter().zip(&policy.spec.global);
        let global = asked.flat_map(|((stage, _), global)| {
            global.descriptors.iter().map(move |by| (stage, by.iter().map(action).collect()))
        });
        let made = |(stage, actions)| route::RateLimit { stage: uint(stage), actions, ..Default::default() };
        local.chain(global).map(made).collect()
    }
}

fn service<'a>(policy: &'a Policy<RateLimit>, cluster_domain: &str) -> Option<Service<'a>> {
    let namespace = &policy.name.namespace;
    let GlobalLimit { service, domain, timeout, fails_closed, descriptors: _ } =
        policy.spec.global.as_ref()?;
    Some(Service {
        cluster: Target::service(service.key(namespace), service.port).name(cluster_domain),
        domain: domain.as_ref().unwrap_or(namespace),
        timeout: *timeout,
        fails_closed: *fails_closed,
    })
}

/// The name of a limit: `shop/cart/0`.
fn limit_name(policy: &Policy<RateLimit>, at: usize) -> String {
    format!("{}/{at}", policy.name)
}

fn local_filter(descriptors: Vec<LocalRateLimitDescriptor>) -> LocalRateLimit {
    let all = RuntimeFractionalPercent {
        default_value: Some(FractionalPercent { numerator: 100, ..Default::default() }),
        ..Default::default()
    };
    LocalRateLimit {
        stat_prefix: LOCAL.into(),
        filter_enabled: Some(all.clone()),
        filter_enforced: Some(all),
        descriptors,
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03.into(),
        always_consume_default_token_bucket: boolean(false),
        rate_limited_as_resource_exhausted: true,
        max_dynamic_descriptors: uint(VALUES),
        enable_retry_after_header: true,
        ..Default::default()
    }
}

fn local_limits(policy: &Policy<RateLimit>) -> impl Iterator<Item = LocalRateLimitDescriptor> {
    policy.spec.local.iter().enumerate().map(|(at, limit)| {
        let LocalLimit { by, requests, per, burst } = limit;
        let own = WireEntry { key: LIMIT.into(), value: limit_name(policy, at) };
        let entry = |entry: &Entry| WireEntry {
            key: key(entry).into(),
            // Without a value, each has its own bucket.
            value: value(entry).unwrap_or_default().into(),
        };
        LocalRateLimitDescriptor {
            entries: [own].into_iter().chain(by.iter().map(entry)).collect(),
            token_bucket: Some(TokenBucket {
                max_tokens: *burst,
                tokens_per_fill: uint(*requests),
                fill_interval: duration(per.length()),
            }),
            ..Default::default()
        }
    })
}

impl Service<'_> {
    fn filter(&self, stage: u32) -> GlobalFilter {
        let Self { cluster, domain, timeout, fails_closed } = self;
        let target = EnvoyGrpc { cluster_name: cluster.to_string(), ..Default::default() };
        GlobalFilter {
            domain: (*domain).into(),
            stage,
            timeout: duration(*timeout),
            failure_mode_deny: *fails_closed,
            rate_limited_as_resource_exhausted: true,
            rate_limit_service: Some(RateLimitServiceConfig {
                grpc_service: Some(GrpcService {
                    target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
                    ..Default::default()
                }),
                transport_api_version: ApiVersion::V3.into(),
            }),
            enable_x_ratelimit_headers: GlobalHeaders::DraftVersion03.into(),
            enable_retry_after_header: true,
            ..Default::default()
        }
    }
}

/// Returns the key of an entry, as Envoy's actions name it.
fn key(entry: &Entry) -> Cow<'_, str> {
    match entry {
        Entry::Path(_) => "path".into(),
        Entry::Header(name, _) => (&**name).into(),
        Entry::Caller => "caller".into(),
        Entry::Claim(path) => format!("claim.{}", path.join(".")).into(),
        Entry::Address(32, 128) => "remote_address".into(),
        Entry::Address(..) => "masked_remote_address".into(),
    }
}

/// Returns the value of an entry. Returns None if the request has it.
fn value(entry: &Entry) -> Option<&str> {
    match entry {
        Entry::Path(PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::Regex(text))
        | Entry::Header(_, Some(ValuePattern::Exact(text) | ValuePattern::Regex(text))) => Some(text),
        Entry::Header(_, None) | Entry::Caller | Entry::Claim(_) | Entry::Address(..) => None,
    }
}

fn action(entry: &Entry) -> Action {
    let matches = |matcher| {
        ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
            descriptor_key: key(entry).into(),
            descriptor_value: value(entry).unwrap_or_default().into(),
            headers: vec![matcher],
            ..Default::default()
        })
    };
    let specifier = match entry {
        Entry::Path(path) => matches(matching::header(":path", &ValuePattern::Regex(with_query(path)))),
        Entry::Header(name, Some(pattern)) => matches(matching::header(name, pattern)),
        Entry::Header(name, None) => ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: name.to_string(),
            descriptor_key: name.to_string(),
            ..Default::default()
        }),
        Entry::Caller => return generic(&key(entry), IDENTITY, ANONYMOUS),
        Entry::Claim(path) => {
            let segment = |key: &str| PathSegment { segment: Some(Segment::Key(key.into())) };
            let path = [segment(CLAIMS)].into_iter().chain(path.iter().map(|name| segment(name))).collect();
            ActionSpecifier::Metadata(MetaData {
                descriptor_key: key(entry).into(),
                metadata_key: Some(MetadataKey { key: OF_TOKENS.into(), path }),
                default_value: ANONYMOUS.into(),
                ..Default::default()
            })
        }
        Entry::Address(32, 128) => ActionSpecifier::RemoteAddress(RemoteAddress {}),
        Entry::Address(v4, v6) => ActionSpecifier::MaskedRemoteAddress(MaskedRemoteAddress {
            v4_prefix_mask_len: uint((*v4).into()),
            v6_prefix_mask_len: uint((*v6).into()),
        }),
    };
    Action { action_specifier: Some(specifier) }
}

fn generic(key: &str, value: &str, default: &str) -> Action {
    let key = GenericKey {
        descriptor_key: key.into(),
        descriptor_value: value.into(),
        default_value: default.into(),
    };
    Action { action_specifier: Some(ActionSpecifier::GenericKey(key)) }
}

/// Returns the expression of a path with any query: the pseudo-header has both. A prefix is one of whole segments.
fn with_query(path: &PathMatch) -> Name {
    match path {
        PathMatch::Exact(path) => format!("{}(\\?.*)?", regex::escape(path)),
        PathMatch::Prefix(all) if **all == *"/" => ".*".into(),
        PathMatch::Prefix(path) => format!("{}([/?].*)?", regex::escape(path)),
        PathMatch::Regex(expression) => format!("({expression})(\\?.*)?"),
    }
    .into()
}
