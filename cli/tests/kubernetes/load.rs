//! A constant load from a pod, which counts the lost requests.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::cluster::eventually;
use crate::namespace::Namespace;

/// How often a pod or a version answered, and when first and last (Unix time in ms).
#[derive(Debug, Deserialize)]
pub(crate) struct Answers {
    pub(crate) count: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    /// The last lost requests.
    pub(crate) why: Vec<String>,
    pub(crate) pods: BTreeMap<String, Answers>,
    pub(crate) versions: BTreeMap<String, Answers>,
}

/// A pod `load` on node 1 that sends GETs.
pub(crate) struct Load<'a>(&'a Namespace);

impl<'a> Load<'a> {
    /// Starts the load, and returns when requests are answered and none is lost any more: what is called may start at the same time.
    pub(crate) fn start(namespace: &'a Namespace, url: &str, per_second: u32) -> Self {
        namespace.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: load}}
spec:
  nodeSelector: {{kubernetes.io/hostname: node1}}
  containers: [{{name: app, image: \"test/pod:1\", args: [load, \"{url}\", \"{per_second}\"]}}]
"
        ));
        namespace.kubectl(&["wait", "--for=condition=Ready", "pod/load", "--timeout=60s"]);
        let load = Self(namespace);
        let mut lost = u64::MAX;
        eventually("answers", 60, || {
            let counts = load.read()?;
            let waiting = counts.sent - counts.answered - counts.lost;
            let settled = counts.answered > 20 && counts.lost == lost && waiting < 3;
            lost = counts.lost;
            if settled { Ok(()) } else { Err(format!("{counts:?}")) }
        });
        load
    }

    fn read(&self) -> Result<Counts, String> {
        let text = self.0.exec("load", &["/pod", "call", "http://127.0.0.1:9000/"])?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    pub(crate) fn counts(&self) -> Counts {
        self.read().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until requests for `web` are sent with this value of the header `x-route`.
    pub(crate) fn is_routed(&self, value: &str, seconds: u64) {
        eventually(value, seconds, || {
            let answer = self.0.exec("load", &["/pod", "get", "http://web/"])?;
            let header = format!("\"X-Route\":[\"{value}\"]");
            if answer.contains(&header) { Ok(()) } else { Err(answer) }
        });
    }

    /// Runs `change` and asserts that requests were answered meanwhile and none was lost.
    pub(crate) fn during(&self, what: &str, change: impl FnOnce()) {
        let before = self.counts();
        change();
        let sent = self.counts().sent;
        // A request that hangs is lost after ten seconds.
        let after = eventually("an outcome of every request", 20, || {
            let counts = self.counts();
            if counts.answered + counts.lost >= sent { Ok(counts) } else { Err(format!("{counts:?}")) }
        });
        let (answered, lost) = (after.answered - before.answered, after.lost - before.lost);
        println!("{what}: {answered} answered, {lost} lost");
        assert!(answered > 20, "{what}: only {answered} answered");
        assert_eq!(lost, 0, "{what}: {:#?}", after.why);
    }
}
