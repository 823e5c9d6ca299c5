//! Endpoints that are the addresses of a name in DNS (clusters of type `STRICT_DNS` and `LOGICAL_DNS`).
//!
//! The data path resolves the name when it uses the cluster, one lookup at a time for the whole process, and stores the addresses here for as
//! long as the answer is valid. Known addresses outlive it while DNS does not answer, or fails. That the name does not exist is an answer: then there are
//! none (RFC 8767 section 4).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_core::Name;
use outrigger_policy::field::{Unusable, required};
use outrigger_proto::xds::cluster::cluster::DnsLookupFamily;
use outrigger_proto::xds::{core, endpoint as wire_endpoint};
use tokio::sync::watch;
use tokio::time::Instant;

use super::EndpointsHandle;
use crate::endpoint::{Assignment, EndpointSettings};

/// How long no other lookup follows one that failed (RFC 9520 section 3.2: at least a second).
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How long after its beginning a lookup is waited for if addresses are known.
const REFRESHED_WITHIN: Duration = Duration::from_millis(100);

/// Why there are no endpoints if the answer has no address.
const NO_ADDRESS: &str = "it has no address in DNS";

/// The endpoints of a name.
#[derive(Debug)]
pub struct DnsEndpoints {
    host: Name,
    family: DnsLookupFamily,
    /// One endpoint, which stands for each address.
    template: Assignment,
    settings: EndpointSettings,
    endpoints: EndpointsHandle,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those of the last answer. Empty before the first one.
    addresses: Vec<IpAddr>,
    /// Until when no lookup is made. `None` before the first one.
    valid_until: Option<Instant>,
    /// Why the last lookup found no address, if it did not.
    failure: Option<Arc<str>>,
    /// The lookup that is being made.
    current: Option<(Instant, watch::Receiver<Outcome>)>,
}

/// `None` until the lookup has ended.
type Outcome = Option<Result<(), Arc<str>>>;

/// What DNS says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The addresses of the name. Empty if it does not exist, or has none.
    pub addresses: Vec<IpAddr>,
    /// When the name must be resolved again.
    pub valid_until: Instant,
}

/// The addresses of a name, for a request.
#[derive(Debug)]
pub enum Resolution {
    /// The endpoints can be used as they are.
    Known,
    /// A lookup is being made.
    Awaited(Awaited),
    /// The last lookup found no address a moment ago, for this reason, and there are no endpoints.
    Failed(Arc<str>),
}

/// A lookup that is being made.
#[derive(Debug)]
pub struct Awaited {
    /// When the known endpoints are to be used without its answer. `None` if there are none.
    pub until: Option<Instant>,
    outcome: watch::Receiver<Outcome>,
}

/// A lookup to make. Dropped without an answer, it has failed.
#[derive(Debug)]
pub struct Lookup {
    of: Arc<DnsEndpoints>,
    outcome: watch::Sender<Outcome>,
}

impl DnsEndpoints {
    /// Decodes the only endpoint of a cluster, whose address is a name. What `before` knows of the same name stays in use.
    pub(super) fn decode(
        wire: Option<wire_endpoint::ClusterLoadAssignment>,
        family: i32,
        settings: &EndpointSettings,
        before: Option<&Self>,
    ) -> Result<Self, Unusable> {
        let mut wire = required("load_assignment", wire)?;
        let host = take_host(&mut wire).ok_or_else(|| {
            Unusable::new(
                "load_assignment",
                "must have one endpoint with a socket address in a cluster of this type",
            )
        })?;
        if host.is_empty() {
            return Err(Unusable::new("load_assignment", "has an endpoint without a name"));
        }
        let family = DnsLookupFamily::try_from(family)
            .map_err(|_| Unusable::new("dns_lookup_family", "is unknown"))?;
        let template = Assignment::decode(wire).map_err(|bad| bad.within("load_assignment"))?;
        let (settings, endpoints) = (settings.clone(), EndpointsHandle::default());
        let state = Mutex::default();
        let new = Self { host: host.into(), family, template, settings, endpoints, state };
        if let Some(before) = before.filter(|before| before.host == new.host) {
            let State { addresses, valid_until, failure, current: _ } = &*before.state();
            *new.state() = State {
                addresses: addresses.clone(),
                valid_until: *valid_until,
                failure: failure.clone(),
                current: None,
            };
            new.apply(addresses);
        }
        Ok(new)
    }

    /// Returns the name to resolve.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the endpoints. Unlike those of other clusters, they belong to one version of the cluster.
    pub(super) fn endpoints(&self) -> &EndpointsHandle {
        &self.endpoints
    }

    /// Prepares the endpoints for use. A lookup that is returned must be made; it ends without the caller too.
    ///
    /// If endpoints are known, the first lookup after the end of their validity is waited for, but not those that follow a failure.
    pub fn resolve(self: &Arc<Self>) -> (Resolution, Option<Lookup>) {
        let mut state = self.state();
        let (now, mut lookup) = (Instant::now(), None);
        let is_known = !self.endpoints.load().list.is_empty();
        if state.current.is_none() && state.valid_until.is_some_and(|until| now < until) {
            let failure = state.failure.as_ref().filter(|_| !is_known);
            return (failure.map_or(Resolution::Known, |why| Resolution::Failed(Arc::clone(why))), None);
        }
        let (began, outcome) = state.current.get_or_insert_with(|| {
            let (outcome, awaited) = watch::channel(None);
            lookup = Some(Lookup { of: Arc::clone(self), outcome });
            (now, awaited)
        });
        let (until, outcome) = (is_known.then_some(*began + REFRESHED_WITHIN), outcome.clone());
        let resolution = match until {
            Some(until) if state.failure.is_some() || until <= now => Resolution::Known,
            until => Resolution::Awaited(Awaited { until, outcome }),
        };
        (resolution, lookup)
    }

    /// Replaces the endpoints by those at `addresses`, if they differ. The order of addresses does not matter.
    fn apply(&self, addresses: &[IpAddr]) {
        let addresses = of_family(self.family, addresses);
        let version = self.endpoints.load().version + 1;
        let at = |port| addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        self.endpoints.update(&self.template.copies(at), &self.settings, || version);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Awaited {
    /// Waits until the lookup has ended. Returns why it found no address if it did not.
    pub async fn end(mut self) -> Result<(), Arc<str>> {
        match self.outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(ABANDONED.into()),
        }
    }
}

/// Why there is no answer of a lookup that was dropped.
const ABANDONED: &str = "the lookup was given up";

impl Lookup {
    /// Returns the name to resolve.
    pub fn host(&self) -> &str {
        &self.of.host
    }

    /// Ends the lookup. If it failed, the known addresses stay in use. Returns the outcome if the one before found an address and this one did
    /// not, for this reason, or the other way round.
    pub fn end(self, answer: Result<Answer, String>) -> Option<Result<(), Arc<str>>> {
        self.finish(answer)
    }

    fn finish(&self, answer: Result<Answer, String>) -> Option<Result<(), Arc<str>>> {
        let mut state = self.of.state();
        state.current = None;
        let failed_before = state.failure.is_some();
        let outcome = match answer {
            Ok(Answer { addresses, valid_until }) => {
                self.of.apply(&addresses);
                state.addresses = addresses;
                state.valid_until = Some(valid_until);
                if state.addresses.is_empty() { Err(Arc::from(NO_ADDRESS)) } else { Ok(()) }
            }
            Err(why) => {
                state.valid_until = Some(Instant::now() + AFTER_FAILURE);
                Err(Arc::from(why))
            }
        };
        state.failure = outcome.clone().err();
        let changed = failed_before != outcome.is_err();
        drop(state);
        self.outcome.send_replace(Some(outcome.clone()));
        changed.then_some(outcome)
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if self.outcome.borrow().is_none() {
            self.finish(Err(ABANDONED.into()));
        }
    }
}

/// Two values are equal if they are the same one.
impl PartialEq for DnsEndpoints {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for DnsEndpoints {}

/// Takes the name of the only endpoint, and puts an address in its place.
fn take_host(wire: &mut wire_endpoint::ClusterLoadAssignment) -> Option<String> {
    use core::address::Address;
    use wire_endpoint::lb_endpoint::HostIdentifier;
    let [locality] = &mut wire.endpoints[..] else { return None };
    let [endpoint] = &mut locality.lb_endpoints[..] else { return None };
    let Some(HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier else { return None };
    let Some(Address::SocketAddress(socket)) = &mut endpoint.address.as_mut()?.address else { return None };
    Some(std::mem::replace(&mut socket.address, "0.0.0.0".into()))
}

/// Returns the addresses that are used, in order (`Cluster.DnsLookupFamily`).
fn of_family(family: DnsLookupFamily, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
    v4.sort_unstable();
    v6.sort_unstable();
    match family {
        DnsLookupFamily::V4Only => v4,
        DnsLookupFamily::V6Only => v6,
        DnsLookupFamily::V4Preferred if v4.is_empty() => v6,
        DnsLookupFamily::V4Preferred => v4,
        DnsLookupFamily::Auto if v6.is_empty() => v4,
        DnsLookupFamily::Auto => v6,
        DnsLookupFamily::All => [v4, v6].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_chooses_the_addresses() {
        let all: [IpAddr; 3] = ["fd00::1", "10.0.0.2", "10.0.0.1"].map(|ip| ip.parse().unwrap());
        let text = |family, of: &[IpAddr]| {
            of_family(family, of).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        for (family, expected, of_v4, of_v6) in [
            (DnsLookupFamily::V4Only, "10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", ""),
            (DnsLookupFamily::V6Only, "fd00::1", "", "fd00::1"),
            (DnsLookupFamily::V4Preferred, "10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", "fd00::1"),
            (DnsLookupFamily::Auto, "fd00::1", "10.0.0.1 10.0.0.2", "fd00::1"),
            (DnsLookupFamily::All, "10.0.0.1 10.0.0.2 fd00::1", "10.0.0.1 10.0.0.2", "fd00::1"),
        ] {
            assert_eq!(text(family, &all), expected, "{family:?}");
            assert_eq!((&*text(family, &all[1..]), &*text(family, &all[..1])), (of_v4, of_v6), "{family:?}");
        }
    }
}
