//! Priorities of responses (RFC 9218): the value of the `priority` field and of PRIORITY_UPDATE.

/// The urgency that is assumed without a value (RFC 9218 section 4.1).
const DEFAULT_URGENCY: u8 = 3;

/// How urgent a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Priority {
    /// From 0, the most urgent, to 7.
    pub(in super::super) urgency: u8,
    /// Whether the response is useful in parts, so that it may be sent in turns with others of the same urgency.
    pub(in super::super) incremental: bool,
}

impl Default for Priority {
    fn default() -> Self {
        Self { urgency: DEFAULT_URGENCY, incremental: false }
    }
}

impl Priority {
    /// Parses a value: a dictionary of structured fields (RFC 8941 section 3.2), of which `u` and `i` are read. What is unknown,
    /// malformed or out of range is ignored (RFC 9218 section 4): a priority is only a hint.
    pub(in super::super) fn parse(value: &[u8]) -> Self {
        let mut priority = Self::default();
        for member in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let item = member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
            match item {
                [b'u', b'=', urgency @ b'0'..=b'7'] => priority.urgency = urgency - b'0',
                b"i" | b"i=?1" => priority.incremental = true,
                b"i=?0" => priority.incremental = false,
                _ => {}
            }
        }
        priority
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_of_a_priority_is_ignored() {
        for (value, urgency, incremental) in [
            ("", 3, false),
            ("u=0", 0, false),
            ("u=7, i", 7, true),
            ("i=?1;x, u=5;y=1", 5, true),
            ("i, i=?0", 3, false),
            ("u=8, i=1", 3, false),
            ("u=-1", 3, false),
            ("u=\"1\", x=2, u=2", 2, false),
            ("u=12", 3, false),
        ] {
            assert_eq!(Priority::parse(value.as_bytes()), Priority { urgency, incremental }, "{value}");
        }
    }
}
