//! Limits by domain and descriptor, in the format of Envoy's rate limit service.
//!
//! A descriptor has a limit if each of its entries is in the tree, from the root on. An entry with the value goes before one without.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_proto::xds::common_ratelimit::rate_limit_descriptor::Entry;
use outrigger_proto::xds::ratelimit_service::rate_limit_response::rate_limit::Unit as Wire;
use serde::Deserialize;

/// The limits of all domains.
#[derive(Debug, Default)]
pub(super) struct Limits(BTreeMap<String, Vec<Node>>);

/// A number of requests in a time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    pub(super) unit: Unit,
    /// 0 refuses all requests.
    pub(super) requests_per_unit: u32,
    /// Its name, in responses.
    #[serde(default)]
    pub(super) name: String,
}

/// A unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unit {
    Second,
    Minute,
    Hour,
    Day,
}

/// What the tree says of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) limit: &'a Limit,
    /// Whether it only counts.
    pub(super) shadow: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Domain {
    domain: String,
    #[serde(default)]
    descriptors: Vec<Node>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    key: String,
    #[serde(default)]
    value: String,
    rate_limit: Option<Limit>,
    #[serde(default)]
    shadow_mode: bool,
    #[serde(default)]
    descriptors: Vec<Self>,
}

impl Limits {
    /// Adds the limits of a domain. Returns an error for a domain that is there already, for two equal entries, and for what is not
    /// understood.
    pub(super) fn add(&mut self, text: &str) -> Result<(), String> {
        let Domain { domain, descriptors } =
            serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if domain.is_empty() {
            return Err("domain: must not be empty".into());
        }
        unique(&descriptors)?;
        match self.0.insert(domain.clone(), descriptors) {
            None => Ok(()),
            Some(_) => Err(format!("domain {domain:?} has limits already")),
        }
    }

    /// Returns the limit of a descriptor, or `None` if it has none.
    pub(super) fn find(&self, domain: &str, entries: &[Entry]) -> Option<Found<'_>> {
        let mut level = self.0.get(domain)?;
        let mut found = None;
        for entry in entries {
            let of_key = || level.iter().filter(|node| node.key == entry.key);
            let node = of_key().find(|node| node.value == entry.value && !node.value.is_empty());
            let node = node.or_else(|| of_key().find(|node| node.value.is_empty()))?;
            found = node.rate_limit.as_ref().map(|limit| Found { limit, shadow: node.shadow_mode });
            level = &node.descriptors;
        }
        found
    }
}

fn unique(level: &[Node]) -> Result<(), String> {
    for (at, node) in level.iter().enumerate() {
        if level[..at].iter().any(|other| other.key == node.key && other.value == node.value) {
            return Err(format!(
                "descriptors: key {:?} and value {:?} are there twice",
                node.key, node.value
            ));
        }
        unique(&node.descriptors)?;
    }
    Ok(())
}

impl Unit {
    /// Returns how long it is.
    pub(super) fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        })
    }

    /// Returns its form in responses.
    pub(super) fn wire(self) -> Wire {
        match self {
            Self::Second => Wire::Second,
            Self::Minute => Wire::Minute,
            Self::Hour => Wire::Hour,
            Self::Day => Wire::Day,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = "
domain: shop
descriptors:
- key: caller
  rate_limit: { unit: second, requests_per_unit: 100 }
  descriptors:
  - key: path
    value: /pay
    rate_limit: { unit: minute, requests_per_unit: 5, name: pay }
    shadow_mode: true
- key: caller
  value: guest
  rate_limit: { unit: hour, requests_per_unit: 0 }
- key: group
  descriptors:
  - key: user
    rate_limit: { unit: day, requests_per_unit: 7 }
";

    fn entries(of: &[(&str, &str)]) -> Vec<Entry> {
        of.iter().map(|(key, value)| Entry { key: (*key).into(), value: (*value).into() }).collect()
    }

    #[test]
    fn a_descriptor_has_the_limit_of_its_last_entry() {
        let mut limits = Limits::default();
        limits.add(SHOP).unwrap();
        let found = |of: &[(&str, &str)]| {
            limits.find("shop", &entries(of)).map(|found| (found.limit.requests_per_unit, found.shadow))
        };
        assert_eq!(found(&[("caller", "web")]), Some((100, false)));
        assert_eq!(found(&[("caller", "guest")]), Some((0, false)));
        assert_eq!(found(&[("caller", "web"), ("path", "/pay")]), Some((5, true)));
        assert_eq!(found(&[("caller", "web"), ("path", "/other")]), None);
        assert_eq!(found(&[("group", "a")]), None);
        assert_eq!(found(&[("group", "a"), ("user", "b")]), Some((7, false)));
        assert_eq!(limits.find("other", &entries(&[("caller", "web")])), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let refused = |text: &str| Limits::default().add(text).unwrap_err();
        assert!(refused("domain: shop\ndescriptors: [{ key: a, ratelimit: {} }]").contains("ratelimit"));
        assert!(refused("domain: ''").contains("domain"));
        let unit =
            "domain: shop\ndescriptors: [{ key: a, rate_limit: { unit: fortnight, requests_per_unit: 1 } }]";
        assert!(refused(unit).contains("fortnight"));
        assert!(refused("domain: shop\ndescriptors: [{ key: a }, { key: a }]").contains("twice"));
        let mut limits = Limits::default();
        limits.add("domain: shop").unwrap();
        assert!(limits.add("domain: shop").unwrap_err().contains("already"));
    }
}
