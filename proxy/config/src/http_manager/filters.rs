//! The HTTP filters of a connection manager. The router is the last one and is not kept.

use outrigger_policy::field::{Unusable, each, non_empty, unpack, unsupported_any};
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_proto::xds::{hcm, router, type_url};

/// Decodes the filters. The router must be the last.
pub(super) fn decode(wire: Vec<hcm::HttpFilter>) -> Result<Box<[HttpFilter]>, Unusable> {
    let last = wire.len().checked_sub(1);
    let mut at = 0;
    let filters = each("http_filters", wire, |filter| {
        let is_last = Some(at) == last;
        at += 1;
        match http_filter(filter)? {
            Stage::Router if is_last => Ok(None),
            Stage::Router => Err(Unusable::new("", "the router must be the last filter")),
            _ if is_last => Err(Unusable::new("", "the last filter must be the router")),
            Stage::Filter(filter) => Ok(Some(filter)),
            Stage::Skipped => Ok(None),
        }
    })?;
    if last.is_none() {
        return Err(Unusable::new("http_filters", "must hold the router"));
    }
    Ok(filters.into_iter().flatten().collect())
}

enum Stage {
    Filter(HttpFilter),
    Router,
    /// Unknown and optional.
    Skipped,
}

/// Decodes a filter. An unknown one is skipped if it is optional, and otherwise rejected by its name.
#[allow(deprecated)]
fn http_filter(wire: hcm::HttpFilter) -> Result<Stage, Unusable> {
    use hcm::http_filter::ConfigType;
    let hcm::HttpFilter { name, is_optional, disabled, config_type } = wire;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        _ if is_optional => return Ok(Stage::Skipped),
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(Unusable::new(
                "config_discovery",
                format_args!("of filter {name:?} is not supported"),
            ));
        }
        None => return Err(Unusable::new("typed_config", format_args!("is required by filter {name:?}"))),
    };
    let within = |bad: Unusable| bad.within("typed_config");
    if any.type_url == type_url::ROUTER {
        let router::Router {
            // Statistics, spans and logs, which are configured for the whole proxy.
            dynamic_stats: _,
            start_child_span: _,
            upstream_log: _,
            upstream_log_options: _,
            suppress_grpc_request_failure_code_stats: _,
            // Envoy's own headers, which are neither read nor written here.
            suppress_envoy_headers: _,
            strict_check_headers: _,
            respect_expected_rq_timeout: _,
            upstream_http_filters,
            reject_connect_request_early_data: _, // CONNECT is answered before its data is read
        } = unpack(&any, type_url::ROUTER).map_err(within)?;
        unsupported_any(&[("typed_config.upstream_http_filters", !upstream_http_filters.is_empty())])?;
        return Ok(Stage::Router);
    }
    match FilterConfig::of_listener(&any).map_err(within)? {
        Some(config) => {
            Ok(Stage::Filter(HttpFilter { name: non_empty("name", name)?.into(), config, disabled }))
        }
        None if is_optional => Ok(Stage::Skipped),
        None => Err(Unusable::new(
            "typed_config",
            format_args!("filter {name:?} ({}) is not supported", any.type_url),
        )),
    }
}
