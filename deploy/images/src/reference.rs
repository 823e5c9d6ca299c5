//! Names of images.

/// Returns the name with its registry and tag, as containerd and Docker complete it: `outrigger/proxy` is
/// `docker.io/outrigger/proxy:latest`. Returns an error if it is no name of an image.
pub(crate) fn full_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    let parts = name.split('/').all(|part| part.starts_with(|c: char| c.is_ascii_alphanumeric()));
    if !parts || !name.chars().all(allowed) {
        return Err(format!("{name:?} is no name of an image: expected [REGISTRY/]REPOSITORY[:TAG]"));
    }
    let is_registry = |part: &str| part.contains(['.', ':']) || part == "localhost";
    let name = match name.split_once('/') {
        Some((first, _)) if is_registry(first) => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    Ok(if tag(&name).is_some() { name } else { name + ":latest" })
}

/// Returns the tag of a name that has one.
pub(crate) fn tag(name: &str) -> Option<&str> {
    let last = name.rsplit('/').next()?;
    last.split_once(':').map(|(_, tag)| tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_completed_as_containerd_does() {
        for (name, full) in [
            ("outrigger/proxy:0.1.0", "docker.io/outrigger/proxy:0.1.0"),
            ("busybox", "docker.io/library/busybox:latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("gcr.io/k8s/echo:v1", "gcr.io/k8s/echo:v1"),
        ] {
            assert_eq!(full_name(name).unwrap(), full);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "a//b", "/a", "a b", "a/:v1"] {
            assert!(full_name(name).unwrap_err().contains("is no name"), "{name}");
        }
    }
}
