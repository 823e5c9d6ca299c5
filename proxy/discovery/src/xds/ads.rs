//! The ADS stream on the wire: opened, read, opened again; moved to a new connection when the certificate was renewed.
//!
//! Carries messages and judges none of them; the supervisor owns the state machine and gets everything in order through
//! one channel. A supervisor that is busy is not sent more than one response ahead, so that a fast control plane waits
//! in its own memory.

use std::time::Duration;

use outrigger_proto::xds::core::{Node, node::UserAgentVersionType};
use outrigger_proto::xds::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrigger_proto::xds::protobuf::{Struct, Value, value};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::backoff::Backoff;
use crate::control_plane::channel::{Channels, current, describe};
use crate::xds::subscriptions::Mode;

/// The largest response that is read. A mesh of 10,000 services in wildcard mode sends some 30 MB at once.
const RESPONSE_BYTES: usize = 256 << 20;
/// A control plane that has taken the stream's connection begins to answer within this time.
const ANSWER: Duration = Duration::from_secs(15);

/// A stream that lived for so long was a success, even if there was nothing to say on it.
const SETTLED: Duration = Duration::from_secs(10);

/// Where requests go. What is sent after the stream broke is lost, as it would be in flight. Unbounded, since a request
/// answers a response or carries a change of the (bounded) demand.
pub(crate) type Requests = mpsc::UnboundedSender<DeltaDiscoveryRequest>;

/// What happens on the stream, in order: `Opening`, then `Established`, then responses, then `Closed`, or `Closed` at once.
/// A stream that moves to another connection is not `Closed`: its successor is `Opening`.
#[derive(Debug)]
pub(crate) enum Event {
    /// A stream is about to be opened, and any before it is gone: its first requests are due, some servers wait for them.
    Opening(Requests),
    /// The control plane has taken it.
    Established,
    Response(Box<DeltaDiscoveryResponse>),
    /// It is gone, and will be opened again by itself.
    Closed(String),
}

/// Keeps a stream open, from the first credential on. Owned by the supervisor; ends when it is gone.
pub(crate) async fn maintain(mut channels: Channels, events: mpsc::Sender<Event>) {
    let mut backoff = Backoff::default();
    while let Some(channel) = current(&mut channels).await {
        let opened = Instant::now();
        let ended = tokio::select! {
            ended = serve(channel, &events, &mut backoff) => ended,
            // What was on its way is said again: the next stream begins with what is held.
            renewed = channels.changed() => match renewed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Err(status) = ended else { return };
        if events.send(Event::Closed(describe(&status))).await.is_err() {
            return;
        }
        if opened.elapsed() >= SETTLED {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// One stream. `Ok`: nobody listens any more.
async fn serve(channel: Channel, events: &mpsc::Sender<Event>, backoff: &mut Backoff) -> Result<(), Status> {
    let (requests, outgoing) = mpsc::unbounded_channel();
    if events.send(Event::Opening(requests)).await.is_err() {
        return Ok(());
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES);
    let call = client.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing));
    let mut responses = tokio::time::timeout(ANSWER, call)
        .await
        .map_err(|_| Status::deadline_exceeded("the control plane does not answer"))??
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

/// How this proxy introduces itself on a stream.
pub(crate) fn node(instance: &str, mode: Mode) -> Node {
    let value = Value { kind: Some(value::Kind::StringValue(mode.as_str().into())) };
    let fields = [("OUTRIGGER_MODE".to_owned(), value)].into_iter().collect();
    Node {
        id: instance.into(),
        metadata: Some(Struct { fields }),
        user_agent_name: "outrigger".into(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").into(),
        )),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::clock::Clock;
    use crate::testing::{Ca, credential, stage};

    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_gets_a_stream_of_its_own_at_once_and_the_old_one_ends() {
        let ca = Arc::new(Ca::new());
        let mut stage = stage(&ca, Clock::paused());
        let (renewals, credentials) = watch::channel(Some(credential(&ca, CART)));
        let (sender, mut events) = mpsc::channel(1);
        let (connected, channels) = watch::channel(None);
        tokio::spawn(stage.control_plane.clone().follow(credentials, connected));
        tokio::spawn(maintain(channels, sender));
        assert!(matches!(events.recv().await, Some(Event::Opening(_))));
        let mut old = stage.ads.recv().await.unwrap();
        assert!(matches!(events.recv().await, Some(Event::Established)));
        let renewed = Instant::now();
        renewals.send_replace(Some(credential(&ca, CART)));
        let _new_requests = events.recv().await.filter(|event| matches!(event, Event::Opening(_))).unwrap();
        let _new = stage.ads.recv().await.unwrap();
        assert!(matches!(events.recv().await, Some(Event::Established)), "without a Closed");
        assert!(!matches!(old.requests.message().await, Ok(Some(_))));
        assert!(renewed.elapsed() < Duration::from_millis(100), "without a backoff");
    }
}
