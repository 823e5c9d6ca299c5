//! What of the accepted resources is ready to be used, and what keeps its last version until it is.

use outrigger_core::Name;
use outrigger_proto::xds::type_url::{CLUSTER, CLUSTER_LOAD_ASSIGNMENT, LISTENER, ROUTE_CONFIGURATION};

use super::{Builder, INVALID_BACKEND, Warming};
use crate::cluster::Discovery;
use crate::handler::Handler;
use crate::http_manager::RouteSource;
use crate::listener;
use crate::snapshot::Snapshot;

/// A snapshot in the making: in the order in which the parts need each other.
pub(super) struct Warm<'a> {
    pub(super) builder: &'a Builder,
    pub(super) give_up: &'a dyn Fn(&Warming) -> bool,
    pub(super) warming: Vec<Warming>,
    pub(super) next: Snapshot,
}

impl Warm<'_> {
    /// A cluster is ready when its endpoints have come, if only to say that there are none.
    pub(super) fn clusters(&mut self) {
        for (name, leaf) in &self.builder.clusters {
            let (cluster, _) = &leaf.value;
            let needs = match &cluster.discovery {
                Discovery::Eds(eds) if cluster.endpoints.load().version == 0 => {
                    vec![(CLUSTER_LOAD_ASSIGNMENT, eds.clone())]
                }
                _ => vec![],
            };
            if self.is_ready(CLUSTER, name, needs) {
                self.next.clusters.insert(name.clone(), cluster.clone());
            } else if let Some(last) = self.builder.current.clusters.get(name) {
                self.next.clusters.insert(name.clone(), last.clone());
            }
        }
    }

    /// A table is ready when its clusters are.
    pub(super) fn routes(&mut self) {
        for (name, leaf) in &self.builder.routes {
            let needs = self.missing(leaf.value.clusters());
            if self.is_ready(ROUTE_CONFIGURATION, name, needs) {
                self.next.routes.insert(name.clone(), leaf.value.clone());
            } else if let Some(last) = self.builder.current.routes.get(name) {
                self.next.routes.insert(name.clone(), last.clone());
            }
        }
    }

    /// A listener is ready when its tables and clusters are.
    pub(super) fn listeners(&mut self) {
        for own in &self.builder.own {
            self.next.listeners.insert(own.name.clone(), own.clone());
        }
        for (name, leaf) in &self.builder.listeners {
            let needs: Vec<_> =
                leaf.value.handlers().into_iter().flat_map(|handler| self.needs(handler)).collect();
            let is_ready = self.is_ready(LISTENER, name, needs);
            let last = &self.builder.current;
            match &leaf.value {
                listener::Compiled::Bound(listener) => {
                    let chosen = if is_ready { Some(listener) } else { last.listeners.get(name) };
                    if let Some(listener) = chosen.cloned() {
                        self.next.listeners.entry(name.clone()).or_insert(listener);
                    }
                }
                listener::Compiled::Destination(destination) => {
                    let chosen = if is_ready { Some(destination) } else { last.destinations.get(name) };
                    let Some(destination) = chosen.cloned() else { continue };
                    for alias in
                        leaf.aliases.iter().filter(|alias| !self.builder.listeners.contains_key(*alias))
                    {
                        self.next.destinations.insert(alias.clone(), destination.clone());
                    }
                    self.next.destinations.insert(name.clone(), destination);
                }
            }
        }
    }

    fn needs(&self, handler: &Handler) -> Vec<(&'static str, Name)> {
        let mut needs = self.missing(handler.tcp_clusters());
        match handler.routes() {
            Some(RouteSource::Named(name)) if !self.next.routes.contains_key(name) => {
                needs.push((ROUTE_CONFIGURATION, name.clone()));
            }
            Some(RouteSource::Inline(table)) => needs.extend(self.missing(table.clusters())),
            Some(RouteSource::Named(_)) | None => {}
        }
        needs
    }

    fn missing<'a>(&self, clusters: impl Iterator<Item = &'a Name>) -> Vec<(&'static str, Name)> {
        let missing = |name: &&Name| !self.next.clusters.contains_key(*name) && &***name != INVALID_BACKEND;
        clusters.filter(missing).map(|name| (CLUSTER, name.clone())).collect()
    }

    fn is_ready(
        &mut self,
        type_url: &'static str,
        name: &Name,
        mut needs: Vec<(&'static str, Name)>,
    ) -> bool {
        if needs.is_empty() {
            return true;
        }
        needs.sort();
        needs.dedup();
        let warming = Warming { type_url, name: name.clone(), needs };
        if (self.give_up)(&warming) {
            return true;
        }
        self.warming.push(warming);
        false
    }
}
