//! The status of resources, written back to the API server by the replica that holds the Lease.
//!
//! [`route`] computes the status of a route or policy and [`mesh`] that of an XMesh; [`writer`] decides which are written, and when.
//! [`last_good`] keeps what refused routes fall back to.

mod mesh;
pub(crate) mod last_good;
mod writer;
mod reports;
mod rejections;
pub(crate) mod route;
mod condition;

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;

use self::route::RouteObjects;
use self::writer::RouteStatusWriter;
use crate::source::assembler::View;
use crate::xds::server::Server;

/// The name of this controller in the status of resources, and in `spec.controllerName` of XMesh.
const CONTROLLER_NAME: &str = "outrigger.dev/controller";
/// The field manager of what this controller writes.
const FIELD_MANAGER: &str = "outrigger";

/// What the status of resources is computed from.
#[derive(Clone)]
pub(crate) struct StatusInputs {
    pub(crate) routes: watch::Receiver<RouteObjects>,
    pub(crate) view: watch::Receiver<View>,
    /// It knows what proxies reject.
    pub(crate) xds: Server,
    pub(crate) cluster_domain: Arc<str>,
}

/// Writes the status of routes and meshes while `leading` is true. Runs until a channel is closed.
pub(crate) async fn write(client: Client, inputs: StatusInputs, leading: watch::Receiver<bool>) {
    let (publish, rejected) = watch::channel(BTreeMap::new());
    let reports = reports::exchange(client.clone(), inputs.clone(), leading.clone(), publish);
    let meshes = mesh::write_all(client.clone(), leading.clone());
    let last_good = last_good::maintain(client.clone(), inputs.routes.clone(), leading.clone());
    let routes = RouteStatusWriter::new(client, inputs, rejected, leading).run();
    tokio::join!(routes, reports, meshes, last_good);
}
