//! The environment of the sidecar, which is not that of the program: an `OTEL_*` variable is the program's, and so is any secret.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

/// What the variables of the sidecar begin with.
const OWN: &[u8] = b"OUTRIGGER_PROXY_";
const TELEMETRY: &[u8] = b"OTEL_";

/// Returns the variables of the sidecar: its flags, `OUTRIGGER_PROXY_*`, and its telemetry, `OUTRIGGER_PROXY_OTEL_*`, as `OTEL_*`.
pub(super) fn of_sidecar(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    all.filter_map(|(name, value)| {
        let own = name.as_bytes().strip_prefix(OWN)?;
        let name = if own.starts_with(TELEMETRY) { OsStr::from_bytes(own).to_owned() } else { name };
        Some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecar_gets_what_is_meant_for_it() {
        let all =
            ["OTEL_SERVICE_NAME", "OUTRIGGER_PROXY_OTEL_SERVICE_NAME", "OUTRIGGER_PROXY_ADMIN", "SECRET"];
        let all = all.into_iter().zip(["cart", "cart-sidecar", "127.0.0.1:1", "x"]);
        let own: Vec<_> = of_sidecar(all.map(|(name, value)| (name.into(), value.into()))).collect();
        let expected = [("OTEL_SERVICE_NAME", "cart-sidecar"), ("OUTRIGGER_PROXY_ADMIN", "127.0.0.1:1")];
        assert_eq!(own, expected.map(|(name, value)| (OsString::from(name), OsString::from(value))));
    }
}
