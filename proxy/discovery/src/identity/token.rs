//! The token file: a join token of `outrigger token create`, or the token of a pod's service account.
//!
//! A join token gets the first certificate only. The token of a service account is replaced by the kubelet, and authenticates every
//! request; so the file is read at each request.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};

/// Maximum size of a token; a larger file is most likely not a token.
const MAX_BYTES: usize = 16 * 1024;
/// Every JWT begins so: base64url of `{"`.
const JWT_PREFIX: &str = "eyJ";

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Created by `outrigger token create`.
    Join,
    /// Projected into a pod by the kubelet: a JWT.
    ServiceAccount,
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Join => "join token",
            Self::ServiceAccount => "service account token",
        })
    }
}

/// A token. It is a secret and has no `Debug`.
pub(super) struct Token {
    text: String,
    pub(super) kind: TokenKind,
}

/// Why there is no token.
#[derive(Debug)]
pub(super) struct TokenFileError {
    /// The flag or the file, and what is wrong with it.
    pub(super) problem: String,
    /// Where a token is expected.
    pub(super) file: PathBuf,
}

impl Token {
    /// Reads a token from its file.
    pub(super) fn read(file: Option<&Path>) -> Result<Self, TokenFileError> {
        let path = file.ok_or_else(|| TokenFileError::new(None, "is missing"))?;
        let text = std::fs::read_to_string(path).map_err(|error| TokenFileError::new(file, error))?;
        match text.trim() {
            "" => Err(TokenFileError::new(file, "the file is empty")),
            text if text.len() > MAX_BYTES => {
                Err(TokenFileError::new(file, "the file is too long for a token"))
            }
            text => Ok(Self { text: text.into(), kind: kind(text) }),
        }
    }

    /// Returns the value of the `authorization` metadata. Returns None if the token has bytes that no token has.
    pub(super) fn bearer(&self) -> Option<MetadataValue<Ascii>> {
        let mut bearer = MetadataValue::try_from(format!("Bearer {}", self.text)).ok()?;
        bearer.set_sensitive(true);
        Some(bearer)
    }

    /// Returns a value that tells tokens apart.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.text.hash(&mut hasher);
        hasher.finish()
    }
}

fn kind(text: &str) -> TokenKind {
    match text.starts_with(JWT_PREFIX) && text.split('.').count() == 3 {
        true => TokenKind::ServiceAccount,
        false => TokenKind::Join,
    }
}

impl TokenFileError {
    pub(super) fn new(file: Option<&Path>, problem: impl fmt::Display) -> Self {
        let subject =
            file.map_or_else(|| "--token-file".into(), |file| format!("--token-file {}:", file.display()));
        Self { problem: format!("{subject} {problem}"), file: file.unwrap_or(Path::new("FILE")).into() }
    }
}

/// Returns what an operator does about a refused token in `file`.
pub(super) fn next_step(kind: TokenKind, file: &Path) -> String {
    match kind {
        TokenKind::Join => format!("replace it: {}", create_token(file)),
        TokenKind::ServiceAccount => "it is read and sent again".into(),
    }
}

/// Returns the command that creates a join token.
pub(super) fn create_token(file: &Path) -> String {
    let file = file.display();
    format!("outrigger token create --state-dir DIR --namespace NAMESPACE --service-account NAME > {file}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_is_the_token_of_a_service_account() {
        for (text, expected) in [
            ("eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOlsib3V0cmlnZ2VyLmRldiJdfQ.c2ln", TokenKind::ServiceAccount),
            ("outrigger-join.0a1b2c3d.eyJ", TokenKind::Join),
            ("eyJhbGciOiJSUzI1NiJ9", TokenKind::Join),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }
}
