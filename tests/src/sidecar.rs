//! A real proxy on a thread of its own.
//!
//! It can be stopped as SIGTERM stops it, and started again with the state that it saved. A thread cannot be killed; to
//! take an instance away at once, put it behind a [`Cable`] and cut that.

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

use crate::cable::Cable;
use crate::mesh::Mesh;

/// Who a sidecar works for.
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

/// A sidecar that is being described.
#[derive(Debug)]
pub struct Setup<'a> {
    mesh: &'a Mesh,
    workload: Workload,
    flags: Vec<String>,
    token: Option<String>,
    cable: Option<Cable>,
    serves: u8,
}

impl<'a> Setup<'a> {
    pub(crate) fn new(mesh: &'a Mesh, workload: Workload) -> Self {
        Self { mesh, workload, flags: Vec::new(), token: None, cable: None, serves: 0 }
    }

    /// In another namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.workload.namespace = namespace.into();
        self
    }

    /// Under another name than its account's.
    pub fn instance(mut self, instance: &str) -> Self {
        self.workload.instance = instance.into();
        self
    }

    /// With this join token instead of one of its own.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.into());
        self
    }

    /// A flag and its value.
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.extend([flag.into(), value.into()]);
        self
    }

    /// A service that the application at this address is.
    pub fn serves(self, service: &str, application: SocketAddr) -> Self {
        self.serves_with(service, application, "")
    }

    /// As [`Setup::serves`], with further words of the flag such as `,protocol=tcp`.
    pub fn serves_with(mut self, service: &str, application: SocketAddr, more: &str) -> Self {
        // All of 127.0.0.0/8 is this machine, so that each service has a place of its own on a port that is free.
        self.serves += 1;
        let listen = format!("127.0.0.{}:0", self.serves);
        self.flag("--service", &format!("{service}={application},listen={listen}{more}"))
    }

    /// The same, reached through a cable that the test can cut. One service alone.
    pub async fn serves_by_cable(mut self, service: &str, application: SocketAddr) -> Self {
        let cable = Cable::new().await;
        let advertise = format!(",advertise={}", cable.address);
        self.cable = Some(cable);
        self.serves_with(service, application, &advertise)
    }

    /// A local port bound to one destination.
    pub fn binds(self, destination: &str) -> Self {
        self.flag("--bind", &format!("127.0.0.1:0={destination}"))
    }

    /// With an access log, which [`Sidecar::records`] reads.
    pub fn logged(self) -> Self {
        let path = self.home().join("access.log").display().to_string();
        self.flag("--access-log", &path)
    }

    /// Starts it, waits until it is ready and, if it serves something, until the mesh knows.
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
        let said = match self.token {
            Some(token) => token,
            None => self.mesh.token(namespace, account).await,
        };
        let token = home.join("token");
        std::fs::write(&token, said).unwrap();
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
            // Most tests have nothing to say once they are done; one that does says so.
            ("--drain-minimum", "0s".into()),
            ("--drain-quiet", "0s".into()),
            ("--log", std::env::var("OUTRIGGER_TEST_LOG").unwrap_or_else(|_| "off".into())),
        ] {
            flags.extend([flag.into(), value]);
        }
        flags.extend(self.flags);
        let running = Running::start(&flags).await;
        let sidecar = Sidecar { flags, cable: self.cable, home, running };
        sidecar.lay_cable();
        sidecar
    }

    fn home(&self) -> PathBuf {
        let Workload { namespace, account: _, instance } = &self.workload;
        self.mesh.directory().join(format!("{namespace}-{instance}"))
    }
}

/// A proxy that runs. Dropped, it is told to end, and nobody waits for that.
#[derive(Debug)]
pub struct Sidecar {
    flags: Vec<String>,
    cable: Option<Cable>,
    home: PathBuf,
    running: Running,
}

#[derive(Debug)]
struct Running {
    addresses: Addresses,
    stop: watch::Sender<bool>,
    /// None when it was stopped.
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
        let embedding = Embedding { bound: Some(bound), stop: Some(stopped) };
        let thread = std::thread::spawn(move || run_embedded(args, embedding));
        match in_time("a proxy that listens", addresses).await {
            Ok(addresses) => Self { addresses, stop, thread: Some(thread) },
            Err(_) => panic!("the proxy ended: {:?}", thread.join()),
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.order_to_end();
    }
}

impl Sidecar {
    /// Where its application sends requests.
    pub fn outbound(&self) -> SocketAddr {
        self.listens("outbound")
    }

    /// The first port that is bound to a destination.
    pub fn bound(&self) -> SocketAddr {
        self.listens("bind|")
    }

    /// Where others connect, if they speak mutual TLS.
    pub fn inbound(&self) -> SocketAddr {
        self.listens(INBOUND_PREFIX)
    }

    fn listens(&self, name: &str) -> SocketAddr {
        let mut listeners = self.running.addresses.listeners.iter();
        listeners.find(|(listener, _)| listener.starts_with(name)).expect("a listener of that name").1
    }

    /// The way to it.
    pub fn cable(&self) -> &Cable {
        self.cable.as_ref().expect("a sidecar with a cable")
    }

    fn lay_cable(&self) {
        if let Some(cable) = &self.cable {
            cable.lead_to(self.inbound());
        }
    }

    /// An application's connection to its sidecar.
    pub async fn client(&self) -> Client {
        Client::connect(self.outbound()).await
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, host: &str, path: &str) -> Response {
        self.client().await.get(host, path).await
    }

    /// Asks until the answer will do, and returns it.
    pub async fn get_until(&self, host: &str, path: &str, will_do: impl Fn(&Response) -> bool) -> Response {
        eventually(&format!("an answer of {host}{path} that will do"), async || {
            Some(self.get(host, path).await).filter(&will_do)
        })
        .await
    }

    /// A page of its admin endpoint; none unless the answer is 2xx.
    pub async fn page(&self, path: &str) -> Option<String> {
        let page = ask(&AdminAddress::Tcp(self.running.addresses.admin), path, None).await;
        page.ok().map(|page| String::from_utf8(page.to_vec()).unwrap())
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        eventually("a proxy that is ready", async || self.page("/ready").await).await;
    }

    /// The sum of all series of a metric whose labels contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let page = self.page("/metrics").await.expect("metrics");
        let series = page.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The lines of its access log that contain `text`, once there is one.
    pub async fn records(&self, text: &str) -> Vec<String> {
        eventually("a line in the access log", async || {
            let log = std::fs::read_to_string(self.home.join("access.log")).unwrap_or_default();
            let found: Vec<_> = log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect();
            Some(found).filter(|found| !found.is_empty())
        })
        .await
    }

    /// Where key, certificate and configuration are kept.
    pub fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Tells it to end, as SIGTERM does.
    pub fn order_to_end(&self) {
        self.running.stop.send_replace(true);
    }

    /// Stops it as SIGTERM does, and waits until it has drained.
    pub async fn stop(&mut self) {
        self.order_to_end();
        let thread = self.running.thread.take().expect("a proxy that runs");
        let joined = tokio::task::spawn_blocking(|| thread.join());
        in_time("a proxy that ends", joined).await.unwrap().unwrap().unwrap();
    }

    /// Starts it again with what it saved, on ports of its own choice, and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.running = Running::start(&self.flags).await;
        self.lay_cable();
        self.ready().await;
    }
}
