//! What a route changes of a request on its way: headers, path, host.

use http::HeaderValue;
use http::header::HeaderName;
use http::uri::{Authority, PathAndQuery};
use outrigger_config::route::{Forward, Route};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use outrigger_policy::weighted_cluster::Share;

use crate::codec::head::RequestHead;

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Changes `head` as its route and the chosen share say: the share's headers first, then the route's, then path and host.
pub(super) fn rewrite(
    head: &mut RequestHead,
    route: &Route,
    forward: &Forward,
    share: &Share,
) -> Result<(), Failure> {
    share.request_headers.apply(&mut head.headers);
    route.request_headers.apply(&mut head.headers);
    // The star of `OPTIONS *` is no path.
    if let Some(path) = forward.rewrite.path.as_ref().filter(|_| head.path != "*") {
        let new = path.apply(head.path.as_str(), route.matcher.matched(head.path.as_str()));
        head.path = PathAndQuery::try_from(new)
            .map_err(|error| Failure::local(Reason::LocalError, format!("the rewritten path: {error}")))?;
    }
    if let Some(host) = share.host_rewrite.as_ref().or(forward.rewrite.host.as_ref()) {
        let before = head.authority.replace(authority(host)?);
        if forward.rewrite.append_x_forwarded_host
            && let Some(before) = before.and_then(|before| HeaderValue::try_from(before.as_str()).ok())
        {
            head.headers.append(FORWARDED_HOST, before);
        }
    }
    Ok(())
}

/// The authority that a header value is.
pub(super) fn authority(host: &HeaderValue) -> Result<Authority, Failure> {
    Authority::try_from(host.as_bytes())
        .map_err(|error| Failure::local(Reason::LocalError, format!("the rewritten host: {error}")))
}
