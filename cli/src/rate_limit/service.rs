//! Answers whether a limit is reached: `ShouldRateLimit` of `envoy.service.ratelimit.v3`.
//!
//! A descriptor without a limit, and one for which there is no counter left, is not limited.

use std::time::{Duration, SystemTime};

use outrigger_proto::xds::common_ratelimit::RateLimitDescriptor;
use outrigger_proto::xds::protobuf;
use outrigger_proto::xds::ratelimit_service::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use outrigger_proto::xds::ratelimit_service::rate_limit_service_server::RateLimitService;
use outrigger_proto::xds::ratelimit_service::{RateLimitRequest, RateLimitResponse};
use tonic::{Request, Response, Status};

use super::counters::Counters;
use super::limits::{Found, Limits};

/// The service.
#[derive(Debug)]
pub(super) struct Service {
    limits: Limits,
    counters: Counters,
}

impl Service {
    pub(super) fn new(limits: Limits, counters: Counters) -> Self {
        Self { limits, counters }
    }

    /// Counts a request at the time `now`, since the epoch.
    fn answer(&self, request: RateLimitRequest, now: Duration) -> RateLimitResponse {
        let RateLimitRequest { domain, descriptors, hits_addend } = request;
        let statuses: Vec<_> = descriptors
            .into_iter()
            .map(|descriptor| self.status(&domain, descriptor, hits_addend.max(1), now))
            .collect();
        let over = statuses.iter().any(|status| status.code == i32::from(Code::OverLimit));
        let overall_code = if over { Code::OverLimit } else { Code::Ok }.into();
        RateLimitResponse { overall_code, statuses, ..Default::default() }
    }

    fn status(
        &self,
        domain: &str,
        descriptor: RateLimitDescriptor,
        hits: u32,
        now: Duration,
    ) -> DescriptorStatus {
        let RateLimitDescriptor { entries, hits_addend, .. } = descriptor;
        let hits = hits_addend.map_or(u64::from(hits), |hits| hits.value);
        let ok = DescriptorStatus { code: Code::Ok.into(), ..Default::default() };
        let Some(Found { limit, shadow }) = self.limits.find(domain, &entries) else { return ok };
        // Lengths keep apart what other characters of values would join.
        let parts = entries.iter().flat_map(|entry| [&entry.key, &entry.value]);
        let key: String = parts.map(|part| format!("{}:{part}", part.len())).collect();
        let key = format!("{}:{domain}{key}", domain.len()).into_boxed_str();
        let Some(window) = self.counters.count(key, hits, limit.unit.length(), now) else { return ok };
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
}

#[tonic::async_trait]
impl RateLimitService for Service {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Response::new(self.answer(request.into_inner(), now)))
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::common_ratelimit::rate_limit_descriptor::Entry;

    use super::*;

    fn service(most_counters: usize) -> Service {
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
        Service::new(limits, Counters::new(most_counters))
    }

    fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
        let entry = |(key, value): &(&str, &str)| Entry { key: (*key).into(), value: (*value).into() };
        RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..Default::default() }
    }

    fn asked(service: &Service, descriptors: &[RateLimitDescriptor]) -> RateLimitResponse {
        let request =
            RateLimitRequest { domain: "shop".into(), descriptors: descriptors.to_vec(), hits_addend: 0 };
        service.answer(request, Duration::from_secs(90))
    }

    fn is_over(service: &Service, key: &str, value: &str) -> bool {
        asked(service, &[descriptor(&[(key, value)])]).overall_code == i32::from(Code::OverLimit)
    }

    #[test]
    fn each_value_is_counted_by_itself_up_to_its_limit() {
        let service = service(100);
        let of = |value| [(); 3].map(|()| is_over(&service, "caller", value));
        assert_eq!([of("a"), of("b")], [[false, false, true]; 2]);
        assert!(is_over(&service, "banned", "x"), "a limit of 0 refuses all");
        assert!(!is_over(&service, "observed", "x") && !is_over(&service, "unknown", "x"));
    }

    #[test]
    fn an_answer_says_what_is_left_of_each_limit() {
        let service = service(100);
        let response = asked(&service, &[descriptor(&[("caller", "a")]), descriptor(&[("unknown", "a")])]);
        let [caller, unknown] = &response.statuses[..] else { panic!("{response:?}") };
        assert_eq!((caller.limit_remaining, caller.duration_until_reset.unwrap().seconds), (1, 30));
        assert_eq!(caller.current_limit.as_ref().unwrap().name, "callers");
        assert_eq!((unknown.code, unknown.current_limit.is_none()), (Code::Ok.into(), true));
    }

    #[test]
    fn without_a_counter_there_is_no_limit() {
        let service = service(1);
        assert_eq!([(); 3].map(|()| is_over(&service, "caller", "a")), [false, false, true]);
        assert_eq!([(); 3].map(|()| is_over(&service, "caller", "b")), [false, false, false]);
    }
}
