//! The decoded form that HTTPRoute, GRPCRoute and TCPRoute share: parents, and rules whose backends are not resolved yet.

use std::cmp::Reverse;

use outrigger_core::Name;

use super::external_auth::ExternalAuthSpec;
use super::filter::{HttpFilter, RuleFilters};
use super::reference::{BackendRef, ParentRefs, WeightedRef};
use super::value::List;
use crate::model::route::{AuthProtocol, Filters, PathMatch, Retry, RouteMatch, Timeouts};
use crate::model::session_persistence::SessionPersistence;

/// A route of any kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouteSpec {
    pub(crate) parents: ParentRefs,
    pub(crate) rules: Vec<RuleSpec>,
}

/// A rule of a route. That of a TCPRoute has no matches and no filters.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RuleSpec {
    /// The name of the rule, to which policies attach.
    pub(crate) name: Option<Name>,
    pub(crate) matches: Vec<(Precedence, RouteMatch)>,
    pub(crate) filters: RuleFilters,
    pub(crate) backends: Vec<BackendSpec>,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Option<Retry>,
    pub(crate) session_persistence: Option<SessionPersistence>,
}

/// A backend of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BackendSpec {
    pub(crate) reference: BackendRef,
    pub(crate) weight: u32,
    pub(crate) filters: Filters,
}

impl BackendSpec {
    /// Sorts the filters of each backend by type.
    pub(crate) fn all<F: Into<HttpFilter>>(
        backends: Vec<WeightedRef<List<F, 0, 16>>>,
    ) -> Result<Vec<Self>, String> {
        let one = |(at, WeightedRef { reference, weight, filters })| {
            let List(filters) = filters.unwrap_or_default();
            let filters = RuleFilters::of_backend(filters).map_err(|e| format!("backendRefs[{at}].{e}"))?;
            Ok(Self { reference, weight, filters })
        };
        backends.into_iter().enumerate().map(one).collect()
    }
}

/// A backend that a route names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamedBackend<'a> {
    pub(crate) reference: &'a BackendRef,
    /// It gets gRPC calls, whatever the kind of the route.
    pub(crate) gets_grpc: bool,
}

impl<'a> From<&'a BackendRef> for NamedBackend<'a> {
    fn from(reference: &'a BackendRef) -> Self {
        Self { reference, gets_grpc: false }
    }
}

impl ExternalAuthSpec {
    /// Returns the service that decides.
    pub(crate) fn named(&self) -> NamedBackend<'_> {
        NamedBackend {
            reference: &self.backend,
            gets_grpc: matches!(self.check.protocol, AuthProtocol::Grpc { .. }),
        }
    }
}

impl RouteSpec {
    /// Returns every backend that the route names, including those of filters.
    pub(crate) fn backends(&self) -> impl Iterator<Item = NamedBackend<'_>> {
        self.rules.iter().flat_map(|rule| {
            let forwarded = rule.backends.iter().map(|backend| &backend.reference);
            let plain = forwarded.chain(rule.filters.mirrors.iter().map(|mirror| &mirror.backend));
            plain
                .map(NamedBackend::from)
                .chain(rule.filters.external_auth.iter().map(ExternalAuthSpec::named))
        })
    }
}

/// The precedence of a match: the smallest comes first.
///
/// `HTTPRouteRule.matches`: an exact path, then the longest prefix, a method, the most headers, the most query
/// parameters. `GRPCRouteRule.matches`: the longest service, the longest method, the most headers. The API leaves the
/// precedence of regular expressions to the implementation. Here they come after exact values and before prefixes, longer
/// ones first, since a prefix such as `/` would hide them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Precedence([Reverse<usize>; 5]);

impl Precedence {
    /// Returns the precedence of a match of an HTTPRoute.
    pub(crate) fn of_http(of: &RouteMatch) -> Self {
        let (class, length) = match &of.path {
            PathMatch::Exact(_) => (2, 0),
            PathMatch::Regex(expression) => (1, expression.len()),
            PathMatch::Prefix(prefix) => (0, prefix.len()),
        };
        let method = usize::from(of.method.is_some());
        Self([class, length, method, of.headers.len(), of.query.len()].map(Reverse))
    }

    /// Returns the precedence of a match of a GRPCRoute, by the lengths of its service and method.
    pub(crate) fn of_grpc(exact: bool, service: usize, method: usize, headers: usize) -> Self {
        Self([usize::from(exact), service, method, headers, 0].map(Reverse))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::route::{ValueMatch, ValuePattern};
    use proptest::prelude::*;

    fn of(class: u8, length: usize, method: bool, headers: usize, query: usize) -> Precedence {
        let text = "/".repeat(length + 1).into();
        let value = ValueMatch { name: "a".into(), value: ValuePattern::Exact("b".into()) };
        Precedence::of_http(&RouteMatch {
            path: match class {
                0 => PathMatch::Prefix(text),
                1 => PathMatch::Regex(text),
                _ => PathMatch::Exact(text),
            },
            method: method.then_some(http::Method::GET),
            headers: vec![value.clone(); headers],
            query: vec![value; query],
            grpc: false,
        })
    }

    fn some() -> impl Strategy<Value = Precedence> {
        (0..3u8, 0..9usize, any::<bool>(), 0..4usize, 0..4usize)
            .prop_map(|(class, length, method, headers, query)| of(class, length, method, headers, query))
    }

    proptest! {
        #[test]
        fn precedence_is_a_total_order(a in some(), b in some(), c in some()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a == b, a.cmp(&b).is_eq());
            prop_assert!(!(a <= b && b <= c) || a <= c);
        }

        #[test]
        fn a_condition_more_comes_first(class in 0..3u8, length in 0..9usize, headers in 0..4usize, query in 0..4usize) {
            let plain = of(class, length, false, headers, query);
            prop_assert!(of(class, length, true, headers, query) < plain);
            prop_assert!(of(class, length, false, headers + 1, query) < plain);
            prop_assert!(of(class, length, false, headers, query + 1) < plain);
        }
    }
}
