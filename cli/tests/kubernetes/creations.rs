//! Pods that are created all the time: the API server must refuse none while the webhook changes. They are created with `dryRun=All`, which
//! calls the webhook and stores nothing.

use crate::cluster::on_the_node;
use crate::namespace::Namespace;

/// Creates pods in `$1`, six at a time, until the file `$2/stop` exists. Prints the number of responses with each status, and then how many
/// pods have a sidecar.
const SCRIPT: &str = r#"
kubectl proxy --port=25901 >/dev/null 2>&1 & proxy=$!
trap 'kill $proxy' EXIT
pods="http://127.0.0.1:25901/api/v1/namespaces/$1/pods?dryRun=All"
until curl -fso /dev/null "$pods"; do sleep 0.1; done
for request in {1..50}; do
    ((request == 1)) || echo next
    echo "url = \"$pods\""
    echo 'header = "content-type: application/json"'
    echo 'data = "{\"metadata\": {\"generateName\": \"x-\"}, \"spec\": {\"containers\": [{\"name\": \"app\", \"image\": \"test/pod:1\"}]}}"'
    echo 'write-out = "\nstatus %{http_code}\n"'
done >"$2/requests"
until [[ -e $2/stop ]]; do curl -sS -Z --parallel-max 6 -K "$2/requests"; done >"$2/responses" 2>/dev/null
grep '^status ' "$2/responses" | sort | uniq -c
grep -c '"name": "outrigger-proxy"' "$2/responses"
"#;

/// Runs `change` and asserts that pods were created meanwhile, each with a sidecar.
pub(crate) fn none_is_refused_during(namespace: &Namespace, change: impl FnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let script = ["timeout", "300", "bash", "-c", SCRIPT, "creations", namespace.name(), path];
    let output = std::thread::scope(|scope| {
        let creations = scope.spawn(|| on_the_node(&script));
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
        std::fs::write(folder.path().join("stop"), "").unwrap();
        let output = creations.join().unwrap().unwrap_or_else(|error| panic!("{error}"));
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        output
    });
    println!("pods meanwhile: {output}");
    let words: Vec<_> = output.split_whitespace().collect();
    let [created, "status", "201", injected] = words[..] else { panic!("a pod is refused: {output}") };
    assert_eq!(created, injected, "pods and pods with sidecars");
    assert!(created.parse::<u32>().unwrap() > 100, "{output}");
}
