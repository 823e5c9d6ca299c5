//! Services and EndpointSlices that do not belong together, and cluster IPs that two Services claim.

use std::collections::BTreeMap;

use super::{Finding, ports_of, where_is};
use crate::model::diagnostic::{Code, Problem};
use crate::model::inventory::Inventory;
use crate::model::resource::{EndpointSlice, Kind, ResourceId};
use crate::model::service::ServiceKey;

/// Returns the problems of a slice: its Service does not exist, or has no port of that name.
pub(super) fn of_slice(inventory: &Inventory, slice: &EndpointSlice) -> Vec<Problem> {
    let key = &slice.service;
    let Some(service) = inventory.service(key) else {
        let message = format!("there is no Service {}/{}", key.namespace, key.name);
        let field = "metadata.labels.kubernetes.io/service-name";
        let problem = Problem::of(Code::UnknownService, field, message);
        return vec![match where_is(inventory, key) {
            Some(help) => problem.help(help),
            None => problem,
        }];
    };
    let unknown = |(name, _): &(outrigger_core::Name, u16)| {
        if service.ports.iter().any(|port| port.name == *name) {
            return None;
        }
        let message = match &**name {
            "" => format!("has no name, and Service {}/{} has no port without one", key.namespace, key.name),
            name => format!("Service {}/{} has no port named {name:?}", key.namespace, key.name),
        };
        let help = format!("the endpoints of a port are found by its name: {}", ports_of(service));
        Some(Problem::of(Code::UnknownSlicePort, "ports", message).help(help))
    };
    slice.ports.iter().filter_map(unknown).collect()
}

/// Returns the Services whose cluster IP another claims first.
pub(super) fn duplicate_ips(inventory: &Inventory) -> Vec<Finding> {
    let (mut claimed, mut findings) = (BTreeMap::new(), Vec::new());
    for service in inventory.services() {
        for ip in service.cluster_ips() {
            match claimed.get(ip) {
                None => drop(claimed.insert(*ip, &service.key)),
                Some(first) => findings.push(duplicate_ip(&service.key, first, &ip.to_string())),
            }
        }
    }
    findings
}

fn duplicate_ip(own: &ServiceKey, first: &ServiceKey, ip: &str) -> Finding {
    let message = format!(
        "{ip} is the cluster IP of Service {}/{} too, which gets its connections",
        first.namespace, first.name
    );
    Finding {
        resource: ResourceId {
            kind: Kind::Service,
            namespace: own.namespace.clone(),
            name: own.name.clone(),
        },
        problem: Problem::of(Code::DuplicateClusterIp, "spec.clusterIP", message),
    }
}
