//! State of filters that outlives a configuration: a new version of a resource takes it over from the previous one.
//!
//! Called when a resource has been decoded. What has the same place takes over: the same filter of the same chain, or of the same
//! route of the same virtual host. What has no place in the new version is dropped with the previous one.

use std::collections::HashMap;
use std::fmt::Display;

use outrigger_policy::filter::FilterConfig;
use outrigger_policy::filter::overrides::FilterOverrides;

use crate::handler::Handler;
use crate::http_manager::RouteSource;
use crate::route::{RouteAction, RouteTable};

/// The configurations of filters in a resource, by their places.
#[derive(Default)]
pub(crate) struct Places<'a>(HashMap<String, &'a FilterConfig>);

impl<'a> Places<'a> {
    /// Adds those of a handler. `chain` is the name of its filter chain.
    pub(crate) fn add_handler(&mut self, chain: &str, handler: &'a Handler) {
        for filter in handler.filters() {
            self.0.insert(format!("{chain}/{}", filter.name), &filter.config);
        }
        if let Some(RouteSource::Inline(table)) = handler.routes() {
            self.add_table(chain, table);
        }
    }

    /// Adds those of a route table. `chain` is the name of the filter chain that has it, if one has.
    pub(crate) fn add_table(&mut self, chain: &str, table: &'a RouteTable) {
        for host in &table.hosts {
            for (at, route) in host.routes.iter().enumerate() {
                // A route without a name is known by its number.
                let number = at.to_string();
                let name = if route.name.is_empty() { number.as_str() } else { &route.name };
                let place = format!("{chain}/{}/{name}", host.name);
                self.add(&place, &route.filters);
                let RouteAction::Forward(forward) = &route.action else { continue };
                for share in forward.clusters.shares() {
                    if let Some(filters) = &share.filters {
                        self.add(&format!("{place}/{}", share.cluster), filters);
                    }
                }
            }
        }
    }

    fn add(&mut self, place: &dyn Display, overrides: &'a FilterOverrides) {
        for (name, config) in overrides.configs() {
            self.0.insert(format!("{place}/{name}"), config);
        }
    }

    /// Takes over the state of what is at the same places in `before`.
    pub(crate) fn adopt(&self, before: &Places<'_>) {
        for (place, config) in &self.0 {
            if let Some(before) = before.0.get(place) {
                config.adopt(before);
            }
        }
    }
}
