//! Parsers of flag values. Errors state what is expected.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use outrigger_core::identity::TrustDomain;

use super::{AccessLog, address, log_filter};

/// A larger number of workers is most likely a typing error.
const MAX_WORKERS: usize = 256;

pub(super) fn is_instance_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Parses an instance name, which appears in node IDs, labels and logs: letters, digits, `-`, `_` and `.`, at most 253 bytes.
pub(super) fn parse_instance(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > 253 || !name.chars().all(is_instance_char) {
        return Err("an instance name is 1 to 253 letters, digits, `-`, `_` or `.`".to_owned());
    }
    Ok(name.to_owned())
}

/// Parses a label as Kubernetes defines it: a key of up to 63 characters behind an optional DNS prefix, a value of up to 63.
pub(super) fn parse_label(label: &str) -> Result<(String, String), String> {
    let (key, value) = label.split_once('=').ok_or("the form is KEY=VALUE, as in version=v2")?;
    let short = |part: &str| part.len() <= 63 && part.chars().all(is_instance_char);
    let name = match key.split_once('/') {
        Some((prefix, name)) => address::parse_dns_name(prefix).map(|_| name)?,
        None => key,
    };
    if name.is_empty() || !short(name) || !short(value) {
        return Err("a label's key and value are up to 63 letters, digits, `-`, `_` or `.`".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn parse_workers(count: &str) -> Result<NonZeroUsize, String> {
    let workers: usize = count.parse().map_err(|_| "not a number".to_owned())?;
    NonZeroUsize::new(workers)
        .filter(|workers| workers.get() <= MAX_WORKERS)
        .ok_or_else(|| format!("must be between 1 and {MAX_WORKERS}"))
}

pub(super) fn parse_socket(address: &str) -> Result<SocketAddr, String> {
    address::socket(address)
}

pub(super) fn parse_trust_domain(name: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(name).map_err(|error| error.to_string())
}

pub(super) fn parse_filter(filter: &str) -> Result<String, String> {
    log_filter::parse(filter).map(|_| filter.to_owned())
}

pub(super) fn parse_access_log(destination: &str) -> Result<AccessLog, String> {
    match destination {
        "" => Err("must be off, stdout or the path of a file".to_owned()),
        "off" => Ok(AccessLog::Off),
        "stdout" => Ok(AccessLog::Stdout),
        path => Ok(AccessLog::File(path.into())),
    }
}

pub(super) fn parse_ratio(ratio: &str) -> Result<f64, String> {
    match ratio.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        Ok(_) => Err("must be between 0 and 1".to_owned()),
        Err(_) => Err("not a number".to_owned()),
    }
}
