//! `OTEL_PROPAGATORS`: the formats of trace context that are read and written.

use outrigger_core::trace::{B3, Propagators};

use super::environment::Environment;
use crate::error::Error;

/// Reads the variable (Environment variable specification, "General SDK Configuration"). Unset, trace context is read in either
/// format and B3 is written to the upstreams of clients that use it. The headers of a format that is not listed pass through
/// unchanged, as baggage always does.
///
/// Returns an error if a propagator is not supported.
pub(super) fn read(environment: &Environment) -> Result<Propagators, Error> {
    let Some(variable) = environment.get("OTEL_PROPAGATORS") else { return Ok(Propagators::DEFAULT) };
    let (mut trace_context, mut single, mut multi, mut none) = (false, false, false, false);
    let names: Vec<_> = variable.value.split(',').map(str::trim).collect();
    for name in &names {
        match *name {
            "tracecontext" => trace_context = true,
            // Every proxy forwards `baggage` unchanged.
            "baggage" => {}
            "b3" => single = true,
            "b3multi" => multi = true,
            "none" => none = true,
            _ => {
                let supported = "use tracecontext, baggage, b3, b3multi or none";
                return Err(
                    variable.refused(format_args!("has `{name}`, which is not supported; {supported}"))
                );
            }
        }
    }
    if none && names.len() > 1 {
        return Err(variable.refused("has none, which must stand alone"));
    }
    let b3 = if single || multi { B3::Always { single, multi } } else { B3::Off };
    Ok(Propagators { trace_context, b3 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(list: &str) -> Result<Propagators, String> {
        let environment = Environment::new([("OTEL_PROPAGATORS".to_owned(), list.to_owned())]);
        read(&environment).map_err(|error| error.to_string())
    }

    #[test]
    fn unset_or_empty_means_both_formats() {
        assert_eq!(read(&Environment::default()).unwrap(), Propagators::DEFAULT);
        assert_eq!(read_from(" ").unwrap(), Propagators::DEFAULT);
    }

    #[test]
    fn the_list_is_what_is_read_and_written() {
        let always = |single, multi| B3::Always { single, multi };
        for (list, trace_context, b3) in [
            ("tracecontext,baggage", true, B3::Off),
            ("b3", false, always(true, false)),
            ("b3multi", false, always(false, true)),
            ("tracecontext, b3 ,b3multi,b3", true, always(true, true)),
            ("baggage", false, B3::Off),
            ("none", false, B3::Off),
        ] {
            assert_eq!(read_from(list).unwrap(), Propagators { trace_context, b3 }, "{list}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for list in ["jaeger", "xray", "tracecontext,ottrace", "B3", "none,b3", "tracecontext,"] {
            let error = read_from(list).unwrap_err();
            assert!(error.starts_with(&format!("OTEL_PROPAGATORS: `{list}` has ")), "{error}");
        }
    }
}
