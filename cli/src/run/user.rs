//! A user of this machine: IDs and groups, from /etc/passwd and /etc/group.

use std::io;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    /// The primary group.
    pub(super) gid: u32,
    /// All groups.
    groups: Vec<u32>,
}

impl User {
    /// Finds a user by name or ID. An ID that the machine does not know has the group of the same number.
    /// The error names `flag`.
    pub(super) fn find(flag: &str, text: &str) -> Result<Self, String> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        find(text, &read("/etc/passwd"), &read("/etc/group"))
            .map_err(|error| format!("{flag} {text}: {error}"))
    }

    /// Makes this thread run as the user, for good. For a process with one thread, since it is the thread that changes.
    pub(super) fn assume(&self) -> io::Result<()> {
        let groups: Vec<_> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        Ok(set_thread_res_uid(uid, uid, uid)?)
    }
}

fn find(text: &str, passwd: &str, group: &str) -> Result<User, String> {
    let number = |field: Option<&&str>| field.and_then(|field| field.parse::<u32>().ok());
    let users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let known =
        users.filter(|fields| fields.len() >= 4).find(|fields| fields[0] == text || fields[2] == text);
    let Some(known) = known else {
        // The last ID means "unchanged" to the kernel.
        let id = text.parse().ok().filter(|id| *id != u32::MAX).ok_or("/etc/passwd has no such user")?;
        return Ok(User { uid: id, gid: id, groups: vec![id] });
    };
    let (Some(uid), Some(gid)) = (number(known.get(2)), number(known.get(3))) else {
        return Err("its line in /etc/passwd is malformed".to_owned());
    };
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<_> = line.split(':').collect();
        let is_member = fields.get(3).is_some_and(|members| members.split(',').any(|name| name == known[0]));
        groups.extend(number(fields.get(2)).filter(|id| is_member && *id != gid));
    }
    Ok(User { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken\ncart:x:990:980::/:/sbin/nologin\nodd:x::5::/:\n";
    const GROUP: &str =
        "root:x:0:\ncart:x:980:\nssl:x:110:web,cart\nother:x:111:cartographer\nown:x:980:cart\n";

    #[test]
    fn a_user_is_found_by_name_or_id_with_all_groups() {
        let cart = User { uid: 990, gid: 980, groups: vec![980, 110] };
        assert_eq!(find("cart", PASSWD, GROUP), Ok(cart.clone()));
        assert_eq!(find("990", PASSWD, GROUP), Ok(cart));
        assert_eq!(find("1500", PASSWD, GROUP), Ok(User { uid: 1500, gid: 1500, groups: vec![1500] }));
    }

    #[test]
    fn unknown_names_and_malformed_lines_are_refused() {
        for bad in ["nobody", "odd", "", "-1", "4294967295", "broken"] {
            assert!(find(bad, PASSWD, GROUP).is_err(), "{bad}");
        }
    }
}
