//! A route that redirects the client (`envoy.config.route.v3.RedirectAction`).

use http::{HeaderValue, StatusCode};
use outrigger_proto::xds::route;

use crate::field::Unusable;
use crate::rewrite::{self, PathRewrite};

/// Where a client is redirected to.
#[derive(Debug, Clone)]
pub struct Redirect {
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: Option<PathRewrite>,
    strip_query: bool,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

impl Redirect {
    /// Decodes the action.
    pub fn decode(wire: route::RedirectAction) -> Result<Self, Unusable> {
        use route::redirect_action::{
            PathRewriteSpecifier as Path, RedirectResponseCode as Code, SchemeRewriteSpecifier as Scheme,
        };
        let route::RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = wire;
        let scheme = match scheme_rewrite_specifier {
            None | Some(Scheme::HttpsRedirect(false)) => None,
            Some(Scheme::HttpsRedirect(true)) => Some("https".into()),
            Some(Scheme::SchemeRedirect(scheme)) => match scheme.to_ascii_lowercase().as_str() {
                "" => None,
                scheme @ ("http" | "https") => Some(scheme.into()),
                _ => {
                    return Err(Unusable::new(
                        "scheme_redirect",
                        format_args!("{scheme:?} is not http or https"),
                    ));
                }
            },
        };
        let port = u16::try_from(port_redirect)
            .map_err(|_| Unusable::new("port_redirect", format_args!("{port_redirect} is no port")))?;
        rewrite::host("host_redirect", &host_redirect)?;
        let path = match path_rewrite_specifier {
            None => None,
            Some(Path::PathRedirect(path)) if path.is_empty() => None,
            Some(Path::PathRedirect(path)) => Some(PathRewrite::full("path_redirect", &path)?),
            Some(Path::PrefixRewrite(prefix)) => PathRewrite::decode(prefix, None, String::new())?,
            Some(Path::RegexRewrite(regex)) => {
                PathRewrite::decode(String::new(), Some(regex), String::new())?
            }
            Some(Path::PathRewrite(path)) => PathRewrite::decode(String::new(), None, path)?,
        };
        let status = match Code::try_from(response_code) {
            Ok(Code::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
            Ok(Code::Found) => StatusCode::FOUND,
            Ok(Code::SeeOther) => StatusCode::SEE_OTHER,
            Ok(Code::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
            Ok(Code::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
            Err(_) => return Err(Unusable::new("response_code", "is unknown")),
        };
        let host = (!host_redirect.is_empty()).then(|| host_redirect.into());
        Ok(Self { scheme, host, port: (port != 0).then_some(port), path, strip_query, status })
    }

    /// Returns the `Location` for a request. The route matched the first `matched` bytes of its path.
    ///
    /// Returns `None` if the result is not a legal header value. The port is kept unless the host changes, and a scheme's
    /// default port is omitted (HTTPRequestRedirectFilter.port of Gateway API).
    pub fn location(
        &self,
        scheme: &str,
        authority: &str,
        path_and_query: &str,
        matched: usize,
    ) -> Option<HeaderValue> {
        let (asked_host, asked_port) = split_port(authority);
        let new_scheme = self.scheme.as_deref().unwrap_or(scheme);
        let own = |scheme: &str| if scheme == "https" { 443 } else { 80 };
        let kept = asked_port.filter(|port| self.host.is_none() && *port != own(scheme));
        let port = self.port.or(kept).filter(|port| *port != own(new_scheme));
        let mut location = format!("{new_scheme}://{}", self.host.as_deref().unwrap_or(asked_host));
        if let Some(port) = port {
            location.push_str(&format!(":{port}"));
        }
        let path = match &self.path {
            Some(rewrite) => rewrite.apply(path_and_query, matched),
            None => path_and_query.into(),
        };
        let end = if self.strip_query { path.find('?').unwrap_or(path.len()) } else { path.len() };
        location.push_str(&path[..end]);
        HeaderValue::try_from(location).ok()
    }
}

fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use route::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};

    use super::*;

    fn location(wire: route::RedirectAction, scheme: &str, authority: &str) -> String {
        let redirect = Redirect::decode(wire).unwrap();
        redirect.location(scheme, authority, "/shop/cart?a=b", 5).unwrap().to_str().unwrap().into()
    }

    #[test]
    fn only_what_is_named_changes() {
        let wire = route::RedirectAction::default();
        assert_eq!(location(wire.clone(), "http", "[::1]:8080"), "http://[::1]:8080/shop/cart?a=b");
        let https = Some(SchemeRewriteSpecifier::HttpsRedirect(true));
        let wire = route::RedirectAction { scheme_rewrite_specifier: https, ..wire };
        assert_eq!(location(wire.clone(), "http", "cart:8080"), "https://cart:8080/shop/cart?a=b");
        assert_eq!(location(wire, "http", "cart:80"), "https://cart/shop/cart?a=b");
        let wire = route::RedirectAction {
            host_redirect: "new.example".into(),
            port_redirect: 8443,
            ..Default::default()
        };
        assert_eq!(location(wire, "https", "cart"), "https://new.example:8443/shop/cart?a=b");
    }

    #[test]
    fn the_matched_prefix_is_replaced_and_the_query_can_be_dropped() {
        let path = Some(PathRewriteSpecifier::PrefixRewrite("/v2".into()));
        let wire =
            route::RedirectAction { path_rewrite_specifier: path, strip_query: true, ..Default::default() };
        assert_eq!(location(wire, "http", "cart:80"), "http://cart/v2/cart");
    }

    #[test]
    fn what_makes_no_location_is_refused_by_field() {
        let base = route::RedirectAction::default;
        for (wire, field) in [
            (route::RedirectAction { port_redirect: 70_000, ..base() }, "port_redirect"),
            (route::RedirectAction { host_redirect: "a/b".into(), ..base() }, "host_redirect"),
            (route::RedirectAction { response_code: 9, ..base() }, "response_code"),
            (
                route::RedirectAction {
                    scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::SchemeRedirect(
                        "javascript".into(),
                    )),
                    ..base()
                },
                "scheme_redirect",
            ),
            (
                route::RedirectAction {
                    path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect("a".into())),
                    ..base()
                },
                "path_redirect",
            ),
        ] {
            assert_eq!(Redirect::decode(wire).unwrap_err().field, field);
        }
    }
}
