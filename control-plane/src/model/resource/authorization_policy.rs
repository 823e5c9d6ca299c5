//! AuthorizationPolicy, outrigger.dev/v1alpha1: GEP-3779's shape, extended to requests.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;

use super::claim::OneClaim;
use super::http_match::{Method, Path};
use super::named_match::{NamedMatch, first_of_each_name};
use super::policy::{PolicyRules, PolicySpec, TargetRefs};
use super::strict::at;
use super::value::{HeaderValue, Hostname, List, NamespaceName, ObjectName, Port, Text};
use crate::model::authorization::{
    Action, Authorization, AuthorizationRule, Operation, ServiceAccount, Source, SpiffeMatch,
};
use crate::model::route::PathMatch;

/// The `spec` of an AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(try_from = "WireSpec")]
#[schemars(with = "WireSpec")]
pub(crate) struct AuthorizationPolicySpec(pub(crate) PolicySpec);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSpec {
    #[serde(default)]
    target_refs: TargetRefs,
    action: WireAction,
    #[serde(default)]
    rules: List<WireRule, 0, 64>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum WireAction {
    Allow,
    Deny,
    Audit,
}

impl TryFrom<WireSpec> for AuthorizationPolicySpec {
    type Error = String;

    fn try_from(WireSpec { target_refs, action, rules }: WireSpec) -> Result<Self, String> {
        let action = match action {
            WireAction::Allow => Action::Allow,
            WireAction::Deny if rules.0.is_empty() => {
                return Err(at("rules", "is empty: the policy would deny nothing; {} matches everything"));
            }
            WireAction::Deny => Action::Deny,
            WireAction::Audit => Action::Audit,
        };
        let rules = rules.0.into_iter().map(|rule| AuthorizationRule {
            from: rule.from.map_or_else(Vec::new, |from| from.0.into_iter().map(|source| source.0).collect()),
            to: rule.to.map_or_else(Vec::new, |to| to.0.into_iter().map(|operation| operation.0).collect()),
        });
        let spec = Authorization { action, rules: rules.collect(), stands_in: false };
        let rules = PolicyRules::Authorization(Arc::new(spec));
        Ok(Self(PolicySpec { targets: target_refs.0, rules }))
    }
}

/// Without `from` it matches every caller, without `to` everything that they ask for. An empty list would be neither, so it is refused.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireRule {
    from: Option<List<OneSource, 1, 64>>,
    to: Option<List<OneOperation, 1, 64>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireSource")]
#[schemars(with = "WireSource")]
struct OneSource(Source);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireSource {
    service_accounts: Option<List<WireAccount, 1, 64>>,
    namespaces: Option<List<NamespaceName, 1, 64>>,
    spiffe_ids: Option<List<SpiffePattern, 1, 64>>,
    cidrs: Option<List<Cidr, 1, 64>>,
    claims: Option<List<OneClaim, 1, 16>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireAccount {
    namespace: Option<NamespaceName>,
    name: ObjectName,
}

impl TryFrom<WireSource> for OneSource {
    type Error = String;

    fn try_from(wire: WireSource) -> Result<Self, String> {
        let WireSource { service_accounts, namespaces, spiffe_ids, cidrs, claims } = wire;
        let account = |WireAccount { namespace, name }| ServiceAccount {
            namespace: namespace.map(|namespace| namespace.0),
            name: name.0,
        };
        let source = Source {
            service_accounts: items(service_accounts, account),
            namespaces: items(namespaces, |name| name.0),
            spiffe_ids: items(spiffe_ids, |id| id.0),
            cidrs: items(cidrs, |cidr| cidr.0),
            claims: items(claims, |claim| claim.0),
        };
        match source == Source::default() {
            true => Err("has no condition: a rule without from matches every caller".into()),
            false => Ok(Self(source)),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "WireOperation")]
#[schemars(with = "WireOperation")]
struct OneOperation(Operation);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireOperation {
    ports: Option<List<Port, 1, 64>>,
    hosts: Option<List<Hostname, 1, 64>>,
    methods: Option<List<Method, 1, 9>>,
    paths: Option<List<Path, 1, 64>>,
    headers: Option<List<NamedMatch<HeaderValue>, 1, 16>>,
    grpc_methods: Option<List<GrpcMethod, 1, 64>>,
}

impl TryFrom<WireOperation> for OneOperation {
    type Error = String;

    fn try_from(wire: WireOperation) -> Result<Self, String> {
        let WireOperation { ports, hosts, methods, paths, headers, grpc_methods } = wire;
        let mut paths = items(paths, |path| path.0);
        paths.extend(items(grpc_methods, |method| method.0));
        let operation = Operation {
            ports: items(ports, |port| port.0),
            hosts: items(hosts, |host| host.0),
            methods: items(methods, http::Method::from),
            paths,
            headers: headers.map_or_else(|| Ok(Vec::new()), first_of_each_name)?,
        };
        match operation == Operation::default() {
            true => Err("has no condition: a rule without to matches everything".into()),
            false => Ok(Self(operation)),
        }
    }
}

/// A method of a gRPC service, or all of them.
#[derive(Deserialize, JsonSchema)]
#[serde(from = "WireGrpcMethod")]
#[schemars(with = "WireGrpcMethod")]
struct GrpcMethod(PathMatch);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireGrpcMethod {
    service: GrpcName,
    method: Option<GrpcName>,
}

impl From<WireGrpcMethod> for GrpcMethod {
    fn from(WireGrpcMethod { service, method }: WireGrpcMethod) -> Self {
        let service = service.0;
        Self(match method {
            Some(method) => PathMatch::Exact(format!("/{service}/{}", method.0).into()),
            None => PathMatch::Prefix(format!("/{service}").into()),
        })
    }
}

fn items<T, U, const MIN: usize, const MAX: usize>(
    list: Option<List<T, MIN, MAX>>,
    convert: impl Fn(T) -> U,
) -> Vec<U> {
    list.map_or_else(Vec::new, |List(items)| items.into_iter().map(convert).collect())
}

/// The name of a gRPC service or method.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Text<256>")]
#[schemars(with = "Text<256>")]
struct GrpcName(Name);

impl TryFrom<Text<256>> for GrpcName {
    type Error = String;

    fn try_from(Text(text): Text<256>) -> Result<Self, String> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
        if text.bytes().all(legal) { Ok(Self(text)) } else { Err(format!("{text:?} is not a gRPC name")) }
    }
}

/// A SPIFFE ID, or a prefix of one that ends with `/*`.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Text<2048>")]
#[schemars(with = "Text<2048>")]
struct SpiffePattern(SpiffeMatch);

impl TryFrom<Text<2048>> for SpiffePattern {
    type Error = String;

    fn try_from(Text(text): Text<2048>) -> Result<Self, String> {
        let (id, is_prefix) = text.strip_suffix('*').map_or((&*text, false), |prefix| (prefix, true));
        let wrong = || {
            format!(
                "{text:?} is not a SPIFFE ID such as spiffe://cluster.local/ns/shop/sa/cart or a prefix ending in /*"
            )
        };
        let (domain, path) =
            id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        let ends = if is_prefix { id.ends_with('/') } else { !path.is_empty() && !path.ends_with('/') };
        if domain.is_empty() || !path.bytes().all(legal) || path.contains("//") || !ends {
            return Err(wrong());
        }
        Ok(Self(if is_prefix { SpiffeMatch::Prefix(id.into()) } else { SpiffeMatch::Exact(id.into()) }))
    }
}

/// A range of addresses, or one address.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Text<64>")]
#[schemars(with = "Text<64>")]
struct Cidr(IpNet);

impl TryFrom<Text<64>> for Cidr {
    type Error = String;

    fn try_from(Text(text): Text<64>) -> Result<Self, String> {
        let one = || text.parse::<IpAddr>().map(IpNet::from);
        let net = text.parse::<IpNet>().or_else(|_| one());
        net.map(|net| Self(net.trunc())).map_err(|_| format!("{text:?} is not a range such as 10.0.0.0/8"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_table, read};
    use super::super::{Body, Outcome};
    use super::*;
    use crate::model::authorization::ClaimMatch;

    const POLICY: &str =
        "{apiVersion: outrigger.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {@}}";

    fn authorization(spec: &str) -> Arc<Authorization> {
        let decoded = read(&POLICY.replace('@', spec)).remove(0);
        let Outcome::Accepted(resource) = decoded.outcome else { panic!("{:?}", decoded.outcome) };
        let Body::Policy(PolicySpec { rules: PolicyRules::Authorization(spec), .. }) = &resource.body else {
            panic!("{resource:?}")
        };
        Arc::clone(spec)
    }

    #[test]
    fn every_condition_is_read() {
        let spec = authorization(
            "action: Allow, rules: [{from: [{serviceAccounts: [{name: cart}, {namespace: office, name: web}],
                namespaces: [shop], spiffeIds: ['spiffe://a/ns/b/sa/c', 'spiffe://a/ns/b/*'],
                cidrs: ['10.1.2.3/8', '::1'],
                claims: [{name: sub, values: [ann]}, {path: [realm, roles], values: [a, b]}]}],
              to: [{ports: [80], hosts: ['*.shop'], methods: [GET], paths: [{value: /a/}],
                headers: [{name: X-A, value: b}], grpcMethods: [{service: a.B, method: C}, {service: a.D}]}]}]",
        );
        let AuthorizationRule { from, to } = &spec.rules[0];
        let account = |namespace: Option<&str>, name: &str| ServiceAccount {
            namespace: namespace.map(Name::from),
            name: name.into(),
        };
        assert_eq!(from[0].service_accounts, [account(None, "cart"), account(Some("office"), "web")]);
        let ids = [
            SpiffeMatch::Exact("spiffe://a/ns/b/sa/c".into()),
            SpiffeMatch::Prefix("spiffe://a/ns/b/".into()),
        ];
        assert_eq!(from[0].spiffe_ids, ids);
        assert_eq!(
            from[0].cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.0/8", "::1/128"]
        );
        let claim = |path: &[&str], values: &[&str]| ClaimMatch {
            path: path.iter().map(|name| (*name).into()).collect(),
            values: values.iter().map(|value| (*value).into()).collect(),
        };
        assert_eq!(from[0].claims, [claim(&["sub"], &["ann"]), claim(&["realm", "roles"], &["a", "b"])]);
        let paths = [
            PathMatch::Prefix("/a".into()),
            PathMatch::Exact("/a.B/C".into()),
            PathMatch::Prefix("/a.D".into()),
        ];
        assert_eq!((&to[0].paths[..], &*to[0].headers[0].name), (&paths[..], "x-a"));
    }

    #[test]
    fn a_list_that_could_be_read_as_everything_or_nothing_is_refused() {
        check_table(
            POLICY,
            &[
                "action: Allow",
                "action: Allow, rules: []",
                "action: Deny, rules: [{}]",
                "action: Audit, rules: [{}]",
            ],
            &[
                ("action: Deny", "spec.rules", "deny nothing"),
                ("action: allow", "spec.action", "unknown value"),
                ("rules: [{}]", "spec", "missing field `action`"),
                ("action: Allow, rules: [{from: []}]", "spec.rules[0].from", "0 items"),
                ("action: Allow, rules: [{from: [{}]}]", "spec.rules[0].from[0]", "no condition"),
                (
                    "action: Allow, rules: [{from: [{namespaces: []}]}]",
                    "spec.rules[0].from[0].namespaces",
                    "0 items",
                ),
                ("action: Allow, rules: [{to: [{}]}]", "spec.rules[0].to[0]", "no condition"),
                ("action: Allow, rules: [{to: [{path: []}]}]", "spec.rules[0].to[0].path", "unknown field"),
                ("action: Allow, rules: [{from: [{claims: []}]}]", "spec.rules[0].from[0].claims", "0 items"),
            ],
        );
    }

    #[test]
    fn a_value_that_could_never_match_is_refused() {
        let rule = |rule: &str| format!("action: Allow, rules: [{{{rule}}}]");
        let refused = [
            ("from: [{spiffeIds: ['cart']}]", "spec.rules[0].from[0].spiffeIds[0]", "not a SPIFFE ID"),
            (
                "from: [{spiffeIds: ['spiffe://a/ns*']}]",
                "spec.rules[0].from[0].spiffeIds[0]",
                "not a SPIFFE ID",
            ),
            (
                "from: [{spiffeIds: ['spiffe://a/ns/']}]",
                "spec.rules[0].from[0].spiffeIds[0]",
                "not a SPIFFE ID",
            ),
            ("from: [{cidrs: ['10.0.0.0/33']}]", "spec.rules[0].from[0].cidrs[0]", "not a range"),
            ("from: [{namespaces: ['Shop']}]", "spec.rules[0].from[0].namespaces[0]", "not a DNS label"),
            ("from: [{claims: [{values: [a]}]}]", "spec.rules[0].from[0].claims[0]", "one of name and path"),
            (
                "from: [{claims: [{name: a, values: []}]}]",
                "spec.rules[0].from[0].claims[0].values",
                "0 items",
            ),
            ("to: [{ports: [0]}]", "spec.rules[0].to[0].ports[0]", "not between"),
            ("to: [{hosts: ['shop:80']}]", "spec.rules[0].to[0].hosts[0]", "not a host name"),
            ("to: [{methods: [get]}]", "spec.rules[0].to[0].methods[0]", "unknown value"),
            ("to: [{paths: [{value: admin}]}]", "spec.rules[0].to[0].paths[0].value", "does not start"),
            (
                "to: [{paths: [{type: RegularExpression, value: '('}]}]",
                "spec.rules[0].to[0].paths[0].value",
                "regular expression",
            ),
            (
                "to: [{grpcMethods: [{service: a/b}]}]",
                "spec.rules[0].to[0].grpcMethods[0].service",
                "gRPC name",
            ),
        ];
        let rules: Vec<_> =
            refused.iter().map(|(part, field, reason)| (rule(part), *field, *reason)).collect();
        let rules: Vec<_> =
            rules.iter().map(|(part, field, reason)| (part.as_str(), *field, *reason)).collect();
        check_table(POLICY, &[], &rules);
    }
}
