//! RateLimitPolicy, outrigger.dev/v1alpha1: how many requests are served.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::claim::claim_path;
use super::http_match::Path;
use super::named_match::ValueType;
use super::policy::{PolicyRules, PolicySpec, TargetRefs};
use super::strict::at;
use super::value::{
    GepDuration, HeaderName, HeaderValue, Integer, List, NamespaceName, ObjectName, Port, Text,
};
use crate::model::rate_limit::{Entry, GlobalLimit, GlobalService, LocalLimit, RateLimit, Unit};
use crate::model::route::PathMatch;

/// How long the service may take unless the policy says otherwise: the first question may need a new connection with mTLS.
const TIMEOUT: Duration = Duration::from_millis(100);

/// The `spec` of a RateLimitPolicy.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WireSpec")]
#[schemars(with = "WireSpec")]
pub(crate) struct RateLimitPolicySpec(pub(crate) PolicySpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSpec {
    #[serde(default)]
    target_refs: TargetRefs,
    local: Option<List<WireLimit, 1, 16>>,
    global: Option<WireGlobal>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireLimit {
    requests: Integer<1, 1_000_000_000>,
    per: WireUnit,
    burst: Option<Integer<1, 1_000_000_000>>,
    by: Option<By>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum WireUnit {
    Second,
    Minute,
    Hour,
    Day,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireGlobal {
    service: WireService,
    domain: Option<Text<253>>,
    timeout: Option<GepDuration>,
    #[serde(default)]
    failure_mode: FailureMode,
    descriptors: List<WireDescriptor, 1, 16>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireService {
    namespace: Option<NamespaceName>,
    name: ObjectName,
    port: Port,
}

#[derive(Default, Deserialize, JsonSchema)]
enum FailureMode {
    #[default]
    Open,
    Closed,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireDescriptor {
    by: By,
}

impl TryFrom<WireSpec> for RateLimitPolicySpec {
    type Error = String;

    fn try_from(WireSpec { target_refs, local, global }: WireSpec) -> Result<Self, String> {
        if local.is_none() && global.is_none() {
            return Err("has no limit: write local, global or both".into());
        }
        if global.as_ref().and_then(|global| global.timeout).is_some_and(|timeout| timeout.0.is_zero()) {
            return Err(at("global.timeout", "is zero"));
        }
        let spec = RateLimit {
            local: local.map_or_else(Vec::new, |local| local.0.into_iter().map(WireLimit::limit).collect()),
            global: global.map(|global| GlobalLimit {
                service: GlobalService {
                    namespace: global.service.namespace.map(|namespace| namespace.0),
                    name: global.service.name.0,
                    port: global.service.port.0,
                },
                domain: global.domain.map(|domain| domain.0),
                timeout: global.timeout.map_or(TIMEOUT, |timeout| timeout.0),
                fails_closed: matches!(global.failure_mode, FailureMode::Closed),
                descriptors: global.descriptors.0.into_iter().map(|descriptor| descriptor.by.0).collect(),
            }),
        };
        Ok(Self(PolicySpec { targets: target_refs.0, rules: PolicyRules::RateLimit(Arc::new(spec)) }))
    }
}

impl WireLimit {
    fn limit(self) -> LocalLimit {
        let Self { requests, per, burst, by } = self;
        let requests = requests.as_u32();
        LocalLimit {
            by: by.map_or_else(Vec::new, |by| by.0),
            requests,
            per: match per {
                WireUnit::Second => Unit::Second,
                WireUnit::Minute => Unit::Minute,
                WireUnit::Hour => Unit::Hour,
                WireUnit::Day => Unit::Day,
            },
            burst: burst.map_or(requests, Integer::as_u32),
        }
    }
}

/// What requests are counted by.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "List<OneEntry, 1, 8>")]
#[schemars(with = "List<OneEntry, 1, 8>")]
struct By(Vec<Entry>);

impl TryFrom<List<OneEntry, 1, 8>> for By {
    type Error = String;

    fn try_from(List(all): List<OneEntry, 1, 8>) -> Result<Self, String> {
        let all: Vec<_> = all.into_iter().map(|entry| entry.0).collect();
        match all.iter().enumerate().find(|(index, entry)| all[..*index].contains(entry)) {
            Some((index, _)) => Err(format!("entry {index} is the same as another one")),
            None => Ok(Self(all)),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireEntry")]
#[schemars(with = "WireEntry")]
struct OneEntry(Entry);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireEntry {
    path: Option<Path>,
    header: Option<WireHeader>,
    caller: Option<Caller>,
    address: Option<WireAddress>,
    claim: Option<WireClaim>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireHeader {
    name: HeaderName,
    #[serde(default)]
    r#type: ValueType,
    value: Option<HeaderValue>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Caller {}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireClaim {
    name: Option<Text<256>>,
    path: Option<List<Text<256>, 1, 8>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireAddress {
    ipv4_prefix_length: Option<Integer<1, 32>>,
    ipv6_prefix_length: Option<Integer<1, 128>>,
}

impl TryFrom<WireEntry> for OneEntry {
    type Error = String;

    fn try_from(wire: WireEntry) -> Result<Self, String> {
        Ok(Self(match wire {
            WireEntry { path: Some(Path(path)), header: None, caller: None, address: None, claim: None } => {
                let (PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::Regex(text)) = &path;
                no_percent(text).map_err(|reason| at("path.value", reason))?;
                Entry::Path(path)
            }
            WireEntry { path: None, header: Some(header), caller: None, address: None, claim: None } => {
                let WireHeader { name, r#type, value } = header;
                let pattern = match (r#type, value) {
                    (ValueType::Exact, None) => None,
                    (ValueType::RegularExpression, None) => return Err(at("header.value", "is missing")),
                    (r#type, Some(HeaderValue(value))) => {
                        no_percent(&value).map_err(|reason| at("header.value", reason))?;
                        Some(r#type.pattern(value).map_err(|reason| at("header", reason))?)
                    }
                };
                Entry::Header(name.lower(), pattern)
            }
            WireEntry { path: None, header: None, caller: Some(Caller {}), address: None, claim: None } => {
                Entry::Caller
            }
            WireEntry { path: None, header: None, caller: None, address: Some(address), claim: None } => {
                let length = |length: Option<u32>, most: u8| {
                    length.and_then(|length| u8::try_from(length).ok()).unwrap_or(most)
                };
                let WireAddress { ipv4_prefix_length: v4, ipv6_prefix_length: v6 } = address;
                Entry::Address(length(v4.map(Integer::as_u32), 32), length(v6.map(Integer::as_u32), 128))
            }
            WireEntry { path: None, header: None, caller: None, address: None, claim: Some(claim) } => {
                let WireClaim { name, path } = claim;
                Entry::Claim(claim_path(name, path).map_err(|reason| at("claim", reason))?)
            }
            _ => return Err("needs one of path, header, caller, claim and address".into()),
        }))
    }
}

/// The text becomes the value of an entry, in which Envoy reads `%` as the beginning of a command.
fn no_percent(text: &str) -> Result<(), &'static str> {
    if text.contains('%') { Err("'%' is not supported here") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_table, read};
    use super::super::{Body, Outcome};
    use super::*;
    use crate::model::route::ValuePattern;

    const POLICY: &str =
        "{apiVersion: outrigger.dev/v1alpha1, kind: RateLimitPolicy, metadata: {name: a}, spec: {@}}";

    fn rate_limit(spec: &str) -> Arc<RateLimit> {
        let decoded = read(&POLICY.replace('@', spec)).remove(0);
        let Outcome::Accepted(resource) = decoded.outcome else { panic!("{:?}", decoded.outcome) };
        let Body::Policy(PolicySpec { rules: PolicyRules::RateLimit(spec), .. }) = &resource.body else {
            panic!("{resource:?}")
        };
        Arc::clone(spec)
    }

    #[test]
    fn every_limit_is_read() {
        let spec = rate_limit(
            "local: [{requests: 10, per: Second}, {requests: 5, per: Day, burst: 2, by: [{caller: {}},
                {claim: {name: sub}}, {claim: {path: [realm, name]}}, {path: {value: /pay}}, {header: {name: X-A}}, {header: {name: x-b, value: c}}, {address: {}},
                {address: {ipv4PrefixLength: 24, ipv6PrefixLength: 56}}]}],
             global: {service: {name: limits, namespace: mesh, port: 8081}, descriptors: [{by: [{caller: {}}]}]}",
        );
        let [all, each] = &spec.local[..] else { panic!("{spec:?}") };
        assert_eq!(*all, LocalLimit { by: Vec::new(), requests: 10, per: Unit::Second, burst: 10 });
        let by = [
            Entry::Caller,
            Entry::Claim(vec!["sub".into()]),
            Entry::Claim(vec!["realm".into(), "name".into()]),
            Entry::Path(PathMatch::Prefix("/pay".into())),
            Entry::Header("x-a".into(), None),
            Entry::Header("x-b".into(), Some(ValuePattern::Exact("c".into()))),
            Entry::Address(32, 128),
            Entry::Address(24, 56),
        ];
        assert_eq!((each.burst, &each.by[..]), (2, &by[..]));
        let global = spec.global.as_ref().unwrap();
        assert_eq!((global.service.port, global.timeout, global.fails_closed), (8081, TIMEOUT, false));
        assert_eq!(global.service.key(&"shop".into()).to_string(), "limits.mesh");
    }

    #[test]
    fn a_limit_of_0_and_one_that_could_be_misread_is_refused() {
        let local = |limit: &str| format!("local: [{{{limit}}}]");
        let by = |entry: &str| local(&format!("requests: 1, per: Second, by: [{entry}]"));
        let global = |more: &str| format!("global: {{service: {{name: a, port: 1}}, {more}}}");
        let refused = [
            (String::new(), "spec", "has no limit"),
            ("local: []".into(), "spec.local", "0 items"),
            (local("requests: 0, per: Second"), "spec.local[0].requests", "0 is not between 1"),
            (local("requests: 1, per: Second, burst: 0"), "spec.local[0].burst", "0 is not between 1"),
            (local("requests: 1"), "spec.local[0]", "missing field `per`"),
            (local("requests: 1, per: Fortnight"), "spec.local[0].per", "unknown value"),
            (local("requests: 1, per: Second, by: []"), "spec.local[0].by", "0 items"),
            (by("{}"), "spec.local[0].by[0]", "needs one of"),
            (by("{caller: {}, address: {}}"), "spec.local[0].by[0]", "needs one of"),
            (by("{caller: {}}, {caller: {}}"), "spec.local[0].by", "entry 1 is the same"),
            (by("{caller: {name: a}}"), "spec.local[0].by[0].caller.name", "unknown field"),
            (by("{claim: {}}"), "spec.local[0].by[0].claim", "needs one of name and path"),
            (by("{claim: {name: a}, caller: {}}"), "spec.local[0].by[0]", "needs one of"),
            (by("{claim: {name: a, value: b}}"), "spec.local[0].by[0].claim.value", "unknown field"),
            (by("{path: {value: /a%20b}}"), "spec.local[0].by[0].path.value", "'%'"),
            (
                by("{header: {name: a, type: RegularExpression}}"),
                "spec.local[0].by[0].header.value",
                "is missing",
            ),
            (
                by("{header: {name: a, type: RegularExpression, value: '('}}"),
                "spec.local[0].by[0].header.value",
                "regular expression",
            ),
            (
                by("{address: {ipv4PrefixLength: 0}}"),
                "spec.local[0].by[0].address.ipv4PrefixLength",
                "not between",
            ),
            (global("descriptors: []"), "spec.global.descriptors", "0 items"),
            (global("timeout: 0s, descriptors: [{by: [{caller: {}}]}]"), "spec.global.timeout", "is zero"),
            (
                global("failureMode: Ajar, descriptors: [{by: [{caller: {}}]}]"),
                "spec.global.failureMode",
                "unknown value",
            ),
        ];
        let refused: Vec<_> =
            refused.iter().map(|(spec, field, why)| (spec.as_str(), *field, *why)).collect();
        check_table(POLICY, &["local: [{requests: 1, per: Second}]"], &refused);
    }
}
