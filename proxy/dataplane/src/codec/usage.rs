//! Tracks whether an upstream connection is in use, for the gauges.

/// Notified by a connection. Dropped with the connection and its last exchange.
pub(crate) trait Usage {
    /// Called when the connection begins to carry a request, having carried none.
    fn begins(&self);

    /// Called when the connection no longer carries a request.
    fn ends(&self);
}
