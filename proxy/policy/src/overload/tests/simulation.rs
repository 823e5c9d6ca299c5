//! An application with threads and a queue, behind a [`Limiter`] or another algorithm, in simulated time. Times are in microseconds.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use outrigger_test_support::limits::Limit;

use crate::overload::{Begun, Limiter, Observed};

/// The application.
#[derive(Debug, Default)]
pub(super) struct Simulation {
    pub(super) threads: usize,
    /// Whether it notices that a client has gone.
    pub(super) notices: bool,
    /// When its threads are slower, and by which factor.
    pub(super) slow: Vec<(Range<u64>, u64)>,
}

/// A request: a thread works on it, and then it waits for something else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) at: u64,
    work: u64,
    delay: u64,
    /// How long its client waits. Zero is without limit.
    pub(super) patience: u64,
}

/// What became of all requests.
#[derive(Debug)]
pub(super) struct Outcomes(Vec<Request>);

#[derive(Debug)]
struct Request {
    arrival: Arrival,
    state: State,
    begun: Option<(u64, Begun)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Answered(u64),
    Refused,
    GivenUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize),
    Worked(usize),
    Answered(usize),
    GivesUp(usize),
    Refused(usize),
    Check,
}

struct World<'a> {
    of: &'a Simulation,
    now: u64,
    limiter: Limiter,
    observed: Observed,
    instead: Option<Box<dyn Limit>>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    requests: Vec<Request>,
    /// In front of the application, the oldest first.
    waiting: BTreeSet<usize>,
    /// When none was.
    empty: u64,
    /// Inside of it.
    queue: VecDeque<usize>,
    idle: usize,
    in_flight: u32,
}

impl Arrival {
    pub(super) fn new(at: u64, work: u64, delay: u64) -> Self {
        Self { at, work, delay, patience: 0 }
    }
}

impl Outcomes {
    /// The requests of this time that were answered within `limit`.
    pub(super) fn useful(&self, arrived: Range<u64>, limit: u64) -> usize {
        let in_time = |of: &Request| matches!(of.state, State::Answered(at) if at - of.arrival.at <= limit);
        self.0.iter().filter(|of| arrived.contains(&of.arrival.at) && in_time(of)).count()
    }

    /// The requests of this time that were refused.
    pub(super) fn refused(&self, arrived: Range<u64>) -> usize {
        let refused = |of: &&Request| arrived.contains(&of.arrival.at) && of.state == State::Refused;
        self.0.iter().filter(refused).count()
    }
}

impl Simulation {
    /// Runs until `end`.
    pub(super) fn run(&self, arrivals: Vec<Arrival>, end: u64) -> Outcomes {
        self.run_with(None, arrivals, end)
    }

    /// Runs until `end`, with another algorithm.
    pub(super) fn run_with(
        &self,
        instead: Option<Box<dyn Limit>>,
        arrivals: Vec<Arrival>,
        end: u64,
    ) -> Outcomes {
        let mut world = World {
            of: self,
            now: 0,
            limiter: Limiter::default(),
            observed: Observed::default(),
            instead,
            events: (0..end / 10_000).map(|at| Reverse((at * 10_000, Event::Check))).collect(),
            requests: Vec::new(),
            waiting: BTreeSet::new(),
            empty: 0,
            queue: VecDeque::new(),
            idle: self.threads,
            in_flight: 0,
        };
        for (number, arrival) in arrivals.into_iter().enumerate() {
            world.events.push(Reverse((arrival.at, Event::Arrives(number))));
            world.requests.push(Request { arrival, state: State::Waiting, begun: None });
        }
        while let Some(Reverse((at, event))) = world.events.pop().filter(|Reverse((at, _))| *at < end) {
            world.now = at;
            world.happens(event);
            world.admit();
            world.work();
            if world.waiting.is_empty() {
                world.empty = at;
            }
        }
        Outcomes(world.requests)
    }
}

impl World<'_> {
    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives(number) => {
                self.waiting.insert(number);
                let patience = self.requests[number].arrival.patience;
                if patience > 0 {
                    self.events.push(Reverse((self.now + patience, Event::GivesUp(number))));
                }
                if let Some(instead) = &self.instead {
                    let patience = instead.patience(Duration::from_micros(self.now - self.empty));
                    let until = self.now + patience.as_micros() as u64;
                    self.events.push(Reverse((until, Event::Refused(number))));
                }
            }
            Event::Refused(number) => {
                if self.waiting.remove(&number) {
                    self.requests[number].state = State::Refused;
                }
            }
            Event::Worked(number) => {
                self.idle += 1;
                let answered = self.now + self.requests[number].arrival.delay;
                self.events.push(Reverse((answered, Event::Answered(number))));
            }
            Event::Answered(number) => self.ends(number, State::Answered(self.now)),
            Event::GivesUp(number) => match self.requests[number].state {
                State::Waiting => {
                    self.waiting.remove(&number);
                    self.requests[number].state = State::GivenUp;
                }
                State::Running => self.ends(number, State::GivenUp),
                State::Answered(_) | State::Refused | State::GivenUp => {}
            },
            Event::Check => {
                let patience = match self.instead {
                    None => self.limiter.patience().as_micros() as u64,
                    // Each of them has an event.
                    Some(_) => u64::MAX / 2,
                };
                let (now, requests) = (self.now, &mut self.requests);
                self.waiting.retain(|number| {
                    let waits = requests[*number].arrival.at + patience > now;
                    if !waits {
                        requests[*number].state = State::Refused;
                    }
                    waits
                });
                self.round();
            }
        }
    }

    /// The end of a request that the application has.
    fn ends(&mut self, number: usize, state: State) {
        let (now, request) = (self.time(), &mut self.requests[number]);
        let Some((at, begun)) = request.begun.take() else { return };
        request.state = state;
        if let Some(instead) = &mut self.instead {
            let answered = matches!(state, State::Answered(_));
            instead.ended(Duration::from_micros(self.now - at), now, self.in_flight, answered);
        }
        match state {
            State::Answered(_) => self.limiter.answered(begun, now, self.in_flight, &mut self.observed),
            _ => self.limiter.unanswered(begun, now, true, &mut self.observed),
        }
        self.in_flight -= 1;
        self.round();
    }

    fn round(&mut self) {
        let waiting = self.waiting.len() as u32;
        self.limiter.round(self.time(), self.in_flight, waiting, &mut self.observed);
    }

    /// Gives requests to the application, the newest first.
    fn admit(&mut self) {
        let limit = self.instead.as_ref().map_or(self.limiter.limit(), |instead| instead.limit());
        while self.in_flight < limit {
            let Some(number) = self.waiting.pop_last() else { return };
            self.in_flight += 1;
            let begun = self.limiter.begin(self.time(), self.in_flight);
            let request = &mut self.requests[number];
            (request.begun, request.state) = (Some((self.now, begun)), State::Running);
            self.queue.push_back(number);
        }
    }

    /// Gives requests to idle threads.
    fn work(&mut self) {
        while self.idle > 0 {
            let Some(number) = self.queue.pop_front() else { return };
            let Request { state, arrival, .. } = &self.requests[number];
            if self.of.notices && *state != State::Running {
                continue;
            }
            let slow = self.of.slow.iter().find(|(when, _)| when.contains(&self.now));
            let work = arrival.work * slow.map_or(1, |(_, factor)| *factor);
            self.idle -= 1;
            self.events.push(Reverse((self.now + work, Event::Worked(number))));
        }
    }

    fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }
}

/// Requests at random times (a Poisson process), with their work and their delay.
pub(super) fn at_rate(
    per_second: u64,
    during: Range<u64>,
    random: &mut Random,
    request: impl Fn(&mut Random) -> (u64, u64),
) -> Vec<Arrival> {
    let (mut at, mut all) = (during.start, Vec::new());
    loop {
        at += random.exponential(1_000_000 / per_second);
        if at >= during.end {
            return all;
        }
        let (work, delay) = request(random);
        all.push(Arrival::new(at, work, delay));
    }
}

/// Numbers that are the same in each run (xorshift64).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x5DEE_CE66_D1CE_4E5B)
    }
}

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// With this mean.
    pub(super) fn exponential(&mut self, mean: u64) -> u64 {
        let uniform = (self.below(1 << 30) + 1) as f64 / (1u64 << 30) as f64;
        (-(uniform.ln()) * mean as f64) as u64
    }
}
