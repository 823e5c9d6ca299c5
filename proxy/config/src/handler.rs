//! How a connection is handled once its filter chain is chosen: as HTTP, as opaque bytes, or by detection.

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_policy::filter::HttpFilter;

use crate::http_manager::{HttpConnectionManager, RouteSource};
use crate::tcp_proxy::TcpProxy;

/// The protocol handler of a connection.
#[derive(Debug, Clone)]
pub enum Handler {
    /// HTTP.
    Http(Arc<HttpConnectionManager>),
    /// Opaque bytes.
    Tcp(Arc<TcpProxy>),
    /// HTTP if the first bytes are HTTP, else opaque bytes. Without bytes in time it is opaque: a server-first protocol.
    Detect {
        /// Handles HTTP.
        http: Arc<HttpConnectionManager>,
        /// Handles everything else.
        tcp: Arc<TcpProxy>,
        /// How long to wait for the first bytes.
        within: Duration,
    },
}

impl Handler {
    /// Sets the destination that records and metrics name.
    #[must_use]
    pub(crate) fn with_destination(mut self, destination: Option<&Name>) -> Self {
        match &mut self {
            Self::Http(http) => Arc::make_mut(http).destination = destination.cloned(),
            Self::Tcp(tcp) => Arc::make_mut(tcp).destination = destination.cloned(),
            Self::Detect { http, tcp, .. } => {
                Arc::make_mut(http).destination = destination.cloned();
                Arc::make_mut(tcp).destination = destination.cloned();
            }
        }
        self
    }

    /// Returns the destination that records and metrics name.
    pub fn destination(&self) -> Option<&Name> {
        match self {
            Self::Http(http) | Self::Detect { http, .. } => http.destination.as_ref(),
            Self::Tcp(tcp) => tcp.destination.as_ref(),
        }
    }

    /// Returns the source of its routes, or `None` if it does not handle HTTP.
    pub(crate) fn routes(&self) -> Option<&RouteSource> {
        match self {
            Self::Http(http) | Self::Detect { http, .. } => Some(&http.routes),
            Self::Tcp(_) => None,
        }
    }

    /// Returns the filters that its requests pass.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &HttpFilter> {
        let http = match self {
            Self::Http(http) | Self::Detect { http, .. } => Some(http),
            Self::Tcp(_) => None,
        };
        http.into_iter().flat_map(|http| &http.filters)
    }

    /// Returns the clusters that opaque bytes may be forwarded to.
    pub(crate) fn tcp_clusters(&self) -> impl Iterator<Item = &Name> {
        let tcp = match self {
            Self::Tcp(tcp) | Self::Detect { tcp, .. } => Some(tcp),
            Self::Http(_) => None,
        };
        tcp.into_iter().flat_map(|tcp| tcp.clusters.shares()).map(|share| &share.cluster)
    }
}
