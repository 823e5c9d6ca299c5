//! Resolution of names that are not in the snapshot.

use std::sync::{Arc, OnceLock};

use outrigger_core::Name;

/// How names are resolved.
#[derive(Debug, Clone)]
pub enum Resolution {
    /// Each requested name is subscribed to.
    OnDemand,
    /// All destinations are pushed under canonical names; short names are completed here.
    Wildcard {
        /// The namespace of this workload, set once its certificate is known: completes `cart`.
        namespace: Arc<OnceLock<Name>>,
        /// The cluster's domain (`cluster.local`): completes `cart.shop` and `cart.shop.svc`.
        cluster_domain: Name,
    },
}

impl Resolution {
    /// Returns the canonical names that a short name may resolve to.
    pub(super) fn completions(&self, name: &str) -> impl Iterator<Item = String> {
        let names = match self {
            Self::OnDemand => None,
            Self::Wildcard { namespace, cluster_domain } => name.rsplit_once(':').and_then(|(host, port)| {
                Some(match host.bytes().filter(|b| *b == b'.').count() {
                    0 => format!("{host}.{}.svc.{cluster_domain}:{port}", namespace.get()?),
                    1 => format!("{host}.svc.{cluster_domain}:{port}"),
                    _ => format!("{host}.{cluster_domain}:{port}"),
                })
            }),
        };
        names.into_iter()
    }
}
