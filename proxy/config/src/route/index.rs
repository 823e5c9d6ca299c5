//! An index of a virtual host's routes by path: the cost of a request does not grow with the number of routes.
//!
//! Used by route tables. It returns the routes whose path may match, in their order; the caller tests each in full, so the
//! first matching route still wins. Routes with an exact path or a prefix are indexed; those that ignore case or have a
//! regular expression are candidates for every request.

use std::collections::BTreeMap;

use outrigger_policy::route_match::{Literal, RouteMatcher};

/// With fewer routes, testing each in turn costs less than the index.
pub(super) const WORTHWHILE: usize = 8;

/// The largest number of prefixes, each a prefix of the next, that are indexed. It bounds the cost of a step to the next
/// candidate. Routes with prefixes beyond it are candidates for every request.
const NESTED: usize = 16;

/// The positions of routes by their paths.
#[derive(Debug, Clone)]
pub(super) struct PathIndex {
    /// Sorted by path, which is unique.
    nodes: Box<[Node]>,
    /// The routes that are not in `nodes`.
    others: Box<[usize]>,
}

/// The routes with one path. Positions are in increasing order, here and elsewhere.
#[derive(Debug, Clone)]
struct Node {
    path: Box<[u8]>,
    exact: Box<[usize]>,
    prefixes: Box<[usize]>,
    /// The node of the longest shorter path that is a prefix of `path` and has routes in `prefixes`.
    parent: Option<usize>,
}

impl PathIndex {
    /// Returns an index of the routes with these matchers. Takes O(n log n) time and O(n) memory.
    pub(super) fn new<'a>(matchers: impl Iterator<Item = &'a RouteMatcher>) -> Self {
        let mut by_path = BTreeMap::<&[u8], (Vec<usize>, Vec<usize>)>::new();
        let mut others = Vec::new();
        for (position, matcher) in matchers.enumerate() {
            match matcher.literal() {
                Some(Literal::Exact(path)) => by_path.entry(path.as_bytes()).or_default().0.push(position),
                Some(Literal::Prefix(path)) => by_path.entry(path.as_bytes()).or_default().1.push(position),
                None => others.push(position),
            }
        }
        let mut nodes = Vec::<Node>::with_capacity(by_path.len());
        // The nodes with prefixes of the current path, shortest first. In sorted order, a path follows its prefixes.
        let mut parents = Vec::new();
        for (path, (exact, mut prefixes)) in by_path {
            while parents.pop_if(|at: &mut usize| !path.starts_with(&nodes[*at].path)).is_some() {}
            if parents.len() == NESTED {
                others.append(&mut prefixes);
            }
            let parent = parents.last().copied();
            if !prefixes.is_empty() {
                parents.push(nodes.len());
            }
            if !exact.is_empty() || !prefixes.is_empty() {
                nodes.push(Node {
                    path: path.into(),
                    exact: exact.into(),
                    prefixes: prefixes.into(),
                    parent,
                });
            }
        }
        others.sort_unstable();
        Self { nodes: nodes.into(), others: others.into() }
    }

    /// Returns the positions of all routes whose path may match `path` (without the query), each once, in increasing order.
    pub(super) fn candidates(&self, path: &str) -> Candidates<'_> {
        let mut found = Candidates { lists: [&[]; LISTS], used: 0 };
        found.add(&self.others);
        self.add(path.as_bytes(), &mut found);
        if path == "*" {
            // `OPTIONS *` also matches the prefix `/`.
            self.add(b"/", &mut found);
        }
        found
    }

    fn add<'a>(&'a self, path: &[u8], found: &mut Candidates<'a>) {
        // Every prefix of `path` is this node's path or a prefix of it: nothing between such a prefix and `path` in sorted
        // order lacks the prefix.
        let after = self.nodes.partition_point(|node| &*node.path <= path);
        let mut next = after.checked_sub(1).and_then(|at| self.nodes.get(at));
        if let Some(node) = next.filter(|node| &*node.path == path) {
            found.add(&node.exact);
        }
        while let Some(node) = next {
            if path.starts_with(&node.path) {
                found.add(&node.prefixes);
            }
            next = node.parent.and_then(|at| self.nodes.get(at));
        }
    }
}

/// `others`, one list of exact paths, one of prefixes per level, and for `*` the exact path `/` and the prefixes `/` and the
/// empty one.
const LISTS: usize = NESTED + 5;

/// Merges lists of positions. Does not allocate.
pub(super) struct Candidates<'a> {
    lists: [&'a [usize]; LISTS],
    used: usize,
}

impl<'a> Candidates<'a> {
    fn add(&mut self, list: &'a [usize]) {
        if !list.is_empty() {
            self.lists[self.used] = list;
            self.used += 1;
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let lists = &mut self.lists[..self.used];
        let next = lists.iter().filter_map(|list| list.first().copied()).min()?;
        for list in lists {
            // More than one list can have it, for the path `*`.
            if let Some((first, rest)) = list.split_first()
                && *first == next
            {
                *list = rest;
            }
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use outrigger_policy::header_match::Head;
    use outrigger_proto::xds::{core, matcher, protobuf, route, types};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use route::route_match::PathSpecifier;

    use super::*;

    /// Few distinct letters and short: paths are often equal, or prefixes of each other.
    const PATH: &str = "(/[aA]{0,2}){0,3}|\\*";

    fn matchers() -> impl Strategy<Value = RouteMatcher> {
        let specifier = (0..9, PATH).prop_map(|(kind, path)| match kind {
            0..3 => PathSpecifier::Path(path),
            3..6 => PathSpecifier::Prefix(path),
            6..8 if path.starts_with('/') && !path.ends_with('/') => PathSpecifier::PathSeparatedPrefix(path),
            _ => PathSpecifier::SafeRegex(matcher::RegexMatcher {
                regex: format!("{}.?", path.replace('*', "[*]")),
                ..Default::default()
            }),
        });
        (specifier, any::<[bool; 4]>()).prop_map(|(specifier, [case, header, query, half])| {
            let fraction = types::FractionalPercent { numerator: 50, denominator: 0 };
            RouteMatcher::decode(route::RouteMatch {
                path_specifier: Some(specifier),
                case_sensitive: Some(protobuf::BoolValue { value: case }),
                headers: header
                    .then(|| route::HeaderMatcher { name: "x".into(), ..Default::default() })
                    .into_iter()
                    .collect(),
                query_parameters: query
                    .then(|| route::QueryParameterMatcher { name: "q".into(), ..Default::default() })
                    .into_iter()
                    .collect(),
                runtime_fraction: half.then_some(core::RuntimeFractionalPercent {
                    default_value: Some(fraction),
                    runtime_key: String::new(),
                }),
                ..Default::default()
            })
            .unwrap()
        })
    }

    fn exact(path: &str) -> RouteMatcher {
        let path_specifier = Some(PathSpecifier::Path(path.into()));
        RouteMatcher::decode(route::RouteMatch { path_specifier, ..Default::default() }).unwrap()
    }

    fn prefix(path: &str) -> RouteMatcher {
        let path_specifier = Some(PathSpecifier::Prefix(path.into()));
        RouteMatcher::decode(route::RouteMatch { path_specifier, ..Default::default() }).unwrap()
    }

    proptest! {
        #[test]
        fn the_index_and_a_scan_find_the_same_route(
            matchers in vec(matchers(), 0..40),
            requests in vec((PATH, any::<[bool; 3]>()), 20),
        ) {
            let index = PathIndex::new(matchers.iter());
            for (path, [header, query, late]) in requests {
                let mut headers = HeaderMap::new();
                if header {
                    headers.insert("x", "1".parse().unwrap());
                }
                let target = if query { format!("{path}?q") } else { path.clone() };
                let head = Head {
                    method: &Method::OPTIONS, scheme: "http", authority: "a", path: &target, headers: &headers,
                };
                let sample = if late { u32::MAX } else { 0 };
                let scan = matchers.iter().position(|matcher| matcher.matches(&head, sample));
                let found = index.candidates(&path).find(|at| matchers[*at].matches(&head, sample));
                prop_assert_eq!(found, scan, "{}", target);
                let candidates: Vec<_> = index.candidates(&path).collect();
                prop_assert!(candidates.is_sorted_by(|a, b| a < b), "{:?}", candidates);
            }
        }
    }

    #[test]
    fn few_of_many_routes_are_candidates() {
        let mut matchers: Vec<_> = (0..10_000).map(|at| prefix(&format!("/r{at}/"))).collect();
        matchers.extend((0..10_000).map(|at| exact(&format!("/r{at}/items"))));
        matchers.push(prefix("/"));
        let index = PathIndex::new(matchers.iter());
        let candidates = |path| index.candidates(path).collect::<Vec<_>>();
        assert_eq!(candidates("/r9999/items"), [9_999, 19_999, 20_000]);
        assert_eq!(candidates("/r9999/item"), [9_999, 20_000]);
        assert_eq!(candidates("/s"), [20_000]);
        assert_eq!(candidates("*"), [20_000]);
    }

    #[test]
    fn prefixes_can_be_nested_without_limit() {
        let matchers: Vec<_> = (0..100).rev().map(|length| prefix(&"/".repeat(length))).collect();
        let index = PathIndex::new(matchers.iter());
        let headers = HeaderMap::new();
        for length in 1..200 {
            let path = &*"/".repeat(length);
            let head = Head { method: &Method::GET, scheme: "http", authority: "a", path, headers: &headers };
            let found = index.candidates(path).find(|at| matchers[*at].matches(&head, 0));
            assert_eq!(found, Some(99 - length.min(99)), "{length}");
        }
    }
}
