//! A real proxy on a thread.
//!
//! It can be stopped as by SIGTERM, and restarted with its saved state. A thread cannot be killed: an instance that must become
//! unreachable at once is put behind a [`Relay`], which can be closed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use clap::Parser;
use outrigger_control_plane::admin_client::{AdminAddress, ask};
use outrigger_core::inbound_name::INBOUND_PREFIX;
use outrigger_proxy::{Addresses, Args, Embedding, Error, run_embedded};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::Response;
use outrigger_test_support::wait::{eventually, in_time};
use tokio::sync::{oneshot, watch};

use crate::mesh::Mesh;
use crate::relay::Relay;

/// The workload of a sidecar.
#[derive(Debug, Clone)]
pub struct Workload {
    namespace: String,
    account: String,
    instance: String,
}

impl Workload {
    pub(crate) fn new(namespace: &str, account: &str) -> Self {
        Self { namespace: namespace.into(), account: account.into(), instance: account.into() }
    }
}

/// Builds a [`Sidecar`].
#[derive(Debug)]
pub struct SidecarBuilder<'a> {
    mesh: &'a Mesh,
    workload: Workload,
    flags: Vec<String>,
    token: Option<String>,
    relay: Option<Relay>,
    serves: u8,
}

impl<'a> SidecarBuilder<'a> {
    pub(crate) fn new(mesh: &'a Mesh, workload: Workload) -> Self {
        Self { mesh, workload, flags: Vec::new(), token: None, relay: None, serves: 0 }
    }

    /// Sets the namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.workload.namespace = namespace.into();
        self
    }

    /// Sets the instance name. The default is that of the service account.
    pub fn instance(mut self, instance: &str) -> Self {
        self.workload.instance = instance.into();
        self
    }

    /// Sets the join token. By default a new one is created.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Adds a flag and its value.
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.extend([flag.into(), value.into()]);
        self
    }

    /// Registers a service whose application is at this address.
    pub fn serves(self, service: &str, application: SocketAddr) -> Self {
        self.serves_with(service, application, "")
    }

    /// As [`SidecarBuilder::serves`], with further options of the flag, such as `,protocol=tcp`.
    pub fn serves_with(mut self, service: &str, application: SocketAddr, more: &str) -> Self {
        // All of 127.0.0.0/8 is this machine: each service gets its own address.
        self.serves += 1;
        let listen = format!("127.0.0.{}:0", self.serves);
        self.flag("--service", &format!("{service}={application},listen={listen}{more}"))
    }

    /// As [`SidecarBuilder::serves`], behind a relay that the test can close. For one service only.
    pub async fn serves_behind_relay(mut self, service: &str, application: SocketAddr) -> Self {
        let relay = Relay::new().await;
        let advertise = format!(",advertise={}", relay.address);
        self.relay = Some(relay);
        self.serves_with(service, application, &advertise)
    }

    /// Binds a local port to one destination.
    pub fn binds(self, destination: &str) -> Self {
        self.flag("--bind", &format!("127.0.0.1:0={destination}"))
    }

    /// Enables the access log, which [`Sidecar::records`] reads.
    pub fn logged(self) -> Self {
        let path = self.home().join("access.log").display().to_string();
        self.flag("--access-log", &path)
    }

    /// Starts it and waits until it is ready and its services, if any, are registered.
    pub async fn start(self) -> Sidecar {
        let mesh = self.mesh;
        let instance = self.workload.instance.clone();
        let serves = self.serves > 0;
        let sidecar = self.launch().await;
        sidecar.ready().await;
        if serves {
            mesh.registered(&instance).await;
        }
        sidecar
    }

    /// Starts it and waits until it listens.
    pub async fn launch(self) -> Sidecar {
        let home = self.home();
        std::fs::create_dir_all(&home).unwrap();
        let Workload { namespace, account, instance } = &self.workload;
        let text = match self.token {
            Some(token) => token,
            None => self.mesh.token(namespace, account).await,
        };
        let token = home.join("token");
        std::fs::write(&token, text).unwrap();
        let mut flags = vec!["proxy".to_owned()];
        for (flag, value) in [
            ("--control-plane", self.mesh.listen().to_string()),
            ("--control-plane-ca", self.mesh.roots().display().to_string()),
            ("--token-file", token.display().to_string()),
            ("--state-dir", home.join("state").display().to_string()),
            ("--instance", instance.clone()),
            ("--admin", "127.0.0.1:0".into()),
            ("--outbound", "127.0.0.1:0".into()),
            ("--unknown-destination", "refuse".into()),
            // The applications of most tests send nothing during the drain; others set these flags themselves.
            ("--drain-minimum", "0s".into()),
            ("--drain-quiet", "0s".into()),
            ("--log", std::env::var("OUTRIGGER_TEST_LOG").unwrap_or_else(|_| "off".into())),
        ] {
            flags.extend([flag.into(), value]);
        }
        flags.extend(self.flags);
        let running = Running::start(&flags).await;
        let sidecar = Sidecar { flags, relay: self.relay, home, running };
        sidecar.connect_relay();
        sidecar
    }

    fn home(&self) -> PathBuf {
        let Workload { namespace, account: _, instance } = &self.workload;
        self.mesh.directory().join(format!("{namespace}-{instance}"))
    }
}

/// A running proxy. Dropping it starts its shutdown without waiting for the end.
#[derive(Debug)]
pub struct Sidecar {
    flags: Vec<String>,
    relay: Option<Relay>,
    home: PathBuf,
    running: Running,
}

#[derive(Debug)]
struct Running {
    addresses: Addresses,
    stop: watch::Sender<bool>,
    /// `None` once it was stopped.
    thread: Option<JoinHandle<Result<(), Error>>>,
}

#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Command {
    #[command(flatten)]
    args: Args,
}

impl Running {
    async fn start(flags: &[String]) -> Self {
        let Command { args } = Command::try_parse_from(flags).unwrap_or_else(|error| panic!("{error}"));
        let ((bound, addresses), (stop, stopped)) = (oneshot::channel(), watch::channel(false));
        let embedding = Embedding { bound: Some(bound), stop: Some(stopped), ..Embedding::default() };
        let thread = std::thread::spawn(move || run_embedded(args, embedding));
        match in_time("a proxy that listens", addresses).await {
            Ok(addresses) => Self { addresses, stop, thread: Some(thread) },
            Err(_) => panic!("the proxy ended: {:?}", thread.join()),
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.begin_shutdown();
    }
}

impl Sidecar {
    /// Returns the address to which its application sends requests.
    pub fn outbound(&self) -> SocketAddr {
        self.listens("outbound")
    }

    /// Returns the address of the first port that is bound to a destination.
    pub fn bound(&self) -> SocketAddr {
        self.listens("bind|")
    }

    /// Returns the address to which other sidecars connect, with mutual TLS.
    pub fn inbound(&self) -> SocketAddr {
        self.listens(INBOUND_PREFIX)
    }

    /// Returns the address of its DNS answerer.
    pub fn dns(&self) -> SocketAddr {
        *self.running.addresses.dns.first().expect("a sidecar with --dns")
    }

    fn listens(&self, name: &str) -> SocketAddr {
        let mut listeners = self.running.addresses.listeners.iter();
        listeners.find(|(listener, _)| listener.starts_with(name)).expect("a listener of that name").1
    }

    /// The relay in front of it.
    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("a sidecar behind a relay")
    }

    fn connect_relay(&self) {
        if let Some(relay) = &self.relay {
            relay.forward_to(self.inbound());
        }
    }

    /// Connects to the outbound port, as its application does.
    pub async fn client(&self) -> Client {
        Client::connect(self.outbound()).await
    }

    /// Sends a GET on a new connection.
    pub async fn get(&self, host: &str, path: &str) -> Response {
        self.client().await.get(host, path).await
    }

    /// Sends GETs until `accepts` is true for a response, and returns that.
    pub async fn get_until(&self, host: &str, path: &str, accepts: impl Fn(&Response) -> bool) -> Response {
        eventually(&format!("the expected response of {host}{path}"), async || {
            Some(self.get(host, path).await).filter(&accepts)
        })
        .await
    }

    /// Fetches a page of its admin endpoint. Returns `None` unless the status is 2xx.
    pub async fn page(&self, path: &str) -> Option<String> {
        let page = ask(&AdminAddress::Tcp(self.running.addresses.admin), path, None).await;
        page.ok().map(|page| String::from_utf8(page.to_vec()).unwrap())
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        eventually("a proxy that is ready", async || self.page("/ready").await).await;
    }

    /// Returns the sum of all series of a metric whose labels contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let page = self.page("/metrics").await.expect("metrics");
        let series = page.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits for lines in its access log that contain `text`, and returns them.
    pub async fn records(&self, text: &str) -> Vec<String> {
        eventually("a line in the access log", async || {
            let log = std::fs::read_to_string(self.home.join("access.log")).unwrap_or_default();
            let found: Vec<_> = log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect();
            Some(found).filter(|found| !found.is_empty())
        })
        .await
    }

    /// Returns the directory of its key, certificate and cached configuration.
    pub fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Starts its shutdown, as SIGTERM does.
    pub fn begin_shutdown(&self) {
        self.running.stop.send_replace(true);
    }

    /// Shuts it down, and waits until it has drained.
    pub async fn stop(&mut self) {
        self.begin_shutdown();
        let thread = self.running.thread.take().expect("a proxy that runs");
        let joined = tokio::task::spawn_blocking(|| thread.join());
        in_time("a proxy that ends", joined).await.unwrap().unwrap().unwrap();
    }

    /// Starts it again with its saved state, on new ports, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.running = Running::start(&self.flags).await;
        self.connect_relay();
        self.ready().await;
    }
}
