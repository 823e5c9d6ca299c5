//! `catalog`: the list of items. Runs as versions v1 and v2; the header `x-version` of a response names the version.

use std::net::SocketAddr;

use http::{HeaderValue, Method, StatusCode};

use super::http::{json, serve as serve_http};

pub(super) async fn serve(listen: SocketAddr, version: String) -> Result<(), String> {
    let header =
        HeaderValue::from_str(&version).map_err(|_| format!("version {version:?} is no header value"))?;
    serve_http(listen, move |request| {
        let (version, header) = (version.clone(), header.clone());
        async move {
            if (request.method(), request.uri().path()) != (&Method::GET, "/items") {
                return json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": "GET /items" }));
            }
            let items = serde_json::json!({ "version": version, "items": ["paddle", "hull", "float"] });
            let mut answer = json(StatusCode::OK, &items);
            answer.headers_mut().insert("x-version", header);
            answer
        }
    })
    .await
}
