//! Integers with a prefix (RFC 7541 section 5.1).

use super::CompressionError;

/// The largest value that is accepted: lengths and table sizes are far below it.
const MOST: u32 = 1 << 28;

/// Removes an integer from `input`, whose first byte holds `prefix` bits of it (1 to 8).
pub(super) fn decode(input: &mut &[u8], prefix: u32) -> Result<usize, CompressionError> {
    let (first, mut rest) =
        input.split_first().ok_or(CompressionError("a field block ends within a field"))?;
    let mask = u32::from(u8::MAX) >> (8 - prefix);
    let mut value = u32::from(*first) & mask;
    if value < mask {
        *input = rest;
        return Ok(value as usize);
    }
    // Further bytes hold seven bits each, the lowest first. More than five are no encoding that a peer needs.
    for shift in [0, 7, 14, 21, 28] {
        let (byte, after) =
            rest.split_first().ok_or(CompressionError("a field block ends within a number"))?;
        rest = after;
        let bits = u64::from(byte & 0x7f) << shift;
        match u32::try_from(bits).ok().and_then(|bits| value.checked_add(bits)) {
            Some(sum) if sum <= MOST => value = sum,
            _ => break,
        }
        if byte & 0x80 == 0 {
            *input = rest;
            return Ok(value as usize);
        }
    }
    Err(CompressionError("a number is too large"))
}

/// Appends an integer of which the first byte holds `prefix` bits (1 to 8) below the bits of `first`.
pub(super) fn encode(value: usize, prefix: u32, first: u8, out: &mut Vec<u8>) {
    let mask = usize::from(u8::MAX >> (8 - prefix));
    if value < mask {
        out.push(first | value.to_le_bytes()[0]);
        return;
    }
    out.push(first | mask.to_le_bytes()[0]);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7541 appendix C.1.
    #[test]
    fn the_examples_of_the_standard_hold() {
        for (value, prefix, bytes) in [(10, 5, &[0x0a][..]), (1337, 5, &[0x1f, 0x9a, 0x0a]), (42, 8, &[0x2a])]
        {
            let mut out = Vec::new();
            encode(value, prefix, 0, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(decode(&mut &*out, prefix), Ok(value));
        }
    }

    #[test]
    fn a_number_that_is_cut_or_too_large_is_refused() {
        for bytes in [
            &[][..],
            &[0x1f],
            &[0x1f, 0x80],
            &[0x1f, 0xff, 0xff, 0xff, 0xff, 0x0f],
            &[0x1f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
        ] {
            assert!(decode(&mut &*bytes, 5).is_err(), "{bytes:x?}");
        }
        assert_eq!(decode(&mut &[0x1f, 0x80, 0x80, 0x80, 0x80, 0x00][..], 5), Ok(31), "it may be padded");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(value in 0..=MOST as usize, prefix in 1..=8_u32) {
            let mut out = Vec::new();
            encode(value, prefix, 0, &mut out);
            out.push(7);
            let mut input = &out[..];
            prop_assert_eq!(decode(&mut input, prefix), Ok(value));
            prop_assert_eq!(input, &[7]);
        }
    }
}
