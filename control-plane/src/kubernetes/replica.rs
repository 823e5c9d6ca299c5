//! One replica of the control plane among others: it takes part in the election, follows the CA, and writes while it leads.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::NAMESPACE;
use super::authority::{self, PART, trust_roots};
use super::events::{EventQueue, PodEvents};
use super::lease::{Election, Leadership};
use super::missing_sidecar;
use super::workloads::MissingSidecars;
use crate::ca::authority::{Authority, ServerName};
use crate::source::sync::SyncStatus;

/// The Service in front of the replicas.
const SERVICE: &str = "outrigger-control-plane";

/// The tasks that replicas share. Dropping it stops them; [`Replica::stop`] releases the Lease too.
pub(crate) struct Replica {
    client: Client,
    election: Election,
    leadership: Leadership,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("leads", &*self.leadership.borrow()).finish_non_exhaustive()
    }
}

impl Replica {
    /// Starts the tasks. `authority` gets the issuer of the cluster; `sync` says when.
    pub(crate) fn start(
        client: Client,
        authority: &Arc<Authority>,
        sync: &SyncStatus,
        events: EventQueue,
        missing_sidecars: (watch::Receiver<MissingSidecars>, PodEvents),
    ) -> Self {
        let name = replica_name();
        let (election, leadership) = Election::start(client.clone(), NAMESPACE, &name);
        let mut tasks = JoinSet::new();
        tasks.spawn(events.write(client.clone(), name, leadership.clone()));
        let (pods, pod_events) = missing_sidecars;
        tasks.spawn(missing_sidecar::report(pods, leadership.clone(), pod_events));
        sync.add(PART);
        tasks.spawn(authority::maintain(
            client.clone(),
            Arc::clone(authority),
            leadership.clone(),
            sync.clone(),
        ));
        tasks.spawn(trust_roots::maintain(client.clone(), Arc::clone(authority), leadership.clone()));
        Self { client, election, leadership, tasks }
    }

    /// Returns the client of the API server.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns whether this replica is the leader, and each change of that.
    pub(crate) fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Stops writing, and leaves the Lease to another replica.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
        self.election.release().await;
    }
}

/// Returns a name that no other replica has, and no other process of this pod: the pod's, and a random part.
fn replica_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{:016x}", host.trim(), RandomState::new().hash_one(()))
}

/// Returns the names by which pods call the control plane.
pub(crate) fn server_names(cluster_domain: &str) -> Vec<ServerName> {
    let service = format!("{SERVICE}.{NAMESPACE}");
    let names =
        [format!("{service}.svc"), format!("{service}.svc.{cluster_domain}"), service, SERVICE.into()];
    names.iter().filter_map(|name| ServerName::parse(name)).collect()
}
