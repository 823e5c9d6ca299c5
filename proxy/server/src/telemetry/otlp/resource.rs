//! The resource: the workload that spans, metrics and log records describe.

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::Attributes;
use opentelemetry_semantic_conventions::attribute as key;
use outrigger_core::identity::SpiffeId;

use super::environment::Environment;

/// What the environment and the command line say about the workload.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    /// OTEL_SERVICE_NAME.
    named: Option<String>,
    /// OTEL_RESOURCE_ATTRIBUTES.
    attributes: Vec<(String, String)>,
    service: Option<String>,
    instance: String,
}

impl Workload {
    /// `service` and `instance` name the workload if the environment does not.
    pub(super) fn read(environment: &Environment, service: Option<&str>, instance: &str) -> Self {
        let attributes = environment.get("OTEL_RESOURCE_ATTRIBUTES");
        Self {
            named: environment.get("OTEL_SERVICE_NAME").map(|variable| variable.value.to_owned()),
            attributes: attributes.map_or_else(Vec::new, |variable| attributes_of(variable.value)),
            service: service.map(str::to_owned),
            instance: instance.to_owned(),
        }
    }

    /// Returns the resource. The namespace is that of the certificate, if there is one. OTEL_RESOURCE_ATTRIBUTES takes
    /// precedence.
    pub(crate) fn resource(&self, identity: Option<&SpiffeId>) -> Resource {
        let mut attributes = vec![
            KeyValue::new(key::TELEMETRY_SDK_NAME, "outrigger"),
            KeyValue::new(key::TELEMETRY_SDK_LANGUAGE, "rust"),
            KeyValue::new(key::TELEMETRY_SDK_VERSION, env!("CARGO_PKG_VERSION")),
            KeyValue::new(key::SERVICE_INSTANCE_ID, self.instance.clone()),
        ];
        if let Some(identity) = identity {
            attributes.push(KeyValue::new(key::SERVICE_NAMESPACE, identity.namespace().to_owned()));
            attributes.push(KeyValue::new("outrigger.spiffe_id", identity.as_str().to_owned()));
        }
        attributes.retain(|own| self.attributes.iter().all(|(key, _)| key != own.key.as_str()));
        let configured = self.attributes.iter().filter(|(key, _)| key != key::SERVICE_NAME);
        attributes.extend(configured.map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
        attributes.push(KeyValue::new(key::SERVICE_NAME, self.service_name(identity)));
        Resource { attributes: Attributes::from(attributes).0, ..Resource::default() }
    }

    /// Returns OTEL_SERVICE_NAME, else service.name of OTEL_RESOURCE_ATTRIBUTES, else the workload's service, else the
    /// certificate's service account, else the instance.
    fn service_name(&self, identity: Option<&SpiffeId>) -> String {
        let configured =
            self.attributes.iter().find(|(key, _)| key == key::SERVICE_NAME).map(|(_, name)| name);
        let known = self.named.as_ref().or(configured).or(self.service.as_ref()).map(String::as_str);
        let account = || identity.map(SpiffeId::service_account);
        known.or_else(account).unwrap_or(&self.instance).to_owned()
    }
}

/// Returns the instrumentation scope of everything that a proxy exports.
pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "outrigger".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// Parses `key=value` pairs with percent-encoded values. A list with an error is discarded and logged (Resource SDK
/// specification, "Specifying resource information via an environment variable").
fn attributes_of(list: &str) -> Vec<(String, String)> {
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

/// Returns None if an escape is incomplete or the result is not UTF-8.
pub(super) fn percent_decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;

    use super::*;

    fn workload(environment: &[(&str, &str)], service: Option<&str>) -> Workload {
        let variables = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Workload::read(&Environment::new(variables), service, "cart-1")
    }

    /// Returns the attribute's value; it must be there once at most.
    fn attribute(environment: &[(&str, &str)], key: &str) -> Option<String> {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        let resource = workload(environment, Some("cart")).resource(Some(&identity));
        let mut found = resource.attributes.into_iter().filter(|attribute| attribute.key == key);
        let first = found.next()?;
        assert!(found.next().is_none(), "{key} twice");
        match first.value?.value? {
            Value::StringValue(value) => Some(value),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_workload_without_services_is_named_by_its_certificate_then_by_its_instance() {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/shopper").unwrap();
        assert_eq!(workload(&[], None).service_name(Some(&identity)), "shopper");
        assert_eq!(workload(&[], None).service_name(None), "cart-1");
    }

    #[test]
    fn the_resource_names_the_workload_and_the_environment_takes_precedence() {
        assert_eq!(attribute(&[], key::SERVICE_NAME).as_deref(), Some("cart"));
        assert_eq!(attribute(&[], key::SERVICE_NAMESPACE).as_deref(), Some("shop"));
        assert_eq!(attribute(&[], key::SERVICE_INSTANCE_ID).as_deref(), Some("cart-1"));
        let configured =
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=basket,team=a%20b,service.namespace=warehouse");
        assert_eq!(attribute(&[configured], key::SERVICE_NAME).as_deref(), Some("basket"));
        assert_eq!(attribute(&[configured], key::SERVICE_NAMESPACE).as_deref(), Some("warehouse"));
        assert_eq!(attribute(&[configured], "team").as_deref(), Some("a b"));
        let named = ("OTEL_SERVICE_NAME", "checkout");
        assert_eq!(attribute(&[configured, named], key::SERVICE_NAME).as_deref(), Some("checkout"));
        for list in ["team=a,oops", "team=a%+1"] {
            let broken = ("OTEL_RESOURCE_ATTRIBUTES", list);
            assert_eq!(attribute(&[broken], "team"), None, "a list with an error is discarded whole");
        }
    }
}
