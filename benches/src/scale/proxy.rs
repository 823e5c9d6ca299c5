//! One simulated proxy: it gets a certificate with its join token, opens a delta ADS stream with it, and subscribes to its
//! destinations. What fails is repeated after a sidecar's backoff. It reports what it has received, and serves nobody.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::istio_auth::IstioCertificateRequest;
use outrigger_proto::istio_auth::istio_certificate_service_client::IstioCertificateServiceClient;
use outrigger_proto::xds::core::Node;
use outrigger_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::xds::node;
use outrigger_proto::xds::protobuf::{Struct, Value, value};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Request;

use super::subscriptions::Subscriptions;
use crate::connection::{ControlPlane, Credential, cause};

/// A sidecar's time limits for a certificate and for the first response of a stream.
const CERTIFICATE_TIMEOUT: Duration = Duration::from_secs(10);
const STREAM_TIMEOUT: Duration = Duration::from_secs(15);
/// A sidecar's backoff: the longest first wait, and the longest of all.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(5));

/// A proxy that has not started. Its key and request are made before, since a sidecar makes them on a machine of its own.
pub(super) struct Proxy {
    number: usize,
    admission: Admission,
    key: PrivateKeyDer<'static>,
    destinations: Vec<String>,
    watched: &'static str,
}

/// How a proxy gets its certificate.
enum Admission {
    /// From the control plane, with a join token and a request.
    Token { token: String, csr: String },
    /// It has one. Its control plane is not Outrigger's, for which `*` would mean the listeners of all services.
    Certificate(Vec<CertificateDer<'static>>),
}

/// What happened to a proxy.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) proxy: usize,
    pub(super) at: Instant,
    pub(super) event: Event,
}

/// See [`Report`].
#[derive(Debug)]
pub(super) enum Event {
    /// It has its certificate.
    Certified,
    /// It has every resource of its destinations.
    Configured,
    /// The watched service's endpoint has this port.
    Endpoint(u32),
    /// An attempt or a stream failed, and is repeated.
    Failed(String),
}

impl Proxy {
    /// Generates the key of proxy `number`, which calls `destinations`. Returns an error if that fails.
    pub(super) fn new(
        number: usize,
        token: String,
        destinations: Vec<String>,
        watched: &'static str,
    ) -> Result<Self, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let csr = CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem());
        let csr = csr.map_err(|error| error.to_string())?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Ok(Self { number, admission: Admission::Token { token, csr }, key, destinations, watched })
    }

    /// Creates a proxy that has a certificate.
    pub(super) fn with_certificate(
        number: usize,
        Credential { chain, key }: &Credential,
        destinations: Vec<String>,
        watched: &'static str,
    ) -> Self {
        let admission = Admission::Certificate(chain.clone());
        Self { number, admission, key: key.clone_key(), destinations, watched }
    }

    /// Starts once `starts` is not 0. Whenever it changes, the connection is closed and opened again at once. Runs until the task
    /// is aborted or nobody reads its reports.
    pub(super) async fn run(
        self,
        control_plane: Arc<ControlPlane>,
        mut starts: watch::Receiver<u32>,
        reports: mpsc::UnboundedSender<Report>,
    ) {
        let report = |event| reports.send(Report { proxy: self.number, at: Instant::now(), event }).is_ok();
        if starts.wait_for(|starts| *starts > 0).await.is_err() {
            return;
        }
        let mut failures = 0;
        let credential = loop {
            match self.certificate(&control_plane).await {
                Ok(chain) => break Credential { chain, key: self.key.clone_key() },
                Err(error) => {
                    report(Event::Failed(format!("certificate: {error}")));
                    tokio::time::sleep(backoff(&mut failures)).await;
                }
            }
        };
        report(Event::Certified);
        failures = 0;
        loop {
            let mut has_received = false;
            starts.borrow_and_update();
            let ended = tokio::select! {
                ended = self.stream(&control_plane, &credential, &report, &mut has_received) => ended,
                changed = starts.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let Err(error) = ended else { return };
            if has_received {
                failures = 0;
            }
            report(Event::Failed(format!("stream: {error}")));
            tokio::time::sleep(backoff(&mut failures)).await;
        }
    }

    async fn certificate(
        &self,
        control_plane: &ControlPlane,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let (token, csr) = match &self.admission {
            Admission::Token { token, csr } => (token, csr.clone()),
            Admission::Certificate(chain) => return Ok(chain.clone()),
        };
        let channel = control_plane.connect(Some(self.source()), None).await?;
        let request = IstioCertificateRequest { csr, ..Default::default() };
        let mut request = Request::new(request);
        let bearer = format!("Bearer {token}").parse().map_err(|_| "the token is no header")?;
        request.metadata_mut().insert("authorization", bearer);
        let mut authority = IstioCertificateServiceClient::new(channel);
        let answer = timeout(CERTIFICATE_TIMEOUT, authority.create_certificate(request)).await;
        let answer = answer.map_err(|_| "no answer in time")?.map_err(|status| refusal(&status))?;
        let read = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes());
        answer
            .into_inner()
            .cert_chain
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    }

    /// Runs one stream. Returns `Ok` if nobody reads the reports.
    async fn stream(
        &self,
        control_plane: &ControlPlane,
        credential: &Credential,
        report: &impl Fn(Event) -> bool,
        has_received: &mut bool,
    ) -> Result<(), String> {
        let channel = control_plane.connect(Some(self.source()), Some(credential)).await?;
        let mut subscriptions = Subscriptions::new(&self.destinations, self.watched);
        let (requests, outgoing) = mpsc::unbounded_channel();
        // The receiver lives as long as the call.
        let own = matches!(self.admission, Admission::Token { .. });
        let _ = requests.send(subscriptions.open(self.node(), own));
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let call = client.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing));
        let answers = timeout(STREAM_TIMEOUT, call).await.map_err(|_| "no answer in time")?;
        let mut answers = answers.map_err(|status| refusal(&status))?.into_inner();
        let mut is_complete = false;
        loop {
            let answer = answers.message().await.map_err(|status| refusal(&status))?;
            *has_received = true;
            let received = subscriptions.receive(answer.ok_or("the control plane closed the stream")?)?;
            for request in received.requests {
                let _ = requests.send(request);
            }
            if let Some(port) = received.port
                && !report(Event::Endpoint(port))
            {
                return Ok(());
            }
            if !is_complete && subscriptions.is_complete() {
                is_complete = true;
                if !report(Event::Configured) {
                    return Ok(());
                }
            }
        }
    }

    /// An address of loopback of its own.
    fn source(&self) -> Ipv4Addr {
        let [_, high, middle, low] = (self.number as u32).to_be_bytes();
        Ipv4Addr::new(127, 64 | high & 63, middle, low)
    }

    fn node(&self) -> Node {
        let mode = Value { kind: Some(value::Kind::StringValue(node::ON_DEMAND.into())) };
        Node {
            id: format!("proxy-{}", self.number),
            user_agent_name: node::USER_AGENT.into(),
            metadata: Some(Struct { fields: [(node::MODE.into(), mode)].into() }),
            ..Default::default()
        }
    }
}

/// Returns the wait before the next attempt: between half and all of a time that doubles up to a bound.
fn backoff(failures: &mut u32) -> Duration {
    let longest = BACKOFF.0.saturating_mul(1 << (*failures).min(8)).min(BACKOFF.1);
    *failures += 1;
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Returns what a status says, without what differs between proxies.
fn refusal(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => cause(source),
        None => format!("{:?}", status.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proxy_has_an_address_of_its_own() {
        let source = |number| {
            let key = PrivatePkcs8KeyDer::from(Vec::new()).into();
            let credential = Credential { chain: Vec::new(), key };
            Proxy::with_certificate(number, &credential, Vec::new(), "").source()
        };
        assert_eq!(source(0), Ipv4Addr::new(127, 64, 0, 0));
        assert_eq!(source(4_999), Ipv4Addr::new(127, 64, 19, 135));
        assert_eq!(source(1 << 16), Ipv4Addr::new(127, 65, 0, 0));
    }

    #[test]
    fn the_wait_doubles_up_to_a_bound() {
        let mut failures = 0;
        assert!(backoff(&mut failures) <= BACKOFF.0);
        for _ in 0..100 {
            assert!(backoff(&mut failures) <= BACKOFF.1);
        }
        assert!(backoff(&mut failures) >= BACKOFF.1 / 2);
    }
}
