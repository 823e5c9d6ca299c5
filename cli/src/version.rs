//! `outrigger version`: the versions of this program, of a control plane, and of its proxies.

use std::collections::BTreeMap;

use clap::Args;
use outrigger_control_plane::status::fetch;
use serde::Serialize;

use crate::flags::ControlPlaneArgs;
use crate::output::OutputArgs;
use crate::output::table::{Table, Tone};
use crate::runtime::block_on;

/// Prints versions.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  # The versions of the whole mesh, with the number of proxies that have each
  outrigger version

  # Of this program alone
  outrigger version --client")]
pub(crate) struct VersionArgs {
    /// Only the version of this program; no control plane is needed.
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The versions of a mesh.
#[derive(Debug, Serialize)]
struct Versions {
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    proxies: Vec<Proxy>,
}

#[derive(Debug, Serialize)]
struct Proxy {
    name: String,
    namespace: String,
    version: String,
}

/// Without a running control plane, prints the version of this program and returns an error.
pub(crate) fn run(args: VersionArgs) -> Result<(), String> {
    let client = concat!("outrigger ", env!("CARGO_PKG_VERSION")).to_owned();
    let mut versions = Versions { client, control_plane: None, proxies: Vec::new() };
    let status = match args.client {
        true => None,
        false => Some(block_on(fetch(&args.control_plane.address()))),
    };
    let outcome = match status {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(status)) => {
            versions.control_plane = Some(format!("outrigger {}", status.version));
            let proxies = status.proxies.into_iter();
            versions.proxies = proxies
                .map(|proxy| Proxy { name: proxy.node, namespace: proxy.namespace, version: proxy.software })
                .collect();
            Ok(())
        }
    };
    args.output.print(&versions, |wide| table(&versions, wide))?;
    outcome
}

/// One line for each version of the proxies, or in the wide form for each proxy.
fn table(versions: &Versions, wide: bool) -> String {
    let mut table = Table::new(&["COMPONENT", "VERSION", if wide { "NAME" } else { "COUNT" }]);
    table.row(Tone::Plain, ["client", &versions.client, ""]);
    if let Some(control_plane) = &versions.control_plane {
        table.row(Tone::Plain, ["control plane", control_plane, ""]);
    }
    if wide {
        for Proxy { name, namespace, version } in &versions.proxies {
            table.row(Tone::Plain, ["proxy", version, &format!("{name}.{namespace}")]);
        }
        return table.to_text();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    versions.proxies.iter().for_each(|proxy| *counts.entry(&proxy.version).or_default() += 1);
    for (version, count) in counts {
        table.row(Tone::Plain, ["proxies", version, &count.to_string()]);
    }
    table.to_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_counted_by_version() {
        let proxy = |name: &str, version: &str| Proxy {
            name: name.into(),
            namespace: "shop".into(),
            version: version.into(),
        };
        let versions = Versions {
            client: "outrigger 0.2.0".into(),
            control_plane: Some("outrigger 0.2.0".into()),
            proxies: vec![
                proxy("a", "outrigger 0.1.0"),
                proxy("b", "outrigger 0.2.0"),
                proxy("c", "outrigger 0.1.0"),
            ],
        };
        let plain = |wide| anstream::adapter::strip_str(&table(&versions, wide)).to_string();
        assert_eq!(
            plain(false),
            "\
COMPONENT      VERSION          COUNT
client         outrigger 0.2.0  -
control plane  outrigger 0.2.0  -
proxies        outrigger 0.1.0  2
proxies        outrigger 0.2.0  1
"
        );
        assert!(plain(true).contains("\nproxy          outrigger 0.2.0  b.shop\n"), "{}", plain(true));
    }
}
