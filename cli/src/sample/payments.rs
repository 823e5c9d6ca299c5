//! `payments`: one gRPC method, which charges and returns a receipt.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use outrigger_proto::demo::payments_server::{Payments, PaymentsServer};
use outrigger_proto::demo::{ChargeRequest, ChargeResponse};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

pub(super) async fn serve(listen: SocketAddr) -> Result<(), String> {
    let incoming = TcpIncoming::bind(listen)
        .map_err(|error| format!("cannot listen on {listen}: {error}"))?
        .with_nodelay(Some(true));
    Server::builder()
        .add_service(PaymentsServer::new(Till::default()))
        .serve_with_incoming_shutdown(incoming, crate::runtime::terminated())
        .await
        .map_err(|error| format!("payments: {error}"))
}

#[derive(Default)]
struct Till {
    receipts: AtomicU64,
}

#[tonic::async_trait]
impl Payments for Till {
    async fn charge(&self, _request: Request<ChargeRequest>) -> Result<Response<ChargeResponse>, Status> {
        Ok(Response::new(ChargeResponse { receipt: self.receipts.fetch_add(1, Ordering::Relaxed) + 1 }))
    }
}
