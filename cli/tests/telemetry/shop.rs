//! A shop behind sidecars, and an exact number of requests: `shopper` calls `web`, `web` calls `cart`, `cart` calls `catalog`
//! (HTTP), `stock` (TCP) and, for a checkout, `payments` (gRPC).

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use outrigger::process::Process;
use outrigger::{admin, ports};
use outrigger_proto::demo::payments_server::{Payments, PaymentsServer};
use outrigger_proto::demo::{ChargeRequest, ChargeResponse};
use tonic::transport::server::TcpIncoming;
use tonic::{Response, Status};

/// How long a process may take to start or to stop.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The services with the port and protocol of each.
const SERVICES: [(&str, u16, &str); 5] = [
    ("web", 80, "http"),
    ("cart", 80, "http"),
    ("catalog", 80, "http"),
    ("payments", 50051, "grpc"),
    ("stock", 9000, "tcp"),
];

pub(crate) struct Shop {
    directory: tempfile::TempDir,
    control_plane: Process,
    control_plane_listen: SocketAddr,
    /// The admin address of the control plane.
    pub(crate) control_plane_admin: SocketAddr,
    applications: Vec<Process>,
    sidecars: Vec<(&'static str, SocketAddr, Process)>,
    environment: Vec<(String, String)>,
    shopper: SocketAddr,
}

impl Shop {
    /// Starts everything. Each sidecar gets `environment`.
    pub(crate) async fn start(environment: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::create_dir(path.join("config")).unwrap();
        std::fs::write(path.join("config/shop.yaml"), configuration()).unwrap();
        let [shopper, control_plane_listen, control_plane_admin] = ports::free().unwrap();
        let mut args = words(&["control-plane", "--config"]);
        args.push(path.join("config").into());
        args.push("--state-dir".into());
        args.push(path.join("control-plane").into());
        args.extend(words(&["--listen", &control_plane_listen.to_string()]));
        args.extend(words(&["--admin", &control_plane_admin.to_string()]));
        let mut control_plane = start(path, "control-plane", args, &[]);
        admin::wait_ready(control_plane_admin, &mut control_plane, TIMEOUT).await.unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let mut shop = Self {
            control_plane,
            control_plane_listen,
            control_plane_admin,
            applications: Vec::new(),
            sidecars: Vec::new(),
            environment: environment.collect(),
            shopper,
            directory,
        };
        shop.services().await;
        shop
    }

    async fn services(&mut self) {
        let [web, cart, catalog, payments, stock] = ports::free().unwrap();
        let [web_out, cart_out, bound_payments, bound_stock] = ports::free().unwrap();
        let [catalog_out, payments_out, stock_out] = ports::free().unwrap();
        self.application("web", web, &[("--sidecar", web_out)]);
        let upstreams = [("--sidecar", cart_out), ("--payments", bound_payments), ("--stock", bound_stock)];
        self.application("cart", cart, &upstreams);
        self.application("catalog", catalog, &[]);
        self.application("stock", stock, &[]);
        let incoming = TcpIncoming::bind(payments).unwrap();
        let server = tonic::transport::Server::builder().add_service(PaymentsServer::new(Till));
        tokio::spawn(server.serve_with_incoming(incoming));

        let binds = [format!("{bound_payments}=payments:50051"), format!("{bound_stock}=stock:9000")];
        self.sidecar("catalog", Some(catalog), catalog_out, &[]).await;
        self.sidecar("payments", Some(payments), payments_out, &[]).await;
        self.sidecar("stock", Some(stock), stock_out, &[]).await;
        self.sidecar("cart", Some(cart), cart_out, &binds).await;
        self.sidecar("web", Some(web), web_out, &[]).await;
        self.sidecar("shopper", None, self.shopper, &[]).await;
    }

    fn application(&mut self, service: &str, listen: SocketAddr, upstreams: &[(&str, SocketAddr)]) {
        let mut args = words(&["sample", service, "--listen", &listen.to_string()]);
        for (flag, address) in upstreams {
            args.extend(words(&[flag, &address.to_string()]));
        }
        let process = start(self.directory.path(), &format!("{service}-app"), args, &[]);
        self.applications.push(process);
    }

    async fn sidecar(
        &mut self,
        account: &'static str,
        application: Option<SocketAddr>,
        outbound: SocketAddr,
        binds: &[String],
    ) {
        let path = self.directory.path();
        let token = std::process::Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args(["token", "create", "--namespace", "shop", "--service-account", account, "--state-dir"])
            .arg(path.join("control-plane"))
            .output()
            .unwrap();
        assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
        std::fs::write(path.join(format!("{account}.token")), token.stdout).unwrap();
        let [admin, inbound] = ports::free().unwrap();
        let mut args = words(&["proxy", "--control-plane", &self.control_plane_listen.to_string()]);
        for (flag, file) in [
            ("--control-plane-ca", "control-plane/roots.pem".to_owned()),
            ("--token-file", format!("{account}.token")),
            ("--state-dir", account.to_owned()),
            ("--access-log", format!("{account}-access.log")),
        ] {
            args.extend([flag.into(), path.join(file).into()]);
        }
        args.extend(words(&["--instance", account, "--drain-minimum", "0s", "--drain-quiet", "100ms"]));
        args.extend(words(&["--admin", &admin.to_string(), "--outbound", &outbound.to_string()]));
        if let Some(application) = application {
            let (service, port, _) = SERVICES.iter().find(|(service, ..)| *service == account).unwrap();
            args.extend(words(&["--service", &format!("{service}:{port}={application},listen={inbound}")]));
        }
        for bind in binds {
            args.extend(words(&["--bind", bind]));
        }
        let mut process = start(path, &format!("{account}-sidecar"), args, &self.environment);
        admin::wait_ready(admin, &mut process, TIMEOUT).await.unwrap();
        self.sidecars.push((account, admin, process));
    }

    /// Returns each service account with the admin address of its sidecar.
    pub(crate) fn sidecars(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        self.sidecars.iter().map(|(account, admin, _)| (*account, *admin))
    }

    /// Sends requests for `web` through the sidecar of `shopper`, one after the other: `views` GETs, then `checkouts` POSTs
    /// whose charge succeeds, then `declined` POSTs whose charge fails. Panics if a response is not the expected one.
    pub(crate) async fn load(&self, views: usize, checkouts: usize, declined: usize) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let requests = std::iter::repeat_n((http::Method::GET, "/", "", StatusCode::OK), views)
            .chain(std::iter::repeat_n(
                (http::Method::POST, "/checkout", "a hull", StatusCode::OK),
                checkouts,
            ))
            .chain(std::iter::repeat_n(
                (http::Method::POST, "/checkout", "", StatusCode::BAD_GATEWAY),
                declined,
            ));
        for (method, path, body, expected) in requests {
            let request = Request::builder()
                .method(&method)
                .uri(format!("http://{}{path}", self.shopper))
                .header("host", "web")
                .body(Full::new(Bytes::from_static(body.as_bytes())))
                .unwrap();
            let (head, answer) = client.request(request).await.unwrap().into_parts();
            let answer = answer.collect().await.unwrap().to_bytes();
            assert_eq!(head.status, expected, "{method} {path}: {}", String::from_utf8_lossy(&answer));
        }
    }

    /// Stops the sidecars, which export what they have.
    pub(crate) async fn stop(self) {
        for (_, _, sidecar) in self.sidecars.into_iter().rev() {
            sidecar.terminate(TIMEOUT).await.unwrap();
        }
        for process in self.applications.into_iter().chain([self.control_plane]) {
            process.kill().await.unwrap();
        }
    }
}

/// The payments of the shop, which charge everything but nothing.
struct Till;

#[tonic::async_trait]
impl Payments for Till {
    async fn charge(
        &self,
        request: tonic::Request<ChargeRequest>,
    ) -> Result<Response<ChargeResponse>, Status> {
        match request.into_inner().cents {
            0 => Err(Status::internal("the till is jammed")),
            cents => Ok(Response::new(ChargeResponse { receipt: cents })),
        }
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

fn start(logs: &Path, name: &str, args: Vec<OsString>, environment: &[(String, String)]) -> Process {
    Process::start(Path::new(env!("CARGO_BIN_EXE_outrigger")), name, logs, args, environment).unwrap()
}

fn configuration() -> String {
    let services = SERVICES.map(|(name, port, protocol)| {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{name: main, port: {port}, appProtocol: {protocol}}}]}}
---
"
        )
    });
    services.concat()
}
