//! Selects the gRPC service of a request by the first segment of its path (gRPC over HTTP/2, "Path").
//!
//! Three services need no router with patterns; this way the control plane links no web framework.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

type Handler = Arc<dyn Fn(http::Request<Body>) -> BoxFuture<http::Response<Body>, Infallible> + Send + Sync>;

/// The services of the listener by name.
#[derive(Clone, Default)]
pub(crate) struct Services(Vec<(&'static str, Handler)>);

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Services {
    /// Adds a service that tonic generated, which is always ready.
    pub(crate) fn with<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.0.push((S::NAME, Arc::new(move |request| Box::pin(service.clone().call(request)))));
        self
    }
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let asked = request.uri().path().split('/').nth(1).unwrap_or_default();
        match self.0.iter().find(|(name, _)| *name == asked) {
            Some((_, handler)) => handler(request),
            None => {
                let status = Status::unimplemented(format!("unknown service {asked:?}"));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}
