//! The characters of an HTTP token: a method or a field name.

/// Returns true if `byte` is a `tchar` (RFC 9110 section 5.6.2).
pub fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
