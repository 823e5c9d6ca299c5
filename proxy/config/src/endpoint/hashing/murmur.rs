//! MurmurHash64A with the seed of libstdc++'s `std::hash`, which is Envoy's `MURMUR_HASH_2`. For points of rings only, so that it need
//! not be fast.

const SEED: u64 = 0xc70f_6907;
const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;

/// Returns the hash of these bytes.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let mix = |value: u64| value ^ (value >> 47);
    let times = |value: u64| value.wrapping_mul(MULTIPLIER);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = SEED ^ times(bytes.len() as u64);
    for word in words {
        hash = times(hash ^ times(mix(times(u64::from_le_bytes(*word)))));
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = times(hash ^ u64::from_le_bytes(word));
    }
    mix(times(mix(hash)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `std::hash<std::string>` of libstdc++ returns on 64-bit Linux.
    #[test]
    fn it_is_that_of_libstdc() {
        for (bytes, expected) in [
            (&b""[..], 6_142_509_188_972_423_790),
            (b"a", 4_993_892_634_952_068_459),
            (b"12345678", 10_113_836_418_918_046_885),
            (b"10.0.0.1:80_0", 13_659_246_566_588_789_388),
            (b"127.0.0.1:1234_17", 11_571_174_367_883_734_793),
            (b"\xff\xfe\xfd", 11_672_276_762_370_880_589),
        ] {
            assert_eq!(hash(bytes), expected, "{bytes:?}");
        }
    }
}
