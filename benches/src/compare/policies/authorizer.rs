//! An authorization service (`envoy.service.auth.v3`) that allows everything but requests with the field `x-deny`.

use std::net::{Ipv4Addr, SocketAddr};

use outrigger_proto::xds::auth_service::authorization_server::{Authorization, AuthorizationServer};
use outrigger_proto::xds::auth_service::{CheckRequest, CheckResponse};
use outrigger_proto::xds::rpc;
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Request, Response, Status};

/// The field of requests that are denied.
pub(super) const DENIED: &str = "x-deny";
/// PERMISSION_DENIED.
const PERMISSION_DENIED: i32 = 7;

/// Starts it on a free port of loopback, until the program ends. Returns its address.
pub(super) async fn start() -> Result<SocketAddr, String> {
    let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())
        .map_err(|error| format!("cannot listen for an authorization service: {error}"))?;
    let address = incoming.local_addr().map_err(|error| error.to_string())?;
    let service = AuthorizationServer::new(Judge);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    Ok(address)
}

struct Judge;

#[tonic::async_trait]
impl Authorization for Judge {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http).unwrap_or_default();
        let code = if http.headers.contains_key(DENIED) { PERMISSION_DENIED } else { 0 };
        let status = Some(rpc::Status { code, ..Default::default() });
        Ok(Response::new(CheckResponse { status, ..Default::default() }))
    }
}
