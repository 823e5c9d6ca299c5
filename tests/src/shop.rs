//! A mesh for tests of routes.

use outrigger_test_support::application::Application;
use outrigger_test_support::http1::Response;

use crate::mesh::{Mesh, http_route, service};
use crate::sidecar::Sidecar;

/// A mesh with the applications `a` and `b`, and a service `shop` that has routes and no endpoints.
#[derive(Debug)]
pub struct Shop {
    /// Its control plane.
    pub mesh: Mesh,
    /// Application of the service `a`.
    pub a: Application,
    /// Application of the service `b`.
    pub b: Application,
    /// The sidecar of a client.
    pub web: Sidecar,
    _backends: Sidecar,
}

impl Shop {
    /// Starts it with the rules of one HTTPRoute of `shop`.
    pub async fn with_rules(rules: &str) -> Self {
        Self::start(&http_route("shop", "shop", "shop", rules)).await
    }

    /// Starts it with these documents besides the services.
    pub async fn start(routes: &str) -> Self {
        let services =
            [service("shop", 80, "http"), service("a", 80, "http"), service("b", 80, "http")].concat();
        let mesh = Mesh::start(&format!("{services}{routes}")).await;
        let (a, b) = (Application::echo("a").await, Application::echo("b").await);
        let backends = mesh.sidecar("backends").serves("a", a.address).serves("b", b.address);
        let backends = backends.start().await;
        let web = mesh.sidecar("web").start().await;
        Self { mesh, a, b, web, _backends: backends }
    }

    /// Sends a GET to `shop` on a new connection.
    pub async fn get(&self, path: &str) -> Response {
        self.web.get("shop", path).await
    }

    /// Sends a request without a body to `shop` on a new connection.
    pub async fn request(&self, method: &str, path: &str, fields: &str) -> Response {
        self.web.client().await.request(method, "shop", path, fields).await
    }
}
