use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codegen::Service;

use super::*;

/// What the API server answers to the list of a Secret.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Keys,
    Status(u16),
    Silence,
}

/// An API server, with its answers by the name of the Secret, and the number of lists that it was asked for. It answers no watch.
#[derive(Debug, Clone, Default)]
struct ApiServer(Arc<(Mutex<BTreeMap<String, Answer>>, AtomicUsize)>);

impl ApiServer {
    fn set(&self, name: &str, answer: Answer) {
        lock(&self.0.0).insert(name.into(), answer);
    }

    fn lists(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }

    fn respond(&self, query: &str) -> Option<Response<Body>> {
        if query.contains("watch=") {
            return None;
        }
        self.0.1.fetch_add(1, Ordering::Relaxed);
        let name =
            query.split('&').find_map(|part| part.strip_prefix("fieldSelector=metadata.name%3D")).unwrap();
        let (status, answer) = match *lock(&self.0.0).get(name).unwrap() {
            Answer::Silence => return None,
            Answer::Status(code) => {
                let message = format!("no {name}, {code}");
                (
                    code,
                    json!({"kind": "Status", "status": "Failure", "message": message, "reason": "", "code": code}),
                )
            }
            Answer::Keys => {
                let metadata = json!({"name": name, "namespace": "shop"});
                let item = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata});
                let of_list = json!({"resourceVersion": "1"});
                (200, json!({"apiVersion": "v1", "kind": "SecretList", "metadata": of_list, "items": [item]}))
            }
        };
        let body = Body::from(answer.to_string().into_bytes());
        Some(Response::builder().status(status).body(body).unwrap())
    }
}

impl Service<Request<Body>> for ApiServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.respond(request.uri().query().unwrap_or_default()) {
            Some(response) => Box::pin(ready(Ok(response))),
            None => Box::pin(pending()),
        }
    }
}

type Message = (ResourceId, SecretReport);

/// Watches of the Secrets of an API server, and what they report.
struct Fixture {
    secrets: SecretWatches<Message>,
    sync: SyncStatus,
    reports: mpsc::Receiver<Message>,
    _sender: mpsc::Sender<Message>,
}

impl Fixture {
    fn new(server: &ApiServer) -> Self {
        let (sender, reports) = mpsc::channel(1024);
        let sync = SyncStatus::default();
        sync.synced(Kind::Secret.name());
        let client = Client::new(server.clone(), "default");
        let convert = |id, report| (id, report);
        let secrets = SecretWatches::new(client, sync.clone(), sender.downgrade(), convert);
        Self { secrets, sync, reports, _sender: sender }
    }

    fn follow(&mut self, server: &ApiServer) {
        let wanted = lock(&server.0.0).keys().map(|name| id(name)).collect();
        assert!(self.secrets.follow(&wanted).is_empty());
    }

    /// Returns the next report as text.
    async fn next(&mut self) -> (String, String) {
        let next = timeout(Duration::from_secs(100), self.reports.recv());
        let (id, report) = next.await.expect("a report").unwrap();
        assert!(self.secrets.is_current(&id));
        let report = match report {
            SecretReport::Current(_) => "current".into(),
            SecretReport::Missing => "missing".into(),
            SecretReport::Unreadable(reason) => reason,
        };
        (id.name.to_string(), report)
    }

    /// Waits for a report.
    async fn until(&mut self, name: &str, report: &str) {
        let found = async { while self.next().await != (name.into(), report.into()) {} };
        timeout(Duration::from_secs(100), found).await.expect("the report");
    }

    /// Returns the reports until something is known of each Secret.
    async fn complete(&mut self) -> Vec<(String, String)> {
        let mut reports = Vec::new();
        while !self.secrets.is_complete() {
            reports.push(self.next().await);
        }
        reports
    }
}

fn id(name: &str) -> ResourceId {
    ResourceId { kind: Kind::Secret, namespace: "shop".into(), name: name.into() }
}

fn of(reports: &[(&str, &str)]) -> Vec<(String, String)> {
    reports.iter().map(|(name, report)| (name.to_string(), report.to_string())).collect()
}

const SILENT: &str = "the API server has not answered within 5s";

#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_read_holds_up_the_others_for_a_bounded_time() {
    let server = ApiServer::default();
    server.set("a", Answer::Keys);
    for (name, code) in [("b", 403), ("c", 500), ("d", 401), ("e", 429)] {
        server.set(name, Answer::Status(code));
    }
    server.set("f", Answer::Silence);
    let mut fixture = Fixture::new(&server);
    fixture.follow(&server);
    let began = Instant::now();
    let mut reports = fixture.complete().await;
    assert_eq!(began.elapsed().as_secs(), FIRST_LIST.as_secs());
    // A Secret that this account may not list is reported for each attempt.
    reports.sort();
    reports.dedup();
    let expected = [
        ("a", "current"),
        ("b", "no b, 403"),
        ("c", "no c, 500"),
        ("d", "no d, 401"),
        ("e", "no e, 429"),
        ("f", SILENT),
    ];
    assert_eq!(reports, of(&expected));
    assert_eq!(fixture.sync.problems(), ["Secret cannot be read now: Secret shop/b: no b, 403"]);
    // What is wrong changes, and ends.
    server.set("c", Answer::Status(403));
    fixture.until("c", "no c, 403").await;
    server.set("c", Answer::Keys);
    fixture.until("c", "current").await;
}

#[tokio::test(start_paused = true)]
async fn a_short_failure_is_not_reported() {
    let server = ApiServer::default();
    server.set("a", Answer::Status(500));
    let mut fixture = Fixture::new(&server);
    fixture.follow(&server);
    sleep(FIRST_PAUSE / 2).await;
    assert_eq!(server.lists(), 1);
    server.set("a", Answer::Keys);
    assert_eq!(fixture.complete().await, of(&[("a", "current")]));
    sleep(FIRST_LIST * 2).await;
    assert!(fixture.reports.is_empty() && fixture.sync.problems().is_empty());
}

#[tokio::test(start_paused = true)]
async fn few_secrets_are_listed_at_once_and_silence_ends_no_other_list() {
    let server = ApiServer::default();
    let names: Vec<_> = (0..2 * CONCURRENT_LISTS).map(|n| format!("a{n:02}")).collect();
    names.iter().for_each(|name| server.set(name, Answer::Silence));
    server.set("b", Answer::Keys);
    let mut fixture = Fixture::new(&server);
    fixture.follow(&server);
    sleep(FIRST_LIST / 2).await;
    assert_eq!(server.lists(), CONCURRENT_LISTS);
    let reports = fixture.complete().await;
    assert!(reports.iter().all(|(_, report)| report == SILENT), "{reports:?}");
    assert_eq!(fixture.next().await, ("b".into(), "current".into()));
}

#[tokio::test(start_paused = true)]
async fn what_a_task_records_of_a_secret_that_is_no_longer_watched_is_ignored() {
    let server = ApiServer::default();
    server.set("a", Answer::Status(403));
    let mut fixture = Fixture::new(&server);
    fixture.follow(&server);
    fixture.complete().await;
    assert_eq!(fixture.sync.problems().len(), 1);
    assert_eq!(fixture.secrets.follow(&BTreeSet::new()), [id("a")]);
    assert!(fixture.sync.problems().is_empty());
    // As by a task that runs while it is aborted.
    fixture.secrets.watch.set_failure(&id("a"), Some("late".into()));
    assert!(fixture.sync.problems().is_empty());
    assert!(!fixture.secrets.is_current(&id("a")));
}
