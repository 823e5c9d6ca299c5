//! The policies of one kind that apply to a port of a workload, for the translation of each kind.

use outrigger_core::Name;
use outrigger_proto::xds::protobuf::Any;

use crate::model::mesh::Mesh;
use crate::model::policy::{Meaning, Place, Policy, ROOT_NAMESPACE};
use crate::model::registration::{WorkloadEntry, WorkloadPort};
use crate::model::route::Route;

/// The configuration of filters, by their names, in the order in which they are applied.
pub(super) type Configs = Vec<(&'static str, Any)>;

/// The policies of one kind that apply to a port.
#[derive(Debug)]
pub(super) struct Applied<'a, S> {
    /// For every request and connection, each with the width of its place: those of the mesh, then those of the namespace, the oldest first.
    whole: Vec<(u8, &'a Policy<S>)>,
    /// Those of the workload's namespace: a route may be a target of any.
    own: &'a [Policy<S>],
}

impl<'a, S: Meaning> Applied<'a, S> {
    /// Finds the policies of the workload's ports `ports`, which share a port of the application. None are those of undeclared ports.
    pub(super) fn of(mesh: &'a Mesh, workload: &WorkloadEntry, ports: &[&WorkloadPort]) -> Self {
        let (namespace, root) = (Name::from(workload.key.identity.namespace()), Name::from(ROOT_NAMESPACE));
        let of_mesh = if namespace == root { &[] } else { mesh.policies(&root) }.iter();
        let of_mesh = of_mesh.filter(|policy| policy.places.contains(&Place::Namespace));
        let own = mesh.policies(&namespace);
        let applies = |policy: &'a Policy<S>| {
            let places = policy.places.iter().filter(|place| place.covers(workload, ports));
            Some((places.map(Place::width).min()?, policy))
        };
        let of_mesh = of_mesh.map(|policy| (u8::MAX, policy));
        Self { whole: of_mesh.chain(own.iter().filter_map(applies)).collect(), own }
    }

    /// Returns those for every request and connection.
    pub(super) fn whole(&self) -> Vec<&'a Policy<S>> {
        self.whole.iter().map(|(_, policy)| *policy).collect()
    }

    /// Returns the one for every request and connection, of a kind that is not merged: that of the narrowest place, of equal ones the oldest.
    pub(super) fn narrowest(&self) -> Option<&'a Policy<S>> {
        self.whole.iter().min_by_key(|(width, _)| *width).map(|(_, policy)| *policy)
    }

    /// Returns those that have the route as a target, the oldest first.
    pub(super) fn at_route(&self, route: &Route) -> impl Iterator<Item = &'a Policy<S>> {
        self.own.iter().filter(|policy| policy.places.iter().any(|place| place.has_route(&route.id)))
    }

    /// Returns the one that has the route as a target, of a kind that is not merged: one of a rule before one of the whole route.
    pub(super) fn narrowest_at_route(&self, route: &Route) -> Option<&'a Policy<S>> {
        let width = |policy: &&Policy<S>| {
            policy.places.iter().filter(|place| place.has_route(&route.id)).map(Place::width).min()
        };
        self.at_route(route).min_by_key(width)
    }

    /// Returns true if the route is a target.
    pub(super) fn has(&self, route: &Route) -> bool {
        self.at_route(route).next().is_some()
    }
}
