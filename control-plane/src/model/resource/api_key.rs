//! API keys as hashes: from here on, nothing has a key itself.

use outrigger_core::Name;
use sha2::{Digest, Sha256};

/// What a value of a Secret begins with if it is the hash of a key.
const HASHED: &str = "sha256:";

/// The minimum length of a key in a Secret, in bytes. What is shorter could be guessed from its hash.
const MIN_LENGTH: usize = 16;
/// The maximum length of a key in bytes, as in a policy.
const MAX_LENGTH: usize = 4096;

/// Returns the SHA-256 of a key in hexadecimal digits.
pub(super) fn hash_of(key: &str) -> Name {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// Returns true for a hash: 64 hexadecimal digits in lower case.
pub(super) fn is_hash(digits: &str) -> bool {
    let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    digits.len() == 64 && digits.bytes().all(legal)
}

/// Returns the hashes of the keys in an entry of a Secret. It has a key in each line, or its hash after `sha256:`; blank lines are ignored, and without
/// others there is no key.
///
/// An error says what is wrong, and in which line if there are several. It has nothing of the keys.
pub(super) fn hashes_of(entry: &str) -> Result<Vec<Name>, String> {
    let lines: Vec<_> = entry.lines().enumerate().filter(|(_, line)| !line.is_empty()).collect();
    let several = lines.len() > 1;
    let hash = |(at, line): (usize, &str)| {
        hash_of_line(line).map_err(|reason| match several {
            true => format!("line {} {reason}", at + 1),
            false => reason,
        })
    };
    lines.into_iter().map(hash).collect()
}

fn hash_of_line(line: &str) -> Result<Name, String> {
    if let Some(digits) = line.strip_prefix(HASHED) {
        return match is_hash(digits) {
            true => Ok(digits.into()),
            false => Err("is not sha256: and 64 hexadecimal digits in lower case".into()),
        };
    }
    match line.len() {
        ..MIN_LENGTH => Err(format!("is shorter than {MIN_LENGTH} characters")),
        MIN_LENGTH..=MAX_LENGTH if line.bytes().all(|b| b.is_ascii_graphic()) => Ok(hash_of(line)),
        MIN_LENGTH..=MAX_LENGTH => Err("has a character other than visible ones of ASCII".into()),
        _ => Err(format!("is longer than {MAX_LENGTH} characters")),
    }
}

/// Returns an entry of a Secret with these hashes.
pub(super) fn entry_of<'h>(hashes: impl Iterator<Item = &'h Name>) -> String {
    hashes.map(|hash| format!("{HASHED}{hash}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "partner-key-of-acme";
    const HASH: &str = "e42236464a3a54760eec7914d4eeb59a49621e1df17d4ec9c6b56cd2b1ca4965";

    #[test]
    fn an_entry_has_a_key_or_its_hash_in_each_line() {
        let hashed = format!("sha256:{HASH}");
        for entry in [KEY, &format!("{KEY}\n"), &format!("\r\n{KEY}\r\n\n"), &hashed] {
            assert_eq!(hashes_of(entry).unwrap(), [Name::from(HASH)], "{entry:?}");
        }
        for entry in ["", "\n\r\n"] {
            assert_eq!(hashes_of(entry).unwrap(), [""; 0].map(Name::from), "{entry:?}");
        }
        let both = hashes_of(&format!("{hashed}\nanother-key-of-acme\n")).unwrap();
        assert_eq!(both, [HASH.into(), hash_of("another-key-of-acme")]);
        assert_eq!(hashes_of(&entry_of(both.iter())).unwrap(), both);
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_said_without_the_key() {
        let line = |reason: &str| format!("line 3 {reason}");
        for (entry, reason) in [
            ("secret-of-15-ch", "is shorter than 16 characters"),
            ("secret of acme is", "has a character other than visible ones of ASCII"),
            ("secret-of-the-caf\u{e9}", "has a character other than visible ones of ASCII"),
            (&"secret".repeat(1000), "is longer than 4096 characters"),
            ("sha256:secret-of-acme", "is not sha256: and 64 hexadecimal digits in lower case"),
            (
                &format!("sha256:{}", HASH.to_uppercase()),
                "is not sha256: and 64 hexadecimal digits in lower case",
            ),
            (&format!("{KEY}\n\nsecret"), &line("is shorter than 16 characters")),
        ] {
            assert_eq!(hashes_of(entry).unwrap_err(), reason, "{entry:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_hashed_or_refused_without_a_part_of_it(entry in "[^a-z 0-9:]{0,9}[ -~]{12,20}\n?[^\r\n]{0,30}") {
            match hashes_of(&entry) {
                Ok(hashes) => prop_assert!(hashes.iter().all(|hash| is_hash(hash))),
                Err(reason) => prop_assert!(!reason.contains(&entry) && reason.len() < 80),
            }
        }
    }
}
