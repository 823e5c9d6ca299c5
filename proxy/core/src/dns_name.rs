//! The names of the resources that have the addresses of a host. The proxy requests them, the control plane answers.

/// What the name of such a resource begins with; the host follows, as the client wrote it: `dns|cart.shop`. A destination, which
/// has a port, cannot have such a name.
pub const DNS_PREFIX: &str = "dns|";

/// Returns the name of the resource of a host.
pub fn dns_name(host: &str) -> String {
    format!("{DNS_PREFIX}{host}")
}
