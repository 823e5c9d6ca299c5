//! `web`: the front end, which serves each request of a browser by calling `cart`.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::http::{Services, bad_gateway, json, serve as serve_http, success};

pub(super) async fn serve(listen: SocketAddr, services: Services) -> Result<(), String> {
    serve_http(listen, move |request| answer(services.clone(), request)).await
}

async fn answer(services: Services, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return bad_gateway("the request broke off") };
    let path = match (&head.method, head.uri.path()) {
        (&Method::GET, "/") => "/cart",
        (&Method::POST, "/checkout") => "/checkout",
        _ => return json(StatusCode::NOT_FOUND, &serde_json::json!({ "error": "GET / or POST /checkout" })),
    };
    match success("cart", services.call(head.method, "cart", path, &head.headers, body.to_bytes()).await) {
        Ok(answer) => answer.map(Full::new),
        Err(why) => bad_gateway(&why),
    }
}
