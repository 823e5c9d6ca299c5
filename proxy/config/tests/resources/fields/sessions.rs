//! The filter for sessions, in a listener and by route.

use outrigger_proto::xds::cluster::cluster::CommonLbConfig;
use outrigger_proto::xds::cookie_session::CookieBasedSessionState;
use outrigger_proto::xds::header_session::HeaderBasedSessionState;
use outrigger_proto::xds::http_types::{Cookie, CookieAttribute};
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::stateful_session::stateful_session_per_route::Override;
use outrigger_proto::xds::stateful_session::{StatefulSession, StatefulSessionPerRoute};
use outrigger_proto::xds::{cluster, core, route, type_url};

use super::clusters::in_cluster;
use super::managers::in_http_filter;
use super::place::Place;
use super::routes::in_route;
use crate::fixture::*;

fn in_filter(of: StatefulSession) -> (String, Any) {
    in_http_filter(http_filter("sessions", packed(type_url::STATEFUL_SESSION, &of)))
}

fn in_state(state: Any) -> (String, Any) {
    in_filter(StatefulSession { session_state: Some(extension(state)), ..Default::default() })
}

fn in_cookie(cookie: Cookie) -> (String, Any) {
    in_state(cookie_state(&CookieBasedSessionState { cookie: Some(cookie) }))
}

fn extension(state: Any) -> core::TypedExtensionConfig {
    core::TypedExtensionConfig { name: "state".into(), typed_config: Some(state) }
}

fn cookie_state(of: &CookieBasedSessionState) -> Any {
    packed(type_url::COOKIE_SESSION, of)
}

fn cookie() -> Cookie {
    Cookie { name: "at".into(), ..Default::default() }
}

fn header(name: &str) -> HeaderBasedSessionState {
    HeaderBasedSessionState { name: name.into() }
}

fn sessions() -> StatefulSession {
    StatefulSession {
        session_state: Some(extension(packed(type_url::HEADER_SESSION, &header("x-at")))),
        ..Default::default()
    }
}

pub fn places() -> Vec<Place> {
    vec![
        Place::new(
            "StatefulSession",
            "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
            StatefulSession { strict: true, ..sessions() },
            in_filter,
        )
        .probe("session_state", |of: &mut StatefulSession| of.session_state = None)
        .probe("strict", |of: &mut StatefulSession| of.strict = false)
        .refuses(&["status_on_strict_destination_not_found"])
        .harmless("there are no such statistics", &["stat_prefix"]),
        Place::new(
            "TypedExtensionConfig (sessions)",
            "envoy.config.core.v3.TypedExtensionConfig",
            extension(packed(type_url::HEADER_SESSION, &header("x-at"))),
            |of| in_filter(StatefulSession { session_state: Some(of), ..Default::default() }),
        )
        .probe("typed_config", |of: &mut core::TypedExtensionConfig| {
            of.typed_config = Some(packed(type_url::HEADER_SESSION, &header("x-other")));
        })
        .harmless("the type of the configuration counts", &["name"]),
        Place::new(
            "StatefulSessionPerRoute",
            "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
            StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(sessions())) },
            |of| {
                let any = packed(type_url::STATEFUL_SESSION_PER_ROUTE, &of);
                let typed_per_filter_config = [("sessions".to_owned(), any)].into();
                in_route(route::Route { typed_per_filter_config, ..forward(CART) })
            },
        )
        .probe("disabled", |of: &mut StatefulSessionPerRoute| of.r#override = Some(Override::Disabled(true)))
        .probe("stateful_session", |of: &mut StatefulSessionPerRoute| {
            let strict = StatefulSession { strict: true, ..sessions() };
            of.r#override = Some(Override::StatefulSession(strict));
        }),
        Place::new(
            "CookieBasedSessionState",
            "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
            CookieBasedSessionState { cookie: Some(cookie()) },
            |of| in_state(cookie_state(&of)),
        )
        .probe("cookie", |of: &mut CookieBasedSessionState| {
            of.cookie = Some(Cookie { name: "other".into(), ..cookie() });
        }),
        Place::new("Cookie (sessions)", "envoy.type.http.v3.Cookie", cookie(), in_cookie)
            .probe("ttl", |of: &mut Cookie| of.ttl = seconds(60))
            .probe("attributes", |of: &mut Cookie| of.attributes = vec![attribute()]),
        Place::new("CookieAttribute (sessions)", "envoy.type.http.v3.CookieAttribute", attribute(), |of| {
            in_cookie(Cookie { attributes: vec![of], ..cookie() })
        }),
        Place::new(
            "HeaderBasedSessionState",
            "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
            header("x-at"),
            |of| in_state(packed(type_url::HEADER_SESSION, &of)),
        ),
        Place::new(
            "HealthStatusSet (override_host_status)",
            "envoy.config.core.v3.HealthStatusSet",
            core::HealthStatusSet::default(),
            |of| {
                let common = CommonLbConfig { override_host_status: Some(of), ..Default::default() };
                in_cluster(cluster::Cluster { common_lb_config: Some(common), ..cart_cluster() })
            },
        )
        .probe("statuses", |of: &mut core::HealthStatusSet| {
            of.statuses = vec![core::HealthStatus::Draining.into()];
        }),
    ]
}

fn attribute() -> CookieAttribute {
    CookieAttribute { name: "SameSite".into(), value: "Lax".into() }
}
