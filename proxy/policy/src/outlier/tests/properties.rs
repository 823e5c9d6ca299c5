//! Laws that hold for any sequence of outcomes.

use proptest::prelude::*;

use super::*;

const OUTCOMES: [Outcome; 5] = [
    Outcome::Success,
    Outcome::Overloaded,
    Outcome::ServerError,
    Outcome::GatewayError,
    Outcome::LocalOrigin,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn never_more_than_the_percentage_is_ejected(
        endpoints in 1usize..12,
        most in 0u32..=100,
        split in any::<bool>(),
        steps in proptest::collection::vec((0usize..12, 0usize..5, 0u64..3), 1..300),
    ) {
        let of = settings(|wire| {
            wire.max_ejection_percent = number(most);
            wire.split_external_local_origin_errors = split;
            wire.enforcing_failure_percentage = number(100);
            wire.enforcing_success_rate = number(100);
        });
        let mut world = World::new(of, endpoints);
        for (which, outcome, forward) in steps {
            world.now += at(forward);
            world.observe(which % endpoints, OUTCOMES[outcome]);
            world.compare();
            let ejected = world.hosts.iter().filter(|host| !host.is_serving()).count();
            prop_assert!(ejected * 100 <= endpoints * most as usize);
            prop_assert_eq!(world.ejections.now() as usize, ejected);
        }
    }

    /// An outage behind all endpoints, or a path that fails on each of them, at any rate.
    #[test]
    fn no_endpoint_is_ejected_where_all_fail_alike(
        seed in any::<u64>(),
        endpoints in 2usize..7,
        failing in 0.0f64..1.0,
        outcome in 2usize..5,
        millis in 1u64..200,
    ) {
        let mut world = World::new(defaults(), endpoints);
        let mut random = fastrand_like(seed);
        for _ in 0..2000 {
            world.now += Duration::from_millis(millis);
            let host = (random() * endpoints as f64) as usize;
            let outcome = if random() < failing { OUTCOMES[outcome] } else { Outcome::Success };
            prop_assert_eq!(world.observe(host, outcome), None);
        }
    }

    #[test]
    fn an_endpoint_that_fails_much_more_than_the_others_is_ejected(
        seed in any::<u64>(),
        endpoints in 2usize..7,
        failing in 0.7f64..1.0,
        others in 0.0f64..0.1,
        outcome in 2usize..5,
    ) {
        let mut world = World::new(defaults(), endpoints);
        let mut random = fastrand_like(seed);
        let mut ejected = None;
        for _ in 0..200 * endpoints {
            world.now += Duration::from_millis(1);
            let host = (random() * endpoints as f64) as usize;
            let failed = random() < if host == 0 { failing } else { others };
            let one = world.observe(host, if failed { OUTCOMES[outcome] } else { Outcome::Success });
            prop_assert!(one.is_none() || host == 0);
            ejected = ejected.or(one);
        }
        prop_assert!(ejected.is_some());
    }
}

/// Returns a generator of uniform numbers in `[0, 1)` (xorshift64*).
fn fastrand_like(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}
