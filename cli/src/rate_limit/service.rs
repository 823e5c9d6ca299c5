//! Answers whether a limit is reached: `ShouldRateLimit` of `envoy.service.ratelimit.v3`.
//!
//! A descriptor without a limit, and one for which there is no counter left, is not limited. If the counters cannot be asked, the answer is
//! an error, so that each sidecar does what its policy says.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use outrigger_core::metrics::{Family, Labels, Point, Points};
use outrigger_proto::xds::common_ratelimit::RateLimitDescriptor;
use outrigger_proto::xds::protobuf;
use outrigger_proto::xds::ratelimit_service::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use outrigger_proto::xds::ratelimit_service::rate_limit_service_server::RateLimitService;
use outrigger_proto::xds::ratelimit_service::{RateLimitRequest, RateLimitResponse};
use tonic::{Request, Response, Status};

use super::counters::Counters;
use super::limits::{Found, Limits};
use super::window::{Hits, Window};

/// The service.
#[derive(Debug)]
pub(super) struct Service {
    limits: Limits,
    counters: Counters,
    ok: AtomicU64,
    over: AtomicU64,
    failed: AtomicU64,
}

impl Service {
    pub(super) fn new(limits: Limits, counters: Counters) -> Self {
        Self { limits, counters, ok: AtomicU64::new(0), over: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    /// Counts a request at the time `now`, since the epoch. Returns UNAVAILABLE if the counters cannot be asked.
    async fn answer(&self, request: RateLimitRequest, now: Duration) -> Result<RateLimitResponse, Status> {
        let RateLimitRequest { domain, descriptors, hits_addend } = request;
        let found: Vec<_> =
            descriptors.iter().map(|descriptor| self.limits.find(&domain, &descriptor.entries)).collect();
        let limited = descriptors.iter().zip(&found);
        let hits = limited
            .filter_map(|(descriptor, found)| Some(hits(&domain, descriptor, hits_addend, found.as_ref()?)))
            .collect();
        let windows = self.counters.count(hits, now).await.map_err(|error| {
            self.failed.fetch_add(1, Relaxed);
            Status::unavailable(format!("the request is not counted: {error}"))
        })?;
        let mut windows = windows.into_iter();
        let statuses: Vec<_> = found
            .iter()
            .map(|found| status(found.as_ref().and_then(|found| Some((found, windows.next()??)))))
            .collect();
        let is_over = statuses.iter().any(|status| status.code == i32::from(Code::OverLimit));
        if is_over { &self.over } else { &self.ok }.fetch_add(1, Relaxed);
        let overall_code = if is_over { Code::OverLimit } else { Code::Ok }.into();
        Ok(RateLimitResponse { overall_code, statuses, ..Default::default() })
    }

    /// Returns the metrics.
    pub(super) fn metrics(&self) -> Vec<Family> {
        let answers = [("ok", &self.ok), ("over_limit", &self.over), ("error", &self.failed)];
        let answer = |(code, count): (&str, &AtomicU64)| {
            point(vec![("code", code.to_owned())], count.load(Relaxed) as f64)
        };
        let connected = self.counters.is_connected().map(|is| point(Vec::new(), is.into()));
        vec![
            Family {
                name: "outrigger_rate_limit_answers_total",
                help: "Answers about requests, by code.",
                points: Points::Counter(answers.map(answer).into()),
            },
            Family {
                name: "outrigger_rate_limit_store_connected",
                help: "Whether the Redis or Valkey with the counters is connected.",
                points: Points::Gauge(connected.into_iter().collect()),
            },
        ]
    }
}

fn point(labels: Labels, value: f64) -> Point<f64> {
    Point { labels, value }
}

/// Returns what a descriptor with a limit counts.
fn hits(domain: &str, descriptor: &RateLimitDescriptor, of_request: u32, found: &Found<'_>) -> Hits {
    let own = descriptor.hits_addend.map(|hits| hits.value);
    // Lengths keep apart what other characters of values would join.
    let parts = descriptor.entries.iter().flat_map(|entry| [&entry.key, &entry.value]);
    let key: String = parts.map(|part| format!("{}:{part}", part.len())).collect();
    Hits {
        key: format!("{}:{domain}{key}", domain.len()).into_boxed_str(),
        count: own.unwrap_or_else(|| of_request.max(1).into()),
        length: found.limit.unit.length(),
    }
}

/// Returns the status of a descriptor, by its limit and the window that it was counted in.
fn status(counted: Option<(&Found<'_>, Window)>) -> DescriptorStatus {
    let Some((Found { limit, shadow }, window)) = counted else {
        return DescriptorStatus { code: Code::Ok.into(), ..Default::default() };
    };
    let most = u64::from(limit.requests_per_unit);
    let over = window.count > most && !shadow;
    DescriptorStatus {
        code: if over { Code::OverLimit } else { Code::Ok }.into(),
        current_limit: Some(RateLimit {
            name: limit.name.clone(),
            requests_per_unit: limit.requests_per_unit,
            unit: limit.unit.wire().into(),
        }),
        limit_remaining: u32::try_from(most.saturating_sub(window.count)).unwrap_or(u32::MAX),
        duration_until_reset: Some(protobuf::Duration {
            seconds: i64::try_from(window.left.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(window.left.subsec_nanos()).unwrap_or(0),
        }),
        quota: None,
    }
}

#[tonic::async_trait]
impl RateLimitService for Service {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Response::new(self.answer(request.into_inner(), now).await?))
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::common_ratelimit::rate_limit_descriptor::Entry;
    use outrigger_test_support::application::closed_port;

    use super::super::memory::Memory;
    use super::super::shared::Shared;
    use super::*;

    fn service(most_counters: usize) -> Service {
        with(Counters::Memory(Memory::new(most_counters)))
    }

    fn with(counters: Counters) -> Service {
        let mut limits = Limits::default();
        let text = "
domain: shop
descriptors:
- key: caller
  rate_limit: { unit: minute, requests_per_unit: 2, name: callers }
- key: banned
  rate_limit: { unit: minute, requests_per_unit: 0 }
- key: observed
  rate_limit: { unit: minute, requests_per_unit: 0 }
  shadow_mode: true
";
        limits.add(text).unwrap();
        Service::new(limits, counters)
    }

    fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
        let entry = |(key, value): &(&str, &str)| Entry { key: (*key).into(), value: (*value).into() };
        RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..Default::default() }
    }

    async fn asked(service: &Service, descriptors: &[RateLimitDescriptor]) -> RateLimitResponse {
        let request =
            RateLimitRequest { domain: "shop".into(), descriptors: descriptors.to_vec(), hits_addend: 0 };
        service.answer(request, Duration::from_secs(90)).await.unwrap()
    }

    /// Whether each of three requests is over the limit.
    async fn are_over(service: &Service, key: &str, value: &str) -> [bool; 3] {
        let mut all = [false; 3];
        for over in &mut all {
            let answer = asked(service, &[descriptor(&[(key, value)])]).await;
            *over = answer.overall_code == i32::from(Code::OverLimit);
        }
        all
    }

    fn named((code, count): (&str, f64)) -> (String, f64) {
        (code.to_owned(), count)
    }

    fn answers(service: &Service) -> Vec<(String, f64)> {
        let Points::Counter(points) = &service.metrics()[0].points else { panic!("no counter") };
        points.iter().map(|point| (point.labels[0].1.clone(), point.value)).collect()
    }

    #[tokio::test]
    async fn each_value_is_counted_by_itself_up_to_its_limit() {
        let service = service(100);
        for caller in ["a", "b"] {
            assert_eq!(are_over(&service, "caller", caller).await, [false, false, true]);
        }
        assert_eq!(are_over(&service, "banned", "x").await, [true; 3], "a limit of 0 refuses all");
        for key in ["observed", "unknown"] {
            assert_eq!(are_over(&service, key, "x").await, [false; 3]);
        }
        assert_eq!(answers(&service), [("ok", 10.0), ("over_limit", 5.0), ("error", 0.0)].map(named));
    }

    #[tokio::test]
    async fn an_answer_says_what_is_left_of_each_limit() {
        let service = service(100);
        let descriptors = [[("unknown", "a")], [("caller", "a")]].map(|entries| descriptor(&entries));
        let response = asked(&service, &descriptors).await;
        let [unknown, caller] = &response.statuses[..] else { panic!("{response:?}") };
        assert_eq!((caller.limit_remaining, caller.duration_until_reset.unwrap().seconds), (1, 30));
        assert_eq!(caller.current_limit.as_ref().unwrap().name, "callers");
        assert_eq!((unknown.code, unknown.current_limit.is_none()), (Code::Ok.into(), true));
    }

    #[tokio::test]
    async fn without_a_counter_there_is_no_limit() {
        let service = service(1);
        assert_eq!(are_over(&service, "caller", "a").await, [false, false, true]);
        assert_eq!(are_over(&service, "caller", "b").await, [false; 3]);
    }

    #[tokio::test]
    async fn without_its_store_the_answer_is_an_error_and_counted() {
        let away = closed_port().await.to_string();
        let store = Shared::connect(&away, Duration::from_secs(30)).await.unwrap();
        let service = with(Counters::Shared(store));
        let request = RateLimitRequest {
            domain: "shop".into(),
            descriptors: vec![descriptor(&[("caller", "a")])],
            hits_addend: 0,
        };
        let error = service.answer(request, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unavailable);
        assert!(error.message().contains(&away), "{error}");
        assert_eq!(answers(&service), [("ok", 0.0), ("over_limit", 0.0), ("error", 1.0)].map(named));
        // A request without a limit needs no counter.
        assert_eq!(are_over(&service, "unknown", "x").await, [false; 3]);
        // Every metric is on its page.
        let page = include_str!("../../../docs/metrics.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let names: Vec<_> = service.metrics().iter().map(|family| family.name).collect();
        let prefix = names[0].strip_suffix("answers_total").unwrap();
        let documented: Vec<_> = rows.filter(|row| row.starts_with(prefix)).collect();
        assert_eq!(documented, names);
    }
}
