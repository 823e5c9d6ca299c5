//! Tracing settings from the environment: the `OTEL_*` variables of OpenTelemetry's specification.
//!
//! Read once at start-up. An unsupported value is a start-up error that names the variable. The exporter itself reads headers
//! (`OTEL_EXPORTER_OTLP_HEADERS`) and compression; [`Tls`] reads certificates.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_semantic_conventions::attribute as key;
use outrigger_core::identity::SpiffeId;
use outrigger_core::percentage::Percentage;
use outrigger_core::trace::Sampling;

use super::tls::Tls;
use crate::error::Error;

/// Export timeout if none is set (OTLP exporter specification).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const INSECURE: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// Tracing settings of the flag and the environment.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Which traces are sampled.
    pub(crate) sampling: Sampling,
    /// Where spans are sent. If None, no spans are collected.
    pub(crate) export: Option<Export>,
}

/// Where spans are sent, and the resource that they describe.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    /// `http://host:port` or `https://host:port`.
    pub(crate) endpoint: String,
    /// The variable that contained the endpoint.
    pub(crate) variable: &'static str,
    /// Time limit for one batch, including retries.
    pub(crate) timeout: Duration,
    /// How the collector is verified; None for plaintext.
    pub(crate) tls: Option<Tls>,
    named: Option<String>,
    service: Option<String>,
    instance: String,
    attributes: Vec<(String, String)>,
}

impl Settings {
    /// Reads the environment through `variable`. `flag` is `--trace-sampling`, which takes precedence. `service` and `instance`
    /// name the workload if the environment does not.
    pub(crate) fn read(
        variable: impl Fn(&str) -> Option<String>,
        flag: Option<f64>,
        service: Option<&str>,
        instance: &str,
    ) -> Result<Self, Error> {
        // "An empty value is treated as unset" (Environment variable specification, "Parsing empty value").
        let variable =
            |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
        let sampler = sampler(&variable)?;
        let sampling = match flag {
            Some(ratio) => Sampling { ratio: percentage(ratio), ..Sampling::ALL },
            None => sampler.unwrap_or(Sampling::ALL),
        };
        let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let exporter = variable("OTEL_TRACES_EXPORTER");
        if disabled || exporter.as_deref() == Some("none") {
            return Ok(Self { sampling, export: None });
        }
        if let Some(exporter) = exporter.filter(|exporter| exporter != "otlp") {
            let problem = format!("`{exporter}` is not supported; use otlp or none");
            return Err(Error::Environment { variable: "OTEL_TRACES_EXPORTER", problem });
        }
        let Some((name, endpoint)) = first(&variable, ENDPOINTS) else {
            return Ok(Self { sampling, export: None });
        };
        let endpoint = url(name, &endpoint, &variable)?;
        let tls = endpoint
            .starts_with("https:")
            .then(|| Tls::read(&|names| first(&variable, names)))
            .transpose()?;
        let export = Export {
            endpoint,
            variable: name,
            timeout: timeout(&variable)?,
            tls,
            named: variable("OTEL_SERVICE_NAME"),
            service: service.map(str::to_owned),
            instance: instance.to_owned(),
            attributes: variable("OTEL_RESOURCE_ATTRIBUTES").map_or_else(Vec::new, |list| attributes(&list)),
        };
        protocol(&variable)?;
        Ok(Self { sampling, export: Some(export) })
    }
}

impl Export {
    /// Returns the resource of the spans. The namespace is that of the certificate, if there is one.
    /// OTEL_RESOURCE_ATTRIBUTES takes precedence.
    pub(crate) fn resource(&self, identity: Option<&SpiffeId>) -> Resource {
        let mut builder = Resource::builder_empty()
            .with_attribute(KeyValue::new("telemetry.sdk.name", "opentelemetry"))
            .with_attribute(KeyValue::new("telemetry.sdk.language", "rust"))
            .with_attribute(KeyValue::new(key::SERVICE_INSTANCE_ID, self.instance.clone()));
        if let Some(identity) = identity {
            builder = builder
                .with_attribute(KeyValue::new(key::SERVICE_NAMESPACE, identity.namespace().to_owned()))
                .with_attribute(KeyValue::new("outrigger.spiffe_id", identity.as_str().to_owned()));
        }
        let said = self.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        builder.with_attributes(said).with_service_name(self.service_name(identity)).build()
    }

    /// Returns OTEL_SERVICE_NAME, else service.name of OTEL_RESOURCE_ATTRIBUTES, else the workload's service, else the
    /// certificate's service account, else the instance.
    fn service_name(&self, identity: Option<&SpiffeId>) -> String {
        let said = self.attributes.iter().find(|(key, _)| key == key::SERVICE_NAME).map(|(_, name)| name);
        let known = self.named.as_ref().or(said).or(self.service.as_ref()).map(String::as_str);
        let account = || identity.map(SpiffeId::service_account);
        known.or_else(account).unwrap_or(&self.instance).to_owned()
    }
}

/// Returns the first of `names` that is set, with its value. The name for traces precedes the one for all signals.
fn first(
    variable: &impl Fn(&str) -> Option<String>,
    names: [&'static str; 2],
) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, variable(name)?)))
}

/// Returns the endpoint as a URL. Without a scheme, as is common for gRPC, it is https unless the variable for insecure is set
/// (OTLP exporter specification, "Configuration Options", Insecure).
fn url(
    name: &'static str,
    endpoint: &str,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<String, Error> {
    let endpoint = match endpoint.split_once("://") {
        None if first(variable, INSECURE).is_some_and(|(_, value)| value.eq_ignore_ascii_case("true")) => {
            format!("http://{endpoint}")
        }
        None => format!("https://{endpoint}"),
        Some(("http" | "https", _)) => endpoint.to_owned(),
        Some((scheme, _)) => {
            let problem = format!("`{endpoint}`: scheme {scheme} is not supported; use http or https");
            return Err(Error::Environment { variable: name, problem });
        }
    };
    match endpoint.parse::<http::Uri>() {
        Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => Ok(endpoint),
        _ => Err(Error::Environment { variable: name, problem: format!("`{endpoint}` is not a URL") }),
    }
}

fn timeout(variable: &impl Fn(&str) -> Option<String>) -> Result<Duration, Error> {
    let Some((name, value)) = first(variable, TIMEOUTS) else { return Ok(DEFAULT_TIMEOUT) };
    match value.parse::<u64>() {
        Ok(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
        _ => {
            let problem = format!("`{value}` is not a number of milliseconds");
            Err(Error::Environment { variable: name, problem })
        }
    }
}

fn protocol(variable: &impl Fn(&str) -> Option<String>) -> Result<(), Error> {
    match first(variable, PROTOCOLS) {
        Some((name, protocol)) if protocol != "grpc" => {
            let problem = format!("`{protocol}` is not supported; use grpc");
            Err(Error::Environment { variable: name, problem })
        }
        _ => Ok(()),
    }
}

/// Parses a standard sampler (Environment variable specification, "General SDK Configuration"). A sampler that is not
/// parent-based ignores the caller's decision and can leave traces incomplete.
fn sampler(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Sampling>, Error> {
    let Some(name) = variable("OTEL_TRACES_SAMPLER") else { return Ok(None) };
    let parent_based = name.starts_with("parentbased_");
    let ratio = match name.strip_prefix("parentbased_").unwrap_or(&name) {
        "always_on" => Percentage::ALL,
        "always_off" => Percentage::ZERO,
        "traceidratio" => sampled_ratio(variable)?,
        _ => {
            let problem = format!(
                "`{name}` is not supported; use always_on, always_off, traceidratio or parentbased_*"
            );
            return Err(Error::Environment { variable: "OTEL_TRACES_SAMPLER", problem });
        }
    };
    Ok(Some(Sampling { ratio, parent_based }))
}

fn sampled_ratio(variable: &impl Fn(&str) -> Option<String>) -> Result<Percentage, Error> {
    let Some(ratio) = variable("OTEL_TRACES_SAMPLER_ARG") else { return Ok(Percentage::ALL) };
    match ratio.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(percentage(ratio)),
        _ => {
            let problem = format!("`{ratio}` is not a ratio between 0 and 1");
            Err(Error::Environment { variable: "OTEL_TRACES_SAMPLER_ARG", problem })
        }
    }
}

/// `ratio` must be between 0 and 1.
fn percentage(ratio: f64) -> Percentage {
    Percentage::from_millionths((ratio * 1e6).round() as u32).unwrap_or(Percentage::ALL)
}

/// Parses `key=value,key=value` with percent-encoded values. A list with an error is discarded and logged (Resource SDK
/// specification, "Specifying resource information via an environment variable").
fn attributes(list: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        let key = key.trim();
        (!key.is_empty()).then_some(())?;
        Some((key.to_owned(), percent_decoded(value.trim())?))
    };
    list.split(',').map(pair).collect::<Option<Vec<_>>>().unwrap_or_else(|| {
        tracing::warn!(list, "OTEL_RESOURCE_ATTRIBUTES: ignored, because it is not a list of key=value");
        Vec::new()
    })
}

fn percent_decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;

    fn read(environment: &[(&str, &str)], flag: Option<f64>) -> Result<Settings, String> {
        let variable = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::read(variable, flag, Some("cart"), "cart-1").map_err(|error| error.to_string())
    }

    fn resource(environment: &[(&str, &str)], key: &'static str) -> Option<String> {
        let mut all = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")];
        all.extend(environment);
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        let resource = read(&all, None).unwrap().export.unwrap().resource(Some(&identity));
        resource.get(&Key::from_static_str(key)).map(|value| value.as_str().into_owned())
    }

    #[test]
    fn without_an_endpoint_nothing_is_exported() {
        let settings = read(&[], None).unwrap();
        assert!(settings.export.is_none());
        assert_eq!(settings.sampling, Sampling::ALL);
    }

    #[test]
    fn the_endpoint_of_traces_wins() {
        let both = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"), (ENDPOINTS[0], "http://b:4317")];
        let export = read(&both, None).unwrap().export.unwrap();
        assert_eq!((export.endpoint.as_str(), export.timeout), ("http://b:4317", DEFAULT_TIMEOUT));
    }

    #[test]
    fn disabled_means_no_export() {
        for (name, value) in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"), (name, value)];
            assert!(read(&environment, None).unwrap().export.is_none(), "{name}");
        }
    }

    #[test]
    fn samplers_follow_their_names() {
        let read =
            |name: &str| read(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", "0.1")], None);
        for (name, millionths) in [("always_on", 1_000_000), ("always_off", 0), ("traceidratio", 100_000)] {
            let ratio = Percentage::from_millionths(millionths).unwrap();
            assert_eq!(read(name).unwrap().sampling, Sampling { ratio, parent_based: false }, "{name}");
            let parent_based = format!("parentbased_{name}");
            assert_eq!(
                read(&parent_based).unwrap().sampling,
                Sampling { ratio, parent_based: true },
                "{name}"
            );
        }
    }

    #[test]
    fn the_flag_wins_over_the_sampler() {
        let sampling = read(&[("OTEL_TRACES_SAMPLER", "always_off")], Some(0.5)).unwrap().sampling;
        assert_eq!((sampling.ratio.millionths(), sampling.parent_based), (500_000, true));
    }

    #[test]
    fn an_endpoint_without_a_scheme_uses_tls_unless_insecure_is_set() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317");
        let export = read(&[endpoint], None).unwrap().export.unwrap();
        assert_eq!((export.endpoint.as_str(), export.tls.is_some()), ("https://c:4317", true));
        let export =
            read(&[endpoint, ("OTEL_EXPORTER_OTLP_INSECURE", "true")], None).unwrap().export.unwrap();
        assert_eq!((export.endpoint.as_str(), export.tls.is_some()), ("http://c:4317", false));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1");
        for (name, value) in [
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///run/collector"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ] {
            let error = read(&[endpoint, (name, value)], None).expect_err(name);
            assert!(error.starts_with(&format!("{name}: `{value}")), "{error}");
        }
        let ratio = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert!(read(&ratio, None).unwrap_err().starts_with("OTEL_TRACES_SAMPLER_ARG: `2`"));
    }

    #[test]
    fn a_workload_without_services_is_named_by_its_certificate_then_by_its_instance() {
        let variable = |name: &str| (name == ENDPOINTS[1]).then(|| "http://c:4317".to_owned());
        let export = Settings::read(variable, None, None, "shopper-1").unwrap().export.unwrap();
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/shopper").unwrap();
        assert_eq!(export.service_name(Some(&identity)), "shopper");
        assert_eq!(export.service_name(None), "shopper-1");
    }

    #[test]
    fn the_resource_names_the_workload_and_the_environment_wins() {
        assert_eq!(resource(&[], key::SERVICE_NAME).as_deref(), Some("cart"));
        assert_eq!(resource(&[], key::SERVICE_NAMESPACE).as_deref(), Some("shop"));
        assert_eq!(resource(&[], key::SERVICE_INSTANCE_ID).as_deref(), Some("cart-1"));
        let said = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=basket,team=a%20b");
        assert_eq!(resource(&[said], key::SERVICE_NAME).as_deref(), Some("basket"));
        assert_eq!(resource(&[said], "team").as_deref(), Some("a b"));
        let named = ("OTEL_SERVICE_NAME", "checkout");
        assert_eq!(resource(&[said, named], key::SERVICE_NAME).as_deref(), Some("checkout"));
        let broken = ("OTEL_RESOURCE_ATTRIBUTES", "team=a,oops");
        assert_eq!(resource(&[broken], "team"), None, "a list with an error is discarded whole");
    }
}
