//! Upgrades: the upstream agreed to speak something else, so that bytes go both ways as they are.

use super::journal::Journal;
use super::reply::ResponseGuard;
use crate::codec::head::ResponseHead;
use crate::codec::server::Responder;
use crate::codec::upgrade::Upgraded;
use crate::tcp::copy::{CopyLimits, Side, copy_both};

/// Agrees with the client too and relays until both sides have closed. Of the route's limits only the one on standing still
/// counts: a conversation has no expected duration.
pub(super) async fn relay(
    head: ResponseHead,
    upstream: Upgraded,
    guard: ResponseGuard,
    journal: &mut Journal,
    responder: Responder,
) {
    journal.set_status(head.status.as_u16(), None);
    match responder.upgrade(head).await {
        Ok(client) => {
            let limits = CopyLimits { idle: guard.limit.idle, total: None };
            let copied = copy_both(side(client), side(upstream), limits, None).await;
            journal.count(copied.received, copied.sent);
            if let Some(failure) = copied.failure() {
                journal.fail(&failure);
            }
        }
        Err(failure) => journal.fail(&failure),
    }
}

/// A side of a copy.
pub(super) fn side(of: Upgraded) -> Side {
    Side { stream: of.stream, read: of.read }
}
