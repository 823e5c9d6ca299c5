//! `customer`: visits `web` at a constant pace. Every third visit is a checkout.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::http::{Services, success};
use crate::output::print_error;

/// Visits `web` until SIGTERM or, if there is a `count`, until that many visits were made. Returns an error if one of those failed.
pub(super) async fn visit(services: Services, every: Duration, count: Option<u64>) -> Result<(), String> {
    let visits = async {
        let mut failed = 0;
        for number in 1..=count.unwrap_or(u64::MAX) {
            let (method, path) =
                if number % 3 == 0 { (Method::POST, "/checkout") } else { (Method::GET, "/") };
            let answer = services.call(method, "web", path, &HeaderMap::new(), Bytes::new()).await;
            if let Err(why) = success("web", answer) {
                print_error(&why);
                failed += 1;
            }
            tokio::time::sleep(every).await;
        }
        failed
    };
    let failed = tokio::select! {
        failed = visits => failed,
        () = crate::runtime::terminated() => 0,
    };
    if failed == 0 { Ok(()) } else { Err(format!("{failed} visits failed")) }
}

#[cfg(test)]
mod tests {
    use http::{Response, StatusCode};
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_customer_fails_if_a_visit_does() {
        let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sidecar = web.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = web.accept().await {
                let answer = service_fn(async |request: http::Request<hyper::body::Incoming>| {
                    let mut response = Response::new(Full::new(Bytes::new()));
                    if request.method() == Method::POST {
                        *response.status_mut() = StatusCode::BAD_GATEWAY;
                    }
                    Ok::<_, std::convert::Infallible>(response)
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
            }
        });
        let services = Services::new(Some(sidecar));
        assert_eq!(visit(services.clone(), Duration::ZERO, Some(2)).await, Ok(()));
        assert_eq!(visit(services, Duration::ZERO, Some(6)).await, Err("2 visits failed".into()));
    }
}
