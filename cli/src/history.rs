//! `outrigger history`: the log of configuration changes.

use clap::Args;
use outrigger_control_plane::history::{HistoryEntry, fetch, read};

use crate::flags::ControlPlaneArgs;
use crate::output::OutputArgs;
use crate::output::table::{Table, Tone};
use crate::runtime::block_on;

/// Prints the log of configuration changes.
#[derive(Debug, Args)]
#[command(after_help = "\
With --state-dir, the control plane need not run.

Examples:
  # The last changes of a running control plane's configuration
  outrigger history --count 20

  # Of a control plane that does not run
  outrigger history --state-dir /var/lib/outrigger")]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    control_plane: ControlPlaneArgs,
    /// How many of the newest changes to print.
    #[arg(long, default_value_t = 100, help_heading = "Filters")]
    count: usize,
    #[command(flatten)]
    output: OutputArgs,
}

/// Without a state directory, needs a running control plane.
pub(crate) fn run(args: HistoryArgs) -> Result<(), String> {
    let entries = match &args.control_plane.state_dir {
        Some(directory) => block_on(read(directory, args.count))?,
        None => block_on(fetch(&args.control_plane.address(), args.count))?,
    };
    args.output.print(&entries, |wide| table(&entries, wide))
}

fn table(entries: &[HistoryEntry], wide: bool) -> String {
    let mut header = vec!["TIME", "SOURCE", "CHANGE", "REFUSED BECAUSE"];
    header.extend(wide.then_some("VERSION"));
    let mut table = Table::new(&header);
    for HistoryEntry { at_unix_ms, source, what, version, refused } in entries {
        let at = i64::try_from(*at_unix_ms).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        let at = at.map(|at| format!("{at:.3}")).unwrap_or_default();
        let tone = if refused.is_some() { Tone::Error } else { Tone::Plain };
        let mut cells = vec![at.as_str(), source, what, refused.as_deref().unwrap_or_default()];
        cells.extend(wide.then_some(version.as_deref().unwrap_or_default()));
        table.row(tone, cells);
    }
    table.to_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_change_has_its_reason() {
        let entry = |what: &str, version: Option<&str>, refused: Option<&str>| HistoryEntry {
            at_unix_ms: 1_800_000_000_123,
            source: "shop.yaml".into(),
            what: what.into(),
            version: version.map(Into::into),
            refused: refused.map(Into::into),
        };
        let entries = [
            entry("Service shop/cart added", Some("1"), None),
            entry("HTTPRoute shop/cart refused", None, Some("spec.rules: is no list")),
        ];
        let plain = anstream::adapter::strip_str(&table(&entries, true)).to_string();
        assert_eq!(
            plain,
            "\
TIME                      SOURCE     CHANGE                       REFUSED BECAUSE         VERSION
2027-01-15T08:00:00.123Z  shop.yaml  Service shop/cart added      -                       1
2027-01-15T08:00:00.123Z  shop.yaml  HTTPRoute shop/cart refused  spec.rules: is no list  -
"
        );
    }
}
