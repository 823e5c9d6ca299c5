//! Names that resemble a misspelled one.

use strsim::osa_distance;

/// Returns the candidates that resemble `name`, the nearest first, at most three. A candidate resembles it if a third of its
/// characters differ at most, or if one begins with the other.
pub(super) fn similar<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let lower = name.to_ascii_lowercase();
    let distance = |candidate: &'a str| {
        let other = candidate.to_ascii_lowercase();
        let distance = osa_distance(&lower, &other);
        let close = distance <= (lower.chars().count() / 3).max(1);
        let begins =
            lower.len() >= 3 && other.len() >= 3 && (lower.starts_with(&other) || other.starts_with(&lower));
        (candidate != name && (close || begins)).then_some((distance, candidate))
    };
    let mut found: Vec<_> = candidates.into_iter().filter_map(distance).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

/// Returns `did you mean "a" or "b"?`, or None if no candidate resembles the name.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let names: Vec<_> = similar(name, candidates).iter().map(|name| format!("{name:?}")).collect();
    (!names.is_empty()).then(|| format!("did you mean {}?", names.join(" or ")))
}

/// Returns the candidate that `name` probably misspells: at most two characters differ, whatever the case.
pub(super) fn misspelled<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    let distance = |candidate: &&str| osa_distance(&lower, &candidate.to_ascii_lowercase());
    candidates.into_iter().filter(|candidate| distance(candidate) <= 2).min_by_key(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_and_shortened_names_resemble_the_right_one_and_others_do_not() {
        let all = ["catalog", "catalog-v1", "catalog-v2", "cart", "payments"];
        assert_eq!(similar("catalog-v3", all), ["catalog-v1", "catalog-v2", "catalog"]);
        assert_eq!(similar("payment", all), ["payments"]);
        assert_eq!(similar("crat", all), ["cart"]);
        assert_eq!(similar("stock", all), [""; 0]);
        assert_eq!(did_you_mean("htp", ["http", "tcp"]).as_deref(), Some("did you mean \"http\"?"));
    }
}
