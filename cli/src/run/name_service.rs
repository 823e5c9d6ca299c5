//! Whether programs of this machine resolve names by DNS (nsswitch.conf(5)), so that the sidecar sees their queries.

/// Returns what must be changed if programs that use glibc ask systemd-resolved by its Unix socket instead (nss-resolve(8)).
pub(crate) fn problem() -> Option<&'static str> {
    let text = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    is_bypassed(&text).then_some(
        "names of the mesh are not found by programs that use glibc, which asks systemd-resolved, and not by DNS: \
         put `dns` before `resolve` in the line `hosts:` of /etc/nsswitch.conf",
    )
}

fn is_bypassed(text: &str) -> bool {
    let hosts = text.lines().find_map(|line| line.trim().strip_prefix("hosts:")).unwrap_or_default();
    hosts.split_whitespace().find(|word| ["dns", "resolve"].contains(word)) == Some("resolve")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nss_resolve_before_dns_bypasses_the_sidecar() {
        let fedora = "passwd: files\n hosts:\tfiles myhostname resolve [!UNAVAIL=return] dns\n";
        assert!(is_bypassed(fedora));
        for not in
            ["hosts: files mdns4_minimal [NOTFOUND=return] dns", "hosts: dns resolve", "#hosts: resolve", ""]
        {
            assert!(!is_bypassed(not), "{not}");
        }
    }
}
