//! Transport of the ADS stream: opens, reads and reopens it, and moves it to a new connection after a certificate renewal.
//!
//! It passes messages on without interpreting them. The supervisor owns the state machine and receives all events in order
//! through one channel. At most one response is buffered ahead of a busy supervisor, so that a fast control plane buffers in
//! its own memory.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_proto::xds::core::{Locality, Node, node::UserAgentVersionType};
use outrigger_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrigger_proto::xds::node;
use outrigger_proto::xds::protobuf::{Struct, Value, value};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::backoff::Backoff;
use crate::control_plane::channel::{Channels, current};
use crate::control_plane::failure::describe;
use crate::xds::subscriptions::Mode;

/// Maximum size of a response. 10,000 services in wildcard mode need about 30 MB in one response.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
/// Time limit for the first response on a stream.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// A stream that lasted this long resets the backoff, even without any response.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Sends requests. Requests after the stream broke are lost, like those in flight. Unbounded, because each request answers a
/// response or carries a change of the (bounded) subscriptions.
pub(crate) type Requests = mpsc::UnboundedSender<DeltaDiscoveryRequest>;

/// Events of the stream, in order: `Opening`, then `Established`, then responses, then `Closed`; or `Closed` at once. A stream
/// that moves to another connection sends no `Closed`: `Opening` of its successor follows.
#[derive(Debug)]
pub(crate) enum Event {
    /// A stream is about to open, and the previous one is gone. The first requests are due now: some servers wait for them.
    Opening(Requests),
    /// The control plane has accepted the stream.
    Established,
    Response(Box<DeltaDiscoveryResponse>),
    /// The stream has ended and will be reopened.
    Closed(String),
}

/// Keeps a stream open, from the first credential on. Owned by the supervisor and ends with it.
pub(crate) async fn maintain(mut channels: Channels, events: mpsc::Sender<Event>) {
    let mut backoff = Backoff::default();
    while let Some(channel) = current(&mut channels).await {
        let opened = Instant::now();
        let ended = tokio::select! {
            ended = serve(channel, &events, &mut backoff) => ended,
            // Messages in flight are not lost: the next stream starts with the held versions.
            renewed = channels.changed() => match renewed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Err(status) = ended else { return };
        if events.send(Event::Closed(describe(&status))).await.is_err() {
            return;
        }
        if opened.elapsed() >= STABLE_AFTER {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Runs one stream. Returns `Ok` if the receiver of events is gone.
async fn serve(channel: Channel, events: &mpsc::Sender<Event>, backoff: &mut Backoff) -> Result<(), Status> {
    let (requests, outgoing) = mpsc::unbounded_channel();
    if events.send(Event::Opening(requests)).await.is_err() {
        return Ok(());
    }
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let call = client.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing));
    let mut responses = tokio::time::timeout(RESPONSE_TIMEOUT, call)
        .await
        .map_err(|_| Status::deadline_exceeded("the control plane did not respond"))??
        .into_inner();
    if events.send(Event::Established).await.is_err() {
        return Ok(());
    }
    loop {
        match responses.message().await? {
            Some(response) => {
                backoff.reset();
                if events.send(Event::Response(Box::new(response))).await.is_err() {
                    return Ok(());
                }
            }
            None => return Err(Status::unavailable("the control plane closed the stream")),
        }
    }
}

/// The label of a workload's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Returns the node that identifies this proxy on a stream. Its zone (`Node.locality`) is that of its labels: a workload that serves
/// nothing is not registered, and prefers endpoints of its zone all the same.
pub(crate) fn node(instance: &str, mode: Mode, labels: &BTreeMap<String, String>) -> Node {
    let value = Value { kind: Some(value::Kind::StringValue(mode.as_str().into())) };
    let fields = [(node::MODE.to_owned(), value)].into_iter().collect();
    Node {
        id: instance.into(),
        metadata: Some(Struct { fields }),
        locality: labels.get(ZONE).map(|zone| Locality { zone: zone.clone(), ..Default::default() }),
        user_agent_name: node::USER_AGENT.into(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").into(),
        )),
        client_features: vec![node::FORWARDS_CLIENT_CERTIFICATES.into()],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::clock::Clock;
    use crate::testing::{Ca, credential, fake_control_plane};

    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_gets_a_stream_of_its_own_at_once_and_the_old_one_ends() {
        let ca = Arc::new(Ca::new());
        let mut fake = fake_control_plane(&ca, Clock::paused());
        let (renewals, credentials) = watch::channel(Some(credential(&ca, CART)));
        let (sender, mut events) = mpsc::channel(1);
        let (connected, channels) = watch::channel(None);
        tokio::spawn(fake.control_plane.clone().follow(credentials, connected));
        tokio::spawn(maintain(channels, sender));
        assert!(matches!(events.recv().await, Some(Event::Opening(_))));
        let mut old = fake.ads.recv().await.unwrap();
        assert!(matches!(events.recv().await, Some(Event::Established)));
        let renewed = Instant::now();
        renewals.send_replace(Some(credential(&ca, CART)));
        let _new_requests = events.recv().await.filter(|event| matches!(event, Event::Opening(_))).unwrap();
        let _new = fake.ads.recv().await.unwrap();
        assert!(matches!(events.recv().await, Some(Event::Established)), "without a Closed");
        assert!(!matches!(old.requests.message().await, Ok(Some(_))));
        assert!(renewed.elapsed() < Duration::from_millis(100), "without a backoff");
    }
}
