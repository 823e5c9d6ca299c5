//! The annotations of a pod by which its author changes how it is injected, parsed strictly.
//!
//! A value reaches a command line only after it was parsed, and is formatted from the parsed value. An unknown annotation of our
//! prefix is refused, because a misspelled exclusion would have no effect.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use outrigger_core::duration::parse_duration;
use serde_json::Value;

use super::layout::{INJECT_LABEL, STATUS_ANNOTATION};
use super::pod::Object;
use super::quantity::{Quantity, Resource};
use super::refusal::Refusal;
use crate::model::similar::did_you_mean;

/// The prefix of all annotations of the mesh.
const PREFIX: &str = "outrigger.dev/";

const EXCLUDE_INBOUND_PORTS: &str = "outrigger.dev/exclude-inbound-ports";
const EXCLUDE_OUTBOUND_PORTS: &str = "outrigger.dev/exclude-outbound-ports";
const EXCLUDE_OUTBOUND_CIDRS: &str = "outrigger.dev/exclude-outbound-cidrs";
const OPAQUE_PORTS: &str = "outrigger.dev/opaque-ports";
const MTLS_PORTS: &str = "outrigger.dev/mtls-ports";
const CPU_REQUEST: &str = "outrigger.dev/proxy-cpu-request";
const CPU_LIMIT: &str = "outrigger.dev/proxy-cpu-limit";
const MEMORY_REQUEST: &str = "outrigger.dev/proxy-memory-request";
const MEMORY_LIMIT: &str = "outrigger.dev/proxy-memory-limit";
const LOG_LEVEL: &str = "outrigger.dev/log-level";
const PRESTOP_SLEEP: &str = "outrigger.dev/prestop-sleep";

/// Every annotation that a pod may have.
const KNOWN: [&str; 12] = [
    EXCLUDE_INBOUND_PORTS,
    EXCLUDE_OUTBOUND_PORTS,
    EXCLUDE_OUTBOUND_CIDRS,
    OPAQUE_PORTS,
    MTLS_PORTS,
    CPU_REQUEST,
    CPU_LIMIT,
    MEMORY_REQUEST,
    MEMORY_LIMIT,
    LOG_LEVEL,
    PRESTOP_SLEEP,
    STATUS_ANNOTATION,
];

const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Maximum `prestop-sleep`, in seconds.
const MAX_PRESTOP_SLEEP: u64 = 3600;

/// The parsed annotations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Annotations {
    pub(super) exclude_inbound_ports: BTreeSet<u16>,
    pub(super) exclude_outbound_ports: BTreeSet<u16>,
    pub(super) exclude_outbound_cidrs: BTreeSet<Cidr>,
    pub(super) cpu: Resources,
    pub(super) memory: Resources,
    pub(super) log_level: Option<&'static str>,
    /// In seconds. Zero adds no sleep.
    pub(super) prestop_sleep: Option<u64>,
}

/// Request and limit of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Resources {
    pub(super) request: Option<Quantity>,
    pub(super) limit: Option<Quantity>,
}

/// An address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Annotations {
    /// Parses the annotations of our prefix; the others are not looked at.
    pub(super) fn parse(annotations: &Object) -> Result<Self, Refusal> {
        let mut parsed = Self::default();
        for (name, value) in annotations {
            if name.starts_with(PREFIX) && name != STATUS_ANNOTATION {
                let Value::String(text) = value else {
                    return Err(Refusal::of_annotation(name, "must be a string"));
                };
                parsed.set(name, text).map_err(|problem| Refusal::of_annotation(name, problem))?;
            }
        }
        parsed.cpu.check(CPU_LIMIT)?;
        parsed.memory.check(MEMORY_LIMIT)?;
        Ok(parsed)
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        match name {
            EXCLUDE_INBOUND_PORTS => self.exclude_inbound_ports = ports(text)?,
            EXCLUDE_OUTBOUND_PORTS => self.exclude_outbound_ports = ports(text)?,
            EXCLUDE_OUTBOUND_CIDRS => self.exclude_outbound_cidrs = list(text)?,
            // The control plane reads these two from the running pod.
            OPAQUE_PORTS => drop(ports(text)?),
            MTLS_PORTS => port_modes(text)?,
            CPU_REQUEST => self.cpu.request = Some(Quantity::parse(Resource::Cpu, text)?),
            CPU_LIMIT => self.cpu.limit = Some(Quantity::parse(Resource::Cpu, text)?),
            MEMORY_REQUEST => self.memory.request = Some(Quantity::parse(Resource::Memory, text)?),
            MEMORY_LIMIT => self.memory.limit = Some(Quantity::parse(Resource::Memory, text)?),
            LOG_LEVEL => {
                let known = LOG_LEVELS.into_iter().find(|level| *level == text);
                let expected = || format!("`{text}` is not one of {}", LOG_LEVELS.join(", "));
                self.log_level = Some(known.ok_or_else(expected)?);
            }
            PRESTOP_SLEEP => self.prestop_sleep = Some(seconds(text)?),
            INJECT_LABEL => return Err("it is a label: write it under metadata.labels".to_owned()),
            _ => {
                let hint = did_you_mean(name, KNOWN).map_or_else(String::new, |hint| format!("; {hint}"));
                return Err(format!("no such annotation{hint}"));
            }
        }
        Ok(())
    }
}

impl Resources {
    fn check(&self, limit_annotation: &str) -> Result<(), Refusal> {
        match (&self.request, &self.limit) {
            (Some(request), Some(limit)) if request.is_greater(limit) => {
                let problem = format!("{limit} is less than the request, {request}");
                Err(Refusal::of_annotation(limit_annotation, problem))
            }
            _ => Ok(()),
        }
    }
}

/// Parses values that commas separate. Space around a value is accepted; an empty value is not, except that of an empty list.
fn list<T: FromStr<Err = String> + Ord>(text: &str) -> Result<BTreeSet<T>, String> {
    if text.trim().is_empty() {
        return Ok(BTreeSet::new());
    }
    text.split(',').map(|item| item.trim().parse()).collect()
}

fn ports(text: &str) -> Result<BTreeSet<u16>, String> {
    Ok(list::<Port>(text)?.into_iter().map(|Port(port)| port).collect())
}

/// Checks the modes of ports.
fn port_modes(text: &str) -> Result<(), String> {
    let items = text.split(',').filter(|item| !item.trim().is_empty()).count();
    match list::<PortMode>(text)?.len() < items {
        true => Err(format!("`{text}`: a port has one mode")),
        false => Ok(()),
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Port(u16);

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(port) if digits && port != 0 => Ok(Self(port)),
            _ => {
                Err(format!("`{text}` is not a port: ports are numbers from 1 to 65535, separated by commas"))
            }
        }
    }
}

/// A port and its mTLS mode, as in `8080=permissive`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct PortMode(Port);

impl FromStr for PortMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((port, "permissive" | "strict")) => Ok(Self(port.parse()?)),
            _ => Err(format!("`{text}`: the form is PORT=permissive or PORT=strict, separated by commas")),
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is not an address range such as 10.0.0.0/8 or fd00::/8");
        let (address, length) = text.split_once('/').ok_or_else(expected)?;
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let length: u8 = length.parse().map_err(|_| expected())?;
        let (bits, width) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        if length > width {
            return Err(expected());
        }
        if bits.checked_shl(length.into()).unwrap_or(0) != 0 {
            return Err(format!("`{text}` has bits after the first {length}"));
        }
        Ok(Self { address, length })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn seconds(text: &str) -> Result<u64, String> {
    let duration = parse_duration(text)?;
    match duration.as_secs() {
        seconds @ 0..=MAX_PRESTOP_SLEEP if duration.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(format!(
            "`{text}` is not a number of whole seconds up to {MAX_PRESTOP_SLEEP}s; 0s adds no sleep"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Annotations, String> {
        let object = pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), json!(value))).collect();
        Annotations::parse(&object).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn values_are_parsed_and_other_prefixes_are_not_looked_at() {
        let parsed = parse(&[
            ("exclude-inbound-ports", "22, 9100"),
            ("exclude-outbound-ports", ""),
            ("exclude-outbound-cidrs", "10.0.0.0/8,fd00::/8,0.0.0.0/0"),
            ("opaque-ports", "3306"),
            ("mtls-ports", "8080=permissive,9090=strict"),
            ("proxy-cpu-request", "100m"),
            ("proxy-cpu-limit", "0.5"),
            ("proxy-memory-limit", "128Mi"),
            ("log-level", "debug"),
            ("prestop-sleep", "1m"),
        ])
        .unwrap();
        assert_eq!(parsed.exclude_inbound_ports, BTreeSet::from([22, 9100]));
        assert!(parsed.exclude_outbound_ports.is_empty());
        let cidrs: Vec<_> = parsed.exclude_outbound_cidrs.iter().map(Cidr::to_string).collect();
        assert_eq!(cidrs, ["0.0.0.0/0", "10.0.0.0/8", "fd00::/8"]);
        assert_eq!((parsed.log_level, parsed.prestop_sleep), (Some("debug"), Some(60)));
        let other = json!({"prometheus.io/port": 3, "sidecar.istio.io/inject": "x"});
        assert_eq!(Annotations::parse(other.as_object().unwrap()).unwrap(), Annotations::default());
    }

    #[test]
    fn a_bad_value_is_refused_with_the_name_of_its_annotation() {
        for (name, value, problem) in [
            ("exclude-inbound-ports", "80,", "`` is not a port"),
            ("exclude-inbound-ports", "0", "`0` is not a port"),
            ("exclude-inbound-ports", "+80", "`+80` is not a port"),
            ("exclude-outbound-ports", "65536", "`65536` is not a port"),
            ("exclude-outbound-ports", "80; drop table", "`80; drop table` is not a port"),
            ("exclude-outbound-cidrs", "10.0.0.0", "not an address range"),
            ("exclude-outbound-cidrs", "10.0.0.0/33", "not an address range"),
            ("exclude-outbound-cidrs", "10.0.0.1/8", "bits after the first 8"),
            ("exclude-outbound-cidrs", "10.0.0.0/8 accept", "not an address range"),
            ("opaque-ports", "mysql", "`mysql` is not a port"),
            ("mtls-ports", "8080", "PORT=permissive"),
            ("mtls-ports", "8080=off", "PORT=permissive"),
            ("proxy-cpu-request", "fast", "`fast`"),
            ("proxy-memory-limit", "128m", "`128m`"),
            ("log-level", "info,h2=debug", "not one of off"),
            ("prestop-sleep", "5", "30s"),
            ("prestop-sleep", "500ms", "whole seconds"),
            ("prestop-sleep", "2h", "whole seconds"),
            ("exclude-inbound-port", "80", "did you mean"),
            ("inject", "enabled", "it is a label"),
            ("mtls-ports", "8080=strict, 8080=permissive", "one mode"),
        ] {
            let refusal = parse(&[(name, value)]).unwrap_err();
            assert!(refusal.starts_with(&format!("metadata.annotations[{PREFIX}{name}]: ")), "{refusal}");
            assert!(refusal.contains(problem), "{refusal}");
        }
        let number = json!({"outrigger.dev/log-level": 3});
        assert!(Annotations::parse(number.as_object().unwrap()).is_err());
    }

    #[test]
    fn a_limit_below_the_request_is_refused() {
        let refusal =
            parse(&[("proxy-memory-request", "1Gi"), ("proxy-memory-limit", "1000Mi")]).unwrap_err();
        assert_eq!(
            refusal,
            "metadata.annotations[outrigger.dev/proxy-memory-limit]: 1000Mi is less than the request, 1Gi"
        );
        parse(&[("proxy-cpu-request", "1000m"), ("proxy-cpu-limit", "1")]).unwrap();
    }
}
