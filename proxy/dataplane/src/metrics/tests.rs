use std::time::Duration;

use super::*;

fn labels(route: usize) -> ResponseLabels {
    let record = RequestRecord {
        route: Some(format!("httproute/shop/{route}").into()),
        ..crate::record::testing::record()
    };
    ResponseLabels::of(&record)
}

#[test]
fn a_scrape_sees_the_sum_of_all_workers() {
    let registry = Registry::new();
    for _ in 0..2 {
        let worker = registry.worker();
        worker.responses(&labels(1)).finished(Duration::from_millis(3), 10, 20, None);
        worker.cluster(&"cart".into()).attempts.increment();
        worker.process.in_flight.increment();
    }
    let totals = registry.totals();
    assert_eq!(totals.responses[&labels(1)], 2);
    let requests = &totals.requests[&labels(1).request];
    assert_eq!((requests.bytes_received, requests.bytes_sent), (20, 40));
    let durations = requests.durations();
    assert_eq!((durations.count(), durations.sum), (2, 0.006));
    assert_eq!((durations.buckets[2].upper_bound, durations.buckets[2].count), (0.005, 2));
    assert_eq!((totals.clusters["cart"].attempts, totals.process.in_flight), (2, 2));
}

#[test]
fn invented_label_values_fold_into_one_series() {
    let registry = Registry::new();
    let worker = registry.worker();
    for route in 0..MAX_SERIES + 100 {
        // Statuses too: an application chooses them.
        let status = 200 + u16::try_from(route % 100).unwrap();
        let labels = ResponseLabels { status, ..labels(route) };
        worker.responses(&labels).finished(Duration::ZERO, 0, 0, None);
    }
    let totals = registry.totals();
    assert_eq!((totals.responses.len(), totals.requests.len()), (MAX_SERIES + 1, MAX_SERIES + 1));
    let folded = totals.responses.iter().find(|(labels, _)| labels.request.route.as_deref() == Some(OTHER));
    assert_eq!(*folded.unwrap().1, 100);
}
