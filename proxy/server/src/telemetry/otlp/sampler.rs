//! Which traces are sampled: `--trace-sampling`, `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.

use outrigger_core::percentage::Percentage;
use outrigger_core::trace::Sampling;

use super::environment::Environment;
use crate::error::Error;

/// Returns the sampling of the flag, else of the environment, else all traces whose callers did not decide otherwise.
pub(super) fn read(environment: &Environment, flag: Option<f64>) -> Result<Sampling, Error> {
    let sampler = sampler(environment)?;
    Ok(match flag {
        Some(ratio) => Sampling { ratio: percentage(ratio), ..Sampling::ALL },
        None => sampler.unwrap_or(Sampling::ALL),
    })
}

/// Parses a standard sampler (Environment variable specification, "General SDK Configuration"). A sampler that is not
/// parent-based ignores the caller's decision and can leave traces incomplete.
fn sampler(environment: &Environment) -> Result<Option<Sampling>, Error> {
    let Some(variable) = environment.get("OTEL_TRACES_SAMPLER") else { return Ok(None) };
    let name = variable.value;
    let parent_based = name.starts_with("parentbased_");
    let ratio = match name.strip_prefix("parentbased_").unwrap_or(name) {
        "always_on" => Percentage::ALL,
        "always_off" => Percentage::ZERO,
        "traceidratio" => sampled_ratio(environment)?,
        _ => {
            return Err(variable
                .refused("is not supported; use always_on, always_off, traceidratio or parentbased_*"));
        }
    };
    Ok(Some(Sampling { ratio, parent_based }))
}

fn sampled_ratio(environment: &Environment) -> Result<Percentage, Error> {
    let Some(variable) = environment.get("OTEL_TRACES_SAMPLER_ARG") else { return Ok(Percentage::ALL) };
    match variable.value.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(percentage(ratio)),
        _ => Err(variable.refused("is not a ratio between 0 and 1")),
    }
}

/// `ratio` must be between 0 and 1.
fn percentage(ratio: f64) -> Percentage {
    Percentage::from_millionths((ratio * 1e6).round() as u32).unwrap_or(Percentage::ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(environment: &[(&str, &str)], flag: Option<f64>) -> Result<Sampling, String> {
        let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        read(&Environment::new(variables), flag).map_err(|error| error.to_string())
    }

    #[test]
    fn samplers_follow_their_names() {
        let of = |name: &str| {
            sampling(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", "0.1")], None).unwrap()
        };
        for (name, millionths) in [("always_on", 1_000_000), ("always_off", 0), ("traceidratio", 100_000)] {
            let ratio = Percentage::from_millionths(millionths).unwrap();
            assert_eq!(of(name), Sampling { ratio, parent_based: false }, "{name}");
            let parent_based = format!("parentbased_{name}");
            assert_eq!(of(&parent_based), Sampling { ratio, parent_based: true }, "{name}");
        }
        assert_eq!(sampling(&[], None).unwrap(), Sampling::ALL);
    }

    #[test]
    fn the_flag_wins_over_the_sampler() {
        let sampling = sampling(&[("OTEL_TRACES_SAMPLER", "always_off")], Some(0.5)).unwrap();
        assert_eq!((sampling.ratio.millionths(), sampling.parent_based), (500_000, true));
    }

    #[test]
    fn other_samplers_and_ratios_are_refused_by_name() {
        for name in ["jaeger_remote", "parentbased_jaeger_remote", "xray"] {
            let error = sampling(&[("OTEL_TRACES_SAMPLER", name)], None).unwrap_err();
            assert!(error.starts_with(&format!("OTEL_TRACES_SAMPLER: `{name}` is not supported")), "{error}");
        }
        let ratio = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert!(sampling(&ratio, None).unwrap_err().starts_with("OTEL_TRACES_SAMPLER_ARG: `2`"));
    }
}
