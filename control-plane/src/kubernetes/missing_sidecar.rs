//! Reports the pods that run without the sidecar that they are to have, while this replica leads, for as long as it is polled.

use std::sync::Arc;

use tokio::sync::watch;

use super::events::PodEvents;
use super::lease::Leadership;
use super::workloads::MissingSidecars;

/// Reports each pod once. A new leader reports all of them: its predecessor may not have.
pub(super) async fn report(
    mut pods: watch::Receiver<MissingSidecars>,
    mut leadership: Leadership,
    events: PodEvents,
) {
    while leadership.wait_for(|leads| *leads).await.is_ok() {
        let mut reported = MissingSidecars::default();
        pods.mark_changed();
        loop {
            tokio::select! {
                ended = async { leadership.wait_for(|leads| !*leads).await.is_err() } => {
                    if ended { return }
                    break;
                }
                changed = pods.changed() => if changed.is_err() { return },
            }
            let now = Arc::clone(&pods.borrow_and_update());
            for (pod, uid) in now.iter().filter(|(pod, uid)| reported.get(*pod) != Some(*uid)) {
                events.without_sidecar(&pod.namespace, &pod.name, uid).await;
            }
            reported = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outrigger_core::Name;
    use tokio::time::sleep;

    use super::*;
    use crate::kubernetes::events;
    use crate::kubernetes::pod_name::PodKey;

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_reported_once_by_each_leader() {
        let (lead, leadership) = watch::channel(false);
        let pods = |names: &[&str]| -> MissingSidecars {
            let pod = |name: &&str| {
                let key = PodKey { namespace: "shop".into(), name: (*name).into() };
                (key, Name::from(*name))
            };
            Arc::new(names.iter().map(pod).collect())
        };
        // More than the queue has room for.
        let many: Vec<_> = (10..30).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let (set, observed) = watch::channel(pods(&many));
        let (_send, events, mut queue) = events::channel();
        let reporter = tokio::spawn(report(observed, leadership, events));
        let mut reported = async || {
            let mut names = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    name = queue.next_name() => names.push(name.unwrap()),
                    () = sleep(Duration::from_secs(1)) => return names,
                }
            }
        };
        assert!(reported().await.is_empty(), "another replica leads");
        lead.send_replace(true);
        assert_eq!(reported().await, many);
        set.send_replace(pods(&["10", "new"]));
        assert_eq!(reported().await, ["new"]);
        lead.send_replace(false);
        assert!(reported().await.is_empty());
        lead.send_replace(true);
        assert_eq!(reported().await, ["10", "new"]);
        drop(lead);
        reporter.await.unwrap();
    }
}
