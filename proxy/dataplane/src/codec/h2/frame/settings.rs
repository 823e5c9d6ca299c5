//! The values of a SETTINGS frame (RFC 9113 section 6.5.2, RFC 8441 section 3).

use super::{Code, Error, INITIAL_FRAME_SIZE, MAX_WINDOW};

/// The largest limit on a payload that a peer may set (RFC 9113 section 6.5.2).
const MAX_FRAME_SIZE: u32 = (1 << 24) - 1;

/// Identifiers of settings.
pub(super) mod id {
    pub(in super::super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in super::super) const ENABLE_PUSH: u16 = 2;
    pub(in super::super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in super::super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in super::super) const MAX_FRAME_SIZE: u16 = 5;
    pub(in super::super) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(in super::super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
    pub(in super::super) const NO_RFC7540_PRIORITIES: u16 = 9;
}

/// Settings of one frame. `None`: the frame does not contain it. Of several values of one setting, the last applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct Settings {
    /// The limit on the peer's HPACK table, in bytes: the lowest value in the frame and the last one. An encoder must pass through
    /// the lowest (RFC 7541 section 4.2).
    pub(in super::super) header_table_size: Option<(u32, u32)>,
    pub(in super::super) enable_push: Option<bool>,
    pub(in super::super) max_concurrent_streams: Option<u32>,
    /// At most 2^31-1.
    pub(in super::super) initial_window_size: Option<u32>,
    /// From 2^14 to 2^24-1.
    pub(in super::super) max_frame_size: Option<u32>,
    pub(in super::super) max_header_list_size: Option<u32>,
    /// Whether extended CONNECT is served.
    pub(in super::super) enable_connect_protocol: Option<bool>,
    /// Whether the peer ignores PRIORITY (RFC 9218 section 2.1). Only written.
    pub(in super::super) no_rfc7540_priorities: Option<bool>,
}

impl Settings {
    /// Parses the payload of a frame. Returns a connection error for a value that is out of range.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Error> {
        let (entries, []) = payload.as_chunks::<6>() else {
            return Err(Error::connection(Code::FRAME_SIZE_ERROR, "SETTINGS is no multiple of 6 bytes"));
        };
        let mut settings = Self::default();
        for [id_high, id_low, value @ ..] in entries {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*id_high, *id_low]) {
                id::HEADER_TABLE_SIZE => {
                    let lowest = settings.header_table_size.map_or(value, |(lowest, _)| lowest.min(value));
                    settings.header_table_size = Some((lowest, value));
                }
                id::ENABLE_PUSH => settings.enable_push = Some(flag(value)?),
                id::MAX_CONCURRENT_STREAMS => settings.max_concurrent_streams = Some(value),
                id::INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
                    return Err(Error::connection(
                        Code::FLOW_CONTROL_ERROR,
                        "SETTINGS_INITIAL_WINDOW_SIZE is above 2^31-1",
                    ));
                }
                id::INITIAL_WINDOW_SIZE => settings.initial_window_size = Some(value),
                id::MAX_FRAME_SIZE if !(INITIAL_FRAME_SIZE..=MAX_FRAME_SIZE).contains(&value) => {
                    return Err(Error::connection(
                        Code::PROTOCOL_ERROR,
                        "SETTINGS_MAX_FRAME_SIZE is out of range",
                    ));
                }
                id::MAX_FRAME_SIZE => settings.max_frame_size = Some(value),
                id::MAX_HEADER_LIST_SIZE => settings.max_header_list_size = Some(value),
                id::ENABLE_CONNECT_PROTOCOL => settings.enable_connect_protocol = Some(flag(value)?),
                // Unknown ones are ignored (RFC 9113 section 6.5.2).
                _ => {}
            }
        }
        Ok(settings)
    }

    /// Calls `write` with the identifier and value of each setting that is present.
    pub(super) fn each(&self, mut write: impl FnMut(u16, u32)) {
        let all = [
            (id::HEADER_TABLE_SIZE, self.header_table_size.map(|(_, last)| last)),
            (id::ENABLE_PUSH, self.enable_push.map(u32::from)),
            (id::MAX_CONCURRENT_STREAMS, self.max_concurrent_streams),
            (id::INITIAL_WINDOW_SIZE, self.initial_window_size),
            (id::MAX_FRAME_SIZE, self.max_frame_size),
            (id::MAX_HEADER_LIST_SIZE, self.max_header_list_size),
            (id::ENABLE_CONNECT_PROTOCOL, self.enable_connect_protocol.map(u32::from)),
            (id::NO_RFC7540_PRIORITIES, self.no_rfc7540_priorities.map(u32::from)),
        ];
        for (id, value) in all {
            if let Some(value) = value {
                write(id, value);
            }
        }
    }
}

fn flag(value: u32) -> Result<bool, Error> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::connection(Code::PROTOCOL_ERROR, "a setting that is 0 or 1 has another value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(settings: &[(u16, u32)]) -> Vec<u8> {
        let entry = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        settings.iter().flat_map(entry).collect()
    }

    #[test]
    fn the_last_value_of_a_setting_applies_and_unknown_ones_are_ignored() {
        let all =
            [(1, 0), (1, 4096), (3, 100), (4, 1), (4, MAX_WINDOW), (5, 16_384), (6, 7), (8, 1), (0xfff, 9)];
        let settings = Settings::parse(&payload(&all)).unwrap();
        let expected = Settings {
            header_table_size: Some((0, 4096)),
            max_concurrent_streams: Some(100),
            initial_window_size: Some(MAX_WINDOW),
            max_frame_size: Some(16_384),
            max_header_list_size: Some(7),
            enable_connect_protocol: Some(true),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        let mut written = Vec::new();
        settings.each(|id, value| written.push((id, value)));
        assert_eq!(
            Settings::parse(&payload(&written)).unwrap(),
            Settings { header_table_size: Some((4096, 4096)), ..expected }
        );
    }

    #[test]
    fn a_value_out_of_range_ends_the_connection() {
        for (id, value, code) in [
            (2, 2, Code::PROTOCOL_ERROR),
            (4, MAX_WINDOW + 1, Code::FLOW_CONTROL_ERROR),
            (5, 16_383, Code::PROTOCOL_ERROR),
            (5, 1 << 24, Code::PROTOCOL_ERROR),
            (8, 2, Code::PROTOCOL_ERROR),
        ] {
            let error = Settings::parse(&payload(&[(id, value)])).unwrap_err();
            assert_eq!((error.code, error.stream), (code, None), "{id} = {value}");
        }
        assert_eq!(Settings::parse(&[0; 7]).unwrap_err().code, Code::FRAME_SIZE_ERROR);
    }
}
