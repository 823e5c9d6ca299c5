//! The network filters of a filter chain (`FilterChain.filters`): those that decide about a connection, and the last one,
//! which handles it.
//!
//! The type of a filter's message determines the filter. An unknown one is refused by its name.

use std::sync::Arc;

use outrigger_policy::field::{Unusable, each, unpack};
use outrigger_policy::filter::connection::ConnectionFilter;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{hcm, listener as wire_listener, tcp_proxy, type_url};

use crate::handler::Handler;
use crate::http_manager::HttpConnectionManager;
use crate::tcp_proxy::TcpProxy;

/// Decodes the filters of a chain. The last one, and no other, must handle connections.
pub(super) fn network_filters(
    wire: Vec<wire_listener::Filter>,
) -> Result<(Box<[ConnectionFilter]>, Handler), Unusable> {
    let Some(last) = wire.len().checked_sub(1) else {
        return Err(Unusable::new("filters", "must not be empty"));
    };
    let mut handler = None;
    let mut at = 0;
    let before = each("filters", wire, |filter| {
        let is_last = at == last;
        at += 1;
        match stage(filter)? {
            Stage::Handles(of) if is_last => {
                handler = Some(of);
                Ok(None)
            }
            Stage::Handles(_) => {
                Err(Unusable::new("", "handles the connection, and so must be the last filter"))
            }
            Stage::Decides(_) if is_last => {
                Err(Unusable::new("", "the last filter must be an HTTP connection manager or a TCP proxy"))
            }
            Stage::Decides(filter) => Ok(Some(filter)),
        }
    })?;
    // Set by the last filter, without which `each` returns an error.
    let handler = handler.ok_or_else(|| Unusable::new("filters", "must not be empty"))?;
    Ok((before.into_iter().flatten().collect(), handler))
}

enum Stage {
    Decides(ConnectionFilter),
    Handles(Handler),
}

fn stage(wire: wire_listener::Filter) -> Result<Stage, Unusable> {
    use wire_listener::filter::ConfigType;
    let wire_listener::Filter { name, config_type } = wire;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(Unusable::new("config_discovery", "is not supported"));
        }
        None => return Err(Unusable::new("typed_config", "is required")),
    };
    configured(&name, &any).map_err(|bad| bad.within("typed_config"))
}

fn configured(name: &str, any: &Any) -> Result<Stage, Unusable> {
    match any.type_url.as_str() {
        type_url::HTTP_CONNECTION_MANAGER => {
            let wire: hcm::HttpConnectionManager = unpack(any, type_url::HTTP_CONNECTION_MANAGER)?;
            Ok(Stage::Handles(Handler::Http(Arc::new(HttpConnectionManager::decode(wire)?))))
        }
        type_url::TCP_PROXY => {
            let wire: tcp_proxy::TcpProxy = unpack(any, type_url::TCP_PROXY)?;
            Ok(Stage::Handles(Handler::Tcp(Arc::new(TcpProxy::decode(wire)?))))
        }
        other => match ConnectionFilter::decode(any)? {
            Some(filter) => Ok(Stage::Decides(filter)),
            None => Err(Unusable::new("", format_args!("filter {name:?} ({other}) is not supported"))),
        },
    }
}
