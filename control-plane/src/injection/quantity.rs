//! A quantity of CPU or memory, as Kubernetes writes it: `100m`, `0.5`, `128Mi`.
//!
//! Exponents and the suffixes that make no sense for the resource are refused: `128m` of memory is less than a byte.

use std::fmt;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Cpu,
    Memory,
}

/// A valid quantity greater than zero, in the form in which it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quantity {
    text: String,
    /// In thousandths of a CPU, or in bytes.
    value: u64,
}

impl Quantity {
    /// Parses a quantity of `resource`.
    pub(super) fn parse(resource: Resource, text: &str) -> Result<Self, String> {
        let (expected, units): (_, &[(&str, u64)]) = match resource {
            Resource::Cpu => ("CPU such as 100m or 0.5", &[("", 1000), ("m", 1)]),
            Resource::Memory => (
                "memory such as 128Mi",
                &[
                    ("", 1),
                    ("k", 1000),
                    ("M", 1_000_000),
                    ("G", 1_000_000_000),
                    ("Ki", 1 << 10),
                    ("Mi", 1 << 20),
                    ("Gi", 1 << 30),
                ],
            ),
        };
        let suffix = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = &text[..text.len() - suffix.len()];
        let unit = units.iter().find(|(name, _)| *name == suffix).map(|(_, unit)| *unit);
        match unit.and_then(|unit| scaled(number, unit)) {
            Some(value) if value > 0 => Ok(Self { text: text.to_owned(), value }),
            _ => Err(format!("`{text}` is not a quantity of {expected}")),
        }
    }

    /// Returns whether this is more than `other`, a quantity of the same resource.
    pub(super) fn is_greater(&self, other: &Self) -> bool {
        self.value > other.value
    }
}

/// Returns a decimal number with at most three decimal places times `unit`, rounded down.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 3 {
        return None;
    }
    let thousandths = fraction.parse::<u64>().ok()? * 10_u64.pow(3 - fraction.len() as u32);
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(thousandths.checked_mul(unit)? / 1000)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_compared_by_value() {
        let parse = |resource, text| Quantity::parse(resource, text).unwrap().value;
        assert_eq!(parse(Resource::Cpu, "0.5"), parse(Resource::Cpu, "500m"));
        assert_eq!(parse(Resource::Cpu, "1.25"), 1250);
        assert_eq!(parse(Resource::Memory, "1Gi"), parse(Resource::Memory, "1024Mi"));
        assert_eq!(parse(Resource::Memory, "1.5k"), 1500);
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in
            ["", "0", "-1", "1e3", "1.2345", ".5", "1.", "1..2", "1 Mi", "18446744073709551616", "1Mi"]
        {
            assert!(Quantity::parse(Resource::Cpu, text).is_err(), "{text}");
        }
        for text in ["128m", "0Mi", "1mi", "18446744073709551615Gi"] {
            assert!(Quantity::parse(Resource::Memory, text).is_err(), "{text}");
        }
    }
}
