//! What a question looks like to the policies of the service that is asked: whether a global limit may count it.
//!
//! A limit that may count a question does so here. A regular expression matches every path, and what a header must be is not looked at. Not known
//! are the fields that an AuthenticationPolicy adds to a question over HTTP.

use std::collections::BTreeSet;

use outrigger_core::Name;

use crate::model::rate_limit::{Entry, GlobalLimit};
use crate::model::route::{AuthProtocol, HttpAuth, PathMatch};

/// The path of a gRPC question of external authorization.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The path of a question of a global limit.
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// Fields that questions may have by themselves, or from the sidecars on their way.
const OWN_FIELDS: [&str; 11] = [
    "b3",
    "content-length",
    "content-type",
    "date",
    "host",
    "te",
    "traceparent",
    "tracestate",
    "user-agent",
    "via",
    "x-request-id",
];

/// How the names of others of them begin.
const OWN_PREFIXES: [&str; 5] = ["grpc-", "x-b3-", "x-envoy-", "x-forwarded-", "x-outrigger-"];

/// What the requests are by which a service is asked.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form<'a> {
    /// gRPC calls of external authorization.
    Check,
    /// gRPC calls of a global limit.
    Limit,
    /// Requests like those that they are about.
    Http {
        /// What is before the path of the request.
        prefix: &'a str,
        /// The fields of the request that they have besides `authorization`.
        fields: &'a [Name],
    },
}

impl<'a> Form<'a> {
    /// Of the questions of external authorization.
    pub(super) fn of(protocol: &'a AuthProtocol) -> Self {
        match protocol {
            AuthProtocol::Grpc { allowed_headers: _ } => Self::Check, // they are in the message
            AuthProtocol::Http(HttpAuth { path_prefix, allowed_headers, .. }) => {
                Self::Http { prefix: path_prefix, fields: allowed_headers }
            }
        }
    }

    fn may_have(&self, entry: &Entry, gets_fields: bool) -> bool {
        match entry {
            Entry::Path(path) => self.may_match(path),
            Entry::Header(name, _) => gets_fields || self.may_pass(name),
            // Those without an identity or a claim are counted together.
            Entry::Caller | Entry::Claim(_) | Entry::Address(..) => true,
        }
    }

    fn may_match(&self, path: &PathMatch) -> bool {
        let own = match self {
            Self::Check => CHECK,
            Self::Limit => SHOULD_RATE_LIMIT,
            Self::Http { prefix, .. } => {
                return match path {
                    PathMatch::Exact(text) => text.starts_with(prefix),
                    PathMatch::Prefix(text) => text.starts_with(prefix) || is_below(prefix, text),
                    PathMatch::Regex(_) => true,
                };
            }
        };
        match path {
            PathMatch::Exact(text) => **text == *own,
            PathMatch::Prefix(text) => is_below(own, text),
            PathMatch::Regex(_) => true,
        }
    }

    fn may_pass(&self, name: &Name) -> bool {
        let is_own =
            OWN_FIELDS.contains(&&**name) || OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let is_passed = match self {
            Self::Check | Self::Limit => false,
            Self::Http { fields, .. } => **name == *"authorization" || fields.contains(name),
        };
        is_own || is_passed
    }
}

/// Returns true if a path is a prefix or below it.
fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns whether a limit may count questions of one of these forms: whether they may have all entries of a descriptor. With `gets_fields` other
/// fields may be added to them before limits count them.
pub(super) fn are_counted(forms: &BTreeSet<Form<'_>>, limit: &GlobalLimit, gets_fields: bool) -> bool {
    let has = |form: &Form<'_>, by: &[Entry]| by.iter().all(|entry| form.may_have(entry, gets_fields));
    forms.iter().any(|form| limit.descriptors.iter().any(|by| has(form, by)))
}
