//! Paths that are not regular expressions, by the rules of the CRDs.

/// Checks a path that is not a regular expression by the CRD's rules: absolute, of valid characters, normalized.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err("does not start with '/'".into());
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if path.contains(part) {
            return Err(format!("contains {part:?}"));
        }
    }
    if path.ends_with("/..") || path.ends_with("/.") {
        return Err("ends with a dot segment".into());
    }
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
        let legal = match byte {
            b'%' => hex(bytes.next()) && hex(bytes.next()),
            byte => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !legal {
            return Err("contains a character that is invalid in a path".into());
        }
    }
    Ok(())
}
