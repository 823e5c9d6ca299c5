//! Decodes strings in Huffman's code (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: the codes of one length are consecutive, in the order of their symbols. So it follows from the lengths alone.
//! Codes of up to eight bits, which are those of most text, take one look into a table; a longer one is found by its length.
//! Strings are not encoded so: the bytes that it saves cost more than sending them.

use super::CompressionError;

/// The lengths of the codes of all bytes, and of EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
/// The symbol that ends no string: its code's beginning is the padding.
const EOS: u16 = 256;
/// The longest code.
const LONGEST: usize = 30;
/// The number of bits that are looked up at once.
const SHORT: u32 = 8;

/// The code, in the forms in which it is looked up.
struct Code {
    /// For each start of eight bits: the symbol, and the length of its code, 0 if it is longer.
    short: [(u8, u8); 1 << SHORT],
    /// All symbols, in the order of their codes.
    sorted: [u16; 257],
    /// For each length: the first code, where its symbol is in `sorted`, and what the code after the last one of that length begins
    /// with, as the upper bits of 32.
    first: [u32; LONGEST + 1],
    place: [u32; LONGEST + 1],
    end: [u64; LONGEST + 1],
}

static CODE: Code = build();

const fn build() -> Code {
    let mut code = Code {
        short: [(0, 0); 1 << SHORT],
        sorted: [0; 257],
        first: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
        end: [0; LONGEST + 1],
    };
    let (mut next, mut place, mut length) = (0_u32, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.place[length] = place as u32;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.sorted[place] = symbol as u16;
                if length as u32 <= SHORT {
                    let shift = SHORT - length as u32;
                    let mut below = 0;
                    while below < 1 << shift {
                        code.short[((next << shift) + below) as usize] = (symbol as u8, length as u8);
                        below += 1;
                    }
                }
                next += 1;
                place += 1;
            }
            symbol += 1;
        }
        code.end[length] = (next as u64) << (32 - length);
        length += 1;
    }
    code
}

/// Appends the decoded string to `out`: at most 8 bytes for 5.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    out.reserve(input.len() * 8 / 5 + 1);
    // The next bits, from the highest one, and their number.
    let (mut bits, mut count) = (0_u64, 0_u32);
    let mut rest = input;
    loop {
        if count < 32
            && let Some((four, after)) = rest.split_first_chunk::<4>()
        {
            bits |= u64::from(u32::from_be_bytes(*four)) << (32 - count);
            count += 32;
            rest = after;
        } else {
            while count <= 56
                && let Some((byte, after)) = rest.split_first()
            {
                bits |= u64::from(*byte) << (56 - count);
                count += 8;
                rest = after;
            }
        }
        if count < 32 {
            // The last bits: what follows is as if the padding went on.
            let padded = bits | u64::MAX.checked_shr(count).unwrap_or(0);
            if count < 8 && padded == u64::MAX {
                return Ok(());
            }
            let (symbol, length) = next(padded)?;
            if length > count {
                return Err(CompressionError("a Huffman-coded string ends within a symbol"));
            }
            out.push(symbol);
            bits <<= length;
            count -= length;
            continue;
        }
        // At least 32 bits: no code is longer.
        while count >= 32 {
            let (symbol, length) = next(bits)?;
            out.push(symbol);
            bits <<= length;
            count -= length;
        }
    }
}

/// Returns the first symbol of `bits` and the length of its code.
fn next(bits: u64) -> Result<(u8, u32), CompressionError> {
    let (symbol, length) = CODE.short[(bits >> (64 - SHORT)) as usize];
    if length != 0 {
        return Ok((symbol, u32::from(length)));
    }
    let window = bits >> 32;
    for length in SHORT as usize + 1..=LONGEST {
        if window < CODE.end[length] {
            let code = (window >> (32 - length)) as u32;
            let symbol = CODE.sorted[(CODE.place[length] + code - CODE.first[length]) as usize];
            if symbol == EOS {
                break;
            }
            return Ok((symbol.to_le_bytes()[0], length as u32));
        }
    }
    Err(CompressionError("a Huffman-coded string contains EOS"))
}

#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u64, 0_u32);
    for byte in text {
        let length = LENGTHS[usize::from(*byte)];
        let place = CODE.sorted.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap() as u32;
        let code = CODE.first[usize::from(length)] + place - CODE.place[usize::from(length)];
        bits = bits << length | u64::from(code);
        count += u32::from(length);
        while count >= 8 {
            count -= 8;
            out.push((bits >> count).to_le_bytes()[0]);
        }
    }
    if count > 0 {
        out.push((bits << (8 - count)).to_le_bytes()[0] | u8::MAX >> count);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(input: &[u8]) -> Result<Vec<u8>, CompressionError> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    /// RFC 7541 appendix C.4 and C.6.
    #[test]
    fn the_examples_of_the_standard_hold() {
        for (text, coded) in [
            (
                "www.example.com",
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
            ),
            ("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            ("302", &[0x64, 0x02]),
            ("private", &[0xae, 0xc3, 0x77, 0x1a, 0x4b]),
            ("", &[]),
        ] {
            assert_eq!(decoded(coded).unwrap(), text.as_bytes());
            assert_eq!(encode(text.as_bytes()), coded);
        }
    }

    /// RFC 7541 appendix B.
    #[test]
    fn the_codes_are_those_of_the_standard() {
        for (symbol, length, code) in [
            (b'0', 5, 0x0),
            (b'a', 5, 0x3),
            (b'X', 8, 0xfc),
            (b'!', 10, 0x3f8),
            (0, 13, 0x1ff8),
            (22, 30, 0x3fff_fffe),
        ] {
            let place = CODE.sorted.iter().position(|one| *one == u16::from(symbol)).unwrap() as u32;
            assert_eq!(CODE.first[length] + place - CODE.place[length], code, "{symbol}");
        }
    }

    #[test]
    fn wrong_padding_is_refused() {
        for (coded, what) in [
            (&[0xff][..], "eight bits of padding"),
            (&[0x1c, 0x64, 0xff], "a whole byte of padding"),
            (&[0x00], "padding of zeros"),
            (&[0x1e], "padding that is not all ones"),
            (&[0xff, 0xff, 0xff, 0xff], "EOS"),
            (&[0xff, 0xff, 0xff, 0xff, 0xff], "EOS and padding"),
            (&[0xff, 0xff, 0xff], "a part of EOS"),
        ] {
            assert!(decoded(coded).is_err(), "{what}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(decoded(&encode(&text)).unwrap(), text);
        }

        #[test]
        fn there_is_one_encoding_of_a_string(coded in proptest::collection::vec(any::<u8>(), 0..16)) {
            if let Ok(text) = decoded(&coded) {
                prop_assert_eq!(encode(&text), coded);
            }
        }
    }
}
