//! Values of the flags of `outrigger install`: what a cluster or a pod would refuse later is refused here.

use outrigger_core::identity::TrustDomain;

/// Accepts text that means the same inside quotes and outside: no white space, quotes or other special characters of YAML.
fn plain(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@%?=&[]".contains(c);
    match text.chars().find(|c| !allowed(*c)) {
        None => Ok(text.to_owned()),
        Some(c) => Err(format!("{c:?} is not allowed")),
    }
}

/// Parses a registry: a host, and a path if there is one.
pub(super) fn registry(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains("://") || text.ends_with('/') {
        return Err("the form is HOST[:PORT][/PATH], as in registry.example:5000/mirror".to_owned());
    }
    plain(text)
}

/// Parses a tag.
pub(super) fn tag(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text.is_empty() || text.starts_with(['.', '-']) || text.len() > 128 {
        true => Err("a tag has 1 to 128 characters and begins with a letter, a digit or _".to_owned()),
        false => text
            .chars()
            .find(|c| !legal(*c))
            .map_or_else(|| Ok(text.to_owned()), |c| Err(format!("{c:?} is not allowed"))),
    }
}

/// Parses a trust domain.
pub(super) fn trust_domain(text: &str) -> Result<String, String> {
    plain(text)?;
    TrustDomain::parse(text).map(|domain| domain.to_string()).map_err(|error| error.to_string())
}

/// Parses a DNS domain as in the names of Services.
pub(super) fn dns_domain(text: &str) -> Result<String, String> {
    plain(text)?;
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match text.split('.').all(|label| !label.is_empty() && label.chars().all(legal)) {
        true => Ok(text.to_owned()),
        false => Err("the form is that of cluster.local: small letters, without a dot at the end".to_owned()),
    }
}

/// Parses the URL of a collector.
pub(super) fn endpoint(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match host.is_some_and(|host| !host.is_empty()) {
        true => plain(text),
        false => Err("the form is http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

/// Parses a directory of a node.
pub(super) fn directory(text: &str) -> Result<String, String> {
    if text.starts_with('/') { plain(text) } else { Err("the path must begin with /".to_owned()) }
}
