//! Upgrades: the upstream agreed to speak something else, so that bytes go both ways as they are.

use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use super::forward::Held;
use super::journal::Journal;
use crate::codec::head::ResponseHead;
use crate::codec::server::Responder;
use crate::codec::upgrade::Upgraded;
use crate::tcp::copy::{Copied, End, Lasting, Side, copy_both};

/// Agrees with the client too and relays until both sides have closed. Of the route's limits only the one on standing still
/// counts: nobody knows how long a conversation takes.
pub(super) async fn relay(
    head: ResponseHead,
    upstream: Upgraded,
    held: Held,
    mut journal: Journal,
    responder: Responder,
) {
    journal.set_status(head.status.as_u16(), None);
    match responder.upgrade(head).await {
        Ok(client) => {
            let lasting = Lasting { idle: held.limit.idle, longest: None };
            let copied = copy_both(side(client), side(upstream), lasting).await;
            journal.count(copied.received, copied.sent);
            if let Some(failure) = broken(&copied) {
                journal.fail(&failure);
            }
        }
        Err(failure) => journal.fail(&failure),
    }
    drop(held);
    journal.finish();
}

/// A side of a copy.
pub(super) fn side(of: Upgraded) -> Side {
    Side { stream: of.stream, read: of.read }
}

/// What a copy's end means for its record.
pub(crate) fn broken(copied: &Copied) -> Option<Failure> {
    use outrigger_core::error::Reached::ResponseStarted;
    match &copied.end {
        End::Closed => None,
        End::Expired => Some(Failure::downstream(Reason::DownstreamTimeout, "it lasted as long as it may")),
        End::Idle => Some(Failure::downstream(Reason::DownstreamTimeout, "no byte for the idle timeout")),
        End::Client(error) => Some(Failure::downstream(Reason::DownstreamConnectionTermination, error)),
        End::Upstream(error) => {
            Some(Failure::upstream(Reason::UpstreamConnectionTermination, ResponseStarted, error))
        }
    }
}
