//! What is measured and not asserted: how fast a change of pods reaches the callers, and how much memory a sidecar has.

use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::load::Load;
use crate::manifests::{deployment, server};
use crate::namespace::Namespace;

#[test]
fn times_and_memory_are_printed() {
    let namespace = Namespace::meshed("measure", "strict");
    namespace.apply(&deployment("web", 1, &server("")));
    let load = Load::start(&namespace, "http://web/", 100);
    namespace.ready("deploy/web");
    let lost = load.counts().lost;

    let scaled = now();
    namespace.kubectl(&["scale", "deploy/web", "--replicas=3"]);
    namespace.ready("deploy/web");
    sleep(Duration::from_secs(3));
    let counts = load.counts();
    let first: Vec<_> =
        counts.pods.values().filter(|pod| pod.first > scaled).map(|pod| pod.first - scaled).collect();
    println!("ms from `kubectl scale` to the first answer of a new pod: {first:?}");
    assert_eq!(first.len(), 2, "{counts:?}");

    let doomed = namespace.pods("app=web")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let deleted = now();
    namespace.kubectl(&["delete", "pod", &doomed, "--wait=false"]);
    sleep(Duration::from_secs(8));
    let counts = load.counts();
    println!(
        "ms from `kubectl delete pod` to its last answer: {}",
        counts.pods[&doomed].last.saturating_sub(deleted)
    );
    assert_eq!(counts.lost, lost, "{:#?}", counts.why);

    let pods = namespace.pods("");
    let is_here = |name: &str| pods.iter().any(|pod| pod["metadata"]["name"] == *name);
    for (pod, [private, pss, rss]) in sidecars().into_iter().filter(|(pod, _)| is_here(pod)) {
        println!("sidecar of {pod}: private {private}, PSS {pss}, RSS {rss} KiB");
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Returns the pod of each sidecar on this machine, and its memory: private, proportional, resident, in KiB.
fn sidecars() -> Vec<(String, [u64; 3])> {
    let mut all = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| std::fs::read_to_string(process.path().join(file)).unwrap_or_default();
        if read("comm").trim() != "outrigger-proxy" {
            continue;
        }
        let environment = read("environ");
        let Some(pod) =
            environment.split('\0').find_map(|line| line.strip_prefix("OUTRIGGER_PROXY_INSTANCE="))
        else {
            continue;
        };
        let memory = read("smaps_rollup");
        let of = |names: &[&str]| {
            let lines = memory.lines().filter_map(|line| line.split_once(':'));
            let of_names = lines.filter(|(name, _)| names.contains(name));
            of_names
                .filter_map(|(_, value)| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
                .sum()
        };
        all.push((pod.to_owned(), [of(&["Private_Clean", "Private_Dirty"]), of(&["Pss"]), of(&["Rss"])]));
    }
    all
}
