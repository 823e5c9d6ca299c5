//! What is done with a connection's bytes once it is known where they go.

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;

use crate::http_manager::{HttpConnectionManager, RouteSource};
use crate::tcp_proxy::TcpProxy;

/// How a connection's bytes are understood.
#[derive(Debug, Clone)]
pub enum Handler {
    /// As HTTP.
    Http(Arc<HttpConnectionManager>),
    /// As opaque bytes.
    Tcp(Arc<TcpProxy>),
    /// As HTTP if the first bytes are HTTP, else as opaque bytes, and so if none come in time: the server speaks first.
    Detect {
        /// For HTTP.
        http: Arc<HttpConnectionManager>,
        /// For anything else.
        tcp: Arc<TcpProxy>,
        /// How long the first bytes may take.
        within: Duration,
    },
}

impl Handler {
    /// Says what it leads to.
    #[must_use]
    pub(crate) fn leading_to(mut self, destination: Option<&Name>) -> Self {
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

    /// Where its routes are, if it speaks HTTP.
    pub(crate) fn routes(&self) -> Option<&RouteSource> {
        match self {
            Self::Http(http) | Self::Detect { http, .. } => Some(&http.routes),
            Self::Tcp(_) => None,
        }
    }

    /// The clusters that opaque bytes may go to.
    pub(crate) fn tcp_clusters(&self) -> impl Iterator<Item = &Name> {
        let tcp = match self {
            Self::Tcp(tcp) | Self::Detect { tcp, .. } => Some(tcp),
            Self::Http(_) => None,
        };
        tcp.into_iter().flat_map(|tcp| tcp.clusters.shares()).map(|share| &share.cluster)
    }
}
