//! Configuration of filters by route (`typed_per_filter_config` of route tables, virtual hosts, routes and weighted clusters).
//!
//! The most specific configuration of a filter replaces the others. This is resolved when a route is decoded.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_core::Name;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{route, type_url};

use super::{FilterConfig, HttpFilter};
use crate::field::{Unusable, unpack};

/// The overrides that apply to a request, by the names of filters.
#[derive(Debug, Clone, Default)]
pub struct FilterOverrides(Option<Arc<[(Name, Override)]>>);

#[derive(Debug, Clone)]
enum Override {
    Disabled,
    /// The filter's own configuration applies, even if the listener disables it.
    Enabled,
    Replaced(FilterConfig),
}

impl FilterOverrides {
    /// Decodes the overrides of a route or of what contains routes. `outer` has those that are less specific.
    ///
    /// Returns an error for a filter that this proxy does not have, unless its configuration is marked optional.
    pub fn decode(wire: HashMap<String, Any>, outer: &Self) -> Result<Self, Unusable> {
        if wire.is_empty() {
            return Ok(outer.clone());
        }
        let mut all: Vec<(Name, Override)> = outer.0.iter().flat_map(|outer| outer.iter().cloned()).collect();
        for (name, any) in wire {
            let within = |bad: Unusable| bad.within(format_args!("typed_per_filter_config[{name:?}]"));
            let Some(mut by) = decode_override(&any).map_err(within)? else { continue };
            if let Some(at) = all.iter().position(|(of, _)| **of == *name) {
                let (_, outer) = all.swap_remove(at);
                by = by.over(&outer);
            }
            all.push((name.into(), by));
        }
        Ok(Self(Some(all.into())))
    }

    /// Returns the configurations that replace those of listeners, by the names of filters.
    pub fn configs(&self) -> impl Iterator<Item = (&Name, &FilterConfig)> {
        let all = self.0.iter().flat_map(|all| all.iter());
        all.filter_map(|(name, by)| match by {
            Override::Replaced(config) => Some((name, config)),
            Override::Disabled | Override::Enabled => None,
        })
    }

    /// Returns the clusters that filters send questions to for a request.
    pub fn clusters(&self) -> impl Iterator<Item = &Name> {
        self.configs().flat_map(|(_, config)| config.clusters())
    }

    /// Returns the configuration of `filter` for a request, or `None` if the filter is disabled for it.
    ///
    /// An override with the type of another filter does not replace the filter's own configuration.
    pub fn resolve<'a>(&'a self, filter: &'a HttpFilter) -> Option<&'a FilterConfig> {
        let mut all = self.0.iter().flat_map(|all| all.iter());
        match all.find(|(name, _)| *name == filter.name) {
            Some((_, Override::Disabled)) => None,
            Some((_, Override::Replaced(config))) if config.same_filter(&filter.config) => Some(config),
            Some((_, Override::Enabled)) => Some(&filter.config),
            Some((_, Override::Replaced(_))) | None => Some(&filter.config).filter(|_| !filter.disabled),
        }
    }
}

impl Override {
    fn over(self, outer: &Self) -> Self {
        match (self, outer) {
            (Self::Replaced(inner), Self::Replaced(outer)) => Self::Replaced(inner.over(outer)),
            (inner, _) => inner,
        }
    }
}

/// Returns `None` for an optional configuration of an unknown filter.
fn decode_override(any: &Any) -> Result<Option<Override>, Unusable> {
    if any.type_url != type_url::FILTER_CONFIG {
        return replaced(any, false);
    }
    match unpack(any, type_url::FILTER_CONFIG)? {
        route::FilterConfig { disabled: true, .. } => Ok(Some(Override::Disabled)),
        route::FilterConfig { config: None, .. } => Ok(Some(Override::Enabled)),
        route::FilterConfig { config: Some(config), is_optional, disabled: false } => {
            replaced(&config, is_optional).map_err(|bad| bad.within("config"))
        }
    }
}

fn replaced(any: &Any, optional: bool) -> Result<Option<Override>, Unusable> {
    match FilterConfig::of_route(any)? {
        Some(config) => Ok(Some(Override::Replaced(config))),
        None if optional => Ok(None),
        None => Err(Unusable::new("", format_args!("{} is not supported", any.type_url))),
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::cors;
    use prost::Message;

    use super::*;

    fn packed(type_url: &str, message: &impl Message) -> Any {
        Any { type_url: type_url.into(), value: message.encode_to_vec() }
    }

    fn filter(disabled: bool) -> HttpFilter {
        HttpFilter { name: "cors".into(), config: FilterConfig::Cors(None), disabled }
    }

    fn overrides(any: Any, outer: &FilterOverrides) -> FilterOverrides {
        FilterOverrides::decode([("cors".to_owned(), any)].into(), outer).unwrap()
    }

    fn policy() -> Any {
        packed(type_url::CORS_POLICY, &cors::CorsPolicy::default())
    }

    fn wrapped(config: Option<Any>, disabled: bool) -> Any {
        packed(type_url::FILTER_CONFIG, &route::FilterConfig { config, disabled, is_optional: false })
    }

    #[test]
    fn the_most_specific_override_wins() {
        let none = FilterOverrides::default();
        let replaced = |of: &FilterOverrides| {
            let filter = filter(false);
            of.resolve(&filter).map(|config| matches!(config, FilterConfig::Cors(Some(_))))
        };
        let outer = overrides(policy(), &none);
        let off = overrides(wrapped(None, true), &outer);
        let on = overrides(wrapped(None, false), &off);
        let again = overrides(wrapped(Some(policy()), false), &off);
        assert_eq!(
            [&none, &outer, &off, &on, &again].map(replaced),
            [Some(false), Some(true), None, Some(false), Some(true)]
        );
    }

    #[test]
    fn a_disabled_filter_is_enabled_by_its_route() {
        let none = FilterOverrides::default();
        assert!(none.resolve(&filter(true)).is_none());
        for any in [policy(), wrapped(None, false), wrapped(Some(policy()), false)] {
            assert!(overrides(any, &none).resolve(&filter(true)).is_some());
        }
    }

    #[test]
    fn an_override_for_another_filter_or_of_another_type_changes_nothing() {
        let fault = packed(type_url::HTTP_FAULT, &outrigger_proto::xds::fault::HttpFault::default());
        let none = FilterOverrides::default();
        let other_type = overrides(fault.clone(), &none);
        let other_name = FilterOverrides::decode([("fault".to_owned(), fault)].into(), &none).unwrap();
        for of in [other_type, other_name] {
            assert!(matches!(of.resolve(&filter(false)), Some(FilterConfig::Cors(None))));
            assert!(of.resolve(&filter(true)).is_none());
        }
    }

    #[test]
    fn an_unknown_filter_is_refused_unless_it_is_optional() {
        let lua = packed("type.googleapis.com/lua", &());
        let decode = |any| FilterOverrides::decode([("lua".to_owned(), any)].into(), &Default::default());
        assert_eq!(decode(lua.clone()).unwrap_err().field, "typed_per_filter_config[\"lua\"]");
        let optional = route::FilterConfig { config: Some(lua), is_optional: true, disabled: false };
        assert!(decode(packed(type_url::FILTER_CONFIG, &optional)).is_ok());
    }
}
