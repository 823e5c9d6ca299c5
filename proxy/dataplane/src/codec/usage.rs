//! Whether a connection to an upstream is in use, for the gauges.

/// Is told by a connection. Dropped with it and its last exchange.
pub(crate) trait Usage {
    /// The connection carries a request, and carried none before.
    fn begins(&self);

    /// The connection carries no request any more.
    fn ends(&self);
}
