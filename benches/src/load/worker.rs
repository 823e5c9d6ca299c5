//! One thread of the generator: its connections, its streams, and the task that ends them.
//!
//! Nothing is shared with other workers while requests are sent, except a counter. A connection that cannot be opened at
//! the start ends the whole test with its reason; later ones are failures of requests.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use super::client::Exchange;
use super::client::grpc::Grpc;
use super::client::http1::Http1;
use super::client::http2::{self, Http2};
use super::client::tcp::Tcp;
use super::client::websocket::WebSocket;
use super::connect::Connector;
use super::cpu::{Sample, ThreadUse};
use super::failure::Failure;
use super::pacer::{Pacer, Window};
use super::recorder::{Recorder, Shared, Tally};
use super::spec::{Pace, Protocol, Spec, Until};

/// How many connections a worker opens at once.
const OPENING: usize = 64;
/// A stream whose connection cannot be opened waits this long before its next request.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What the engine tells its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Opening,
    /// The schedule begins at that time.
    Running(Instant),
    /// Nothing more is sent, and nothing more is awaited.
    Stopped,
}

/// What a worker has measured.
pub(super) struct Figures {
    pub(super) tally: Tally,
    /// When the last counted request ended.
    pub(super) last: Instant,
    pub(super) used: ThreadUse,
    /// The engine ended the test early.
    pub(super) stopped: bool,
}

/// One worker.
pub(super) struct Worker {
    pub(super) number: usize,
    pub(super) spec: Arc<Spec>,
    pub(super) shared: Arc<Shared>,
    pub(super) phase: watch::Receiver<Phase>,
    /// Told when all connections are open, or why not.
    pub(super) ready: std::sync::mpsc::Sender<Result<(), String>>,
}

impl Worker {
    /// Runs in the calling thread until the test ends. Returns an error if the thread cannot run as asked; a failure to
    /// open connections is told by `ready` too.
    pub(super) fn run(self) -> Result<Figures, String> {
        let ready = self.ready.clone();
        self.run_here().inspect_err(|error| {
            // The engine no longer listens if the test has begun.
            let _ = ready.send(Err(error.clone()));
        })
    }

    fn run_here(self) -> Result<Figures, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot create a runtime: {error}"))?;
        if let Some(core) = self.spec.cores.get(self.number % self.spec.cores.len().max(1)) {
            super::cpu::pin(*core)?;
        }
        LocalSet::new().block_on(&runtime, self.work())
    }

    async fn work(self) -> Result<Figures, String> {
        let spec = Arc::clone(&self.spec);
        let connector = Rc::new(Connector::new(spec.address, spec.tls.clone(), Arc::clone(&self.shared)));
        let connections = spec.share(spec.connections as u64, self.number) as usize;
        let scheme = if spec.tls.is_some() { "https" } else { "http" };
        let once = spec.connection_per_request;
        let each = || std::iter::repeat_with(|| Rc::clone(&connector)).take(connections);
        let shared: Vec<_> = each().map(http2::Shared::new).collect();
        // The first stream of each connection comes before the second of any.
        let streams = || (0..spec.streams).flat_map(|_| &shared).map(Rc::clone);
        match &spec.protocol {
            Protocol::Http1(request) => {
                let clients = each().map(|connector| Http1::new(connector, request, once));
                self.drive(clients.collect()).await
            }
            Protocol::Http2(request) => {
                let clients = streams().map(|shared| Http2::new(shared, request, scheme, once));
                self.drive(clients.collect::<Result<_, _>>()?).await
            }
            Protocol::Grpc(call) => {
                let clients = streams().map(|shared| Grpc::new(shared, call, scheme, once));
                self.drive(clients.collect::<Result<_, _>>()?).await
            }
            Protocol::Tcp(transfer) => {
                let clients = each().map(|connector| Tcp::new(connector, transfer, once));
                self.drive(clients.collect()).await
            }
            Protocol::WebSocket(message) => {
                let clients = each().map(|connector| WebSocket::new(connector, message, scheme, once));
                self.drive(clients.collect::<Result<_, _>>()?).await
            }
        }
    }

    async fn drive<E: Exchange + 'static>(mut self, mut clients: Vec<E>) -> Result<Figures, String> {
        let spec = Arc::clone(&self.spec);
        let opened = open(&mut clients, &spec).await;
        let failed = opened.is_err();
        // The engine is gone if another worker failed.
        let _ = self.ready.send(opened);
        let begin = match self.begin().await {
            Some(begin) if !failed => begin,
            _ => return Err("the load test did not begin".into()),
        };
        let counted_from = begin + spec.warm_up;
        let (end, count) = match spec.until {
            Until::Elapsed(length) => (Some(counted_from + length), None),
            Until::Requests(count) => (None, Some(spec.share(count, self.number))),
        };
        let schedule = match &spec.pace {
            Pace::Rate(schedule) => Some(schedule),
            Pace::ClosedLoop | Pace::OnceThenIdle => None,
        };
        let window = Window { begin, counted_from, end, count };
        let pacer = Pacer::new(window, schedule, self.number, spec.threads);
        let pacer = Rc::new(pacer.map_err(|error| format!("cannot create a timer: {error}"))?);
        let recorder = Rc::new(Recorder::new(Arc::clone(&self.shared), counted_from));
        let sampled = tokio::task::spawn_local(async move {
            tokio::time::sleep_until(counted_from.into()).await;
            Sample::now()
        });
        tokio::time::sleep_until(begin.into()).await;
        let mut streams = JoinSet::new();
        for client in clients {
            let (pacer, recorder) = (Rc::clone(&pacer), Rc::clone(&recorder));
            streams.spawn_local(stream(
                client,
                pacer,
                recorder,
                spec.timeout,
                matches!(spec.pace, Pace::OnceThenIdle),
            ));
        }
        let stopped = tokio::select! {
            () = async { while streams.join_next().await.is_some() {} } => false,
            () = self.stopped() => true,
            failed = pacer.run() => return Err(format!("the timer of the generator failed: {failed:?}")),
        };
        let ended = Instant::now();
        let used = match sampled.is_finished() {
            true => sampled.await.map(|sample| sample.used()).unwrap_or_default(),
            false => ThreadUse::default(),
        };
        for intended in pacer.unsent(ended) {
            recorder.record_unsent(intended, end.map_or(ended, |end| end.min(ended)));
        }
        let (tally, last) = recorder.finish();
        Ok(Figures { tally, last, used, stopped })
    }

    async fn begin(&mut self) -> Option<Instant> {
        loop {
            match *self.phase.borrow_and_update() {
                Phase::Opening => {}
                Phase::Running(begin) => return Some(begin),
                Phase::Stopped => return None,
            }
            self.phase.changed().await.ok()?;
        }
    }

    /// Returns when the engine stops the test, or is gone.
    async fn stopped(&mut self) {
        let _ = self.phase.wait_for(|phase| *phase == Phase::Stopped).await;
    }
}

/// Opens the connections. Returns the first failure.
async fn open<E: Exchange>(clients: &mut [E], spec: &Spec) -> Result<(), String> {
    let mut waiting = clients.iter_mut();
    let mut opening = FuturesUnordered::new();
    loop {
        while opening.len() < OPENING
            && let Some(client) = waiting.next()
        {
            opening.push(tokio::time::timeout(spec.timeout, client.open()));
        }
        match opening.next().await {
            None => return Ok(()),
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(failure))) => return Err(format!("{}: {failure}", spec.address)),
            Some(Err(_)) => return Err(format!("{}: no connection within {:?}", spec.address, spec.timeout)),
        }
    }
}

/// Sends the requests of one stream until the pacer ends it.
async fn stream<E: Exchange>(
    mut client: E,
    pacer: Rc<Pacer>,
    recorder: Rc<Recorder>,
    timeout: Duration,
    once: bool,
) {
    while let Some(ticket) = pacer.next().await {
        let outcome = match tokio::time::timeout(timeout, client.exchange()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Timeout),
        };
        let refused = matches!(outcome, Err(Failure::Connect(_)));
        recorder.record(&ticket, outcome);
        if refused {
            tokio::time::sleep(BACK_OFF).await;
        }
        if once {
            pacer.end().await;
            return;
        }
    }
}
