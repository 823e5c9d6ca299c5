//! Filters for the proxy's own log, as `--log` and `/log-level` accept them: `info`, or `info,outrigger_discovery=debug`.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// Parses `LEVEL` and `TARGET=LEVEL`, separated by commas. A lone word is a level and never a target, because `inof` would
/// otherwise disable all logging.
pub(crate) fn parse(directives: &str) -> Result<Targets, String> {
    let mut filter = Targets::new();
    for directive in directives.split(',').map(str::trim) {
        filter = match directive.split_once('=') {
            None => filter.with_default(level(directive)?),
            Some((target, of)) => filter.with_target(target, level(of)?),
        };
    }
    Ok(filter)
}

fn level(name: &str) -> Result<LevelFilter, String> {
    // tracing parses the empty string as `error`.
    let level = if name.is_empty() { None } else { name.parse().ok() };
    level.ok_or_else(|| format!("`{name}` is no level; use off, error, warn, info, debug or trace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_holds_for_every_target_that_has_none_of_its_own() {
        let filter = parse("warn, outrigger_discovery=debug").unwrap();
        assert_eq!(filter.default_level(), Some(LevelFilter::WARN));
        assert!(filter.would_enable("outrigger_discovery::ads", &tracing::Level::DEBUG));
        assert!(!filter.would_enable("outrigger_proxy", &tracing::Level::INFO));
    }

    #[test]
    fn what_is_no_level_is_refused_by_name() {
        for bad in ["", "inof", "info,", "outrigger=shout"] {
            let said = bad.rsplit([',', '=']).next().unwrap();
            assert!(parse(bad).unwrap_err().contains(&format!("`{said}` is no level")), "{bad}");
        }
    }
}
