//! `web`: the front end, which serves each request of a browser by calling `cart`.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::http::{Sidecar, bad_gateway, json, serve as serve_http, success};

pub(super) async fn serve(listen: SocketAddr, sidecar: SocketAddr) -> Result<(), String> {
    let sidecar = Sidecar::new(sidecar);
    serve_http(listen, move |request| answer(sidecar.clone(), request)).await
}

async fn answer(sidecar: Sidecar, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return bad_gateway("the request broke off") };
    let path = match (&head.method, head.uri.path()) {
        (&Method::GET, "/") => "/cart",
        (&Method::POST, "/checkout") => "/checkout",
        _ => return json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": "GET / or POST /checkout" })),
    };
    match success("cart", sidecar.call(head.method, "cart", path, &head.headers, body.to_bytes()).await) {
        Ok(answer) => answer.map(Full::new),
        Err(why) => bad_gateway(&why),
    }
}
