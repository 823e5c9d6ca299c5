//! Applications whose overload is watched: the limit of each, and its requests.

use outrigger_core::metrics::{Family, labels};
use outrigger_dataplane::ApplicationLoad;

/// Returns the families. An application without a limit has no series of it.
pub(super) fn families(applications: &[ApplicationLoad]) -> [Family; 3] {
    let gauge = |name, help, value: fn(&ApplicationLoad) -> Option<u32>| {
        let series = applications
            .iter()
            .filter_map(|of| Some((labels([("cluster", &*of.cluster)]), f64::from(value(of)?))));
        Family::gauge(name, help, series)
    };
    [
        gauge(
            "outrigger_upstream_overload_limit",
            "Requests that an overloaded application may have at once",
            |of| of.limit,
        ),
        gauge(
            "outrigger_upstream_overload_in_flight",
            "Requests that an application has and has not begun to answer",
            |of| Some(of.in_flight),
        ),
        gauge(
            "outrigger_upstream_overload_waiting",
            "Requests that wait for an overloaded application",
            |of| Some(of.waiting),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use outrigger_core::metrics::text::{Format, encode};

    use super::*;

    #[test]
    fn an_application_without_a_limit_has_no_series_of_it() {
        let load = |cluster: &str, limit| ApplicationLoad {
            cluster: cluster.into(),
            limit,
            in_flight: 3,
            waiting: 2,
        };
        let families = families(&[load("a", Some(8)), load("b", None)]);
        let text = encode(&families, Format::Prometheus);
        let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                r#"outrigger_upstream_overload_limit{cluster="a"} 8"#,
                r#"outrigger_upstream_overload_in_flight{cluster="a"} 3"#,
                r#"outrigger_upstream_overload_in_flight{cluster="b"} 3"#,
                r#"outrigger_upstream_overload_waiting{cluster="a"} 2"#,
                r#"outrigger_upstream_overload_waiting{cluster="b"} 2"#,
            ]
        );
    }
}
