//! Who a commit is by when nobody says so: `user@host`. Never an error.

use std::os::unix::fs::MetadataExt;

/// The user and host that this process runs as.
pub(crate) fn default() -> String {
    let user = ["USER", "LOGNAME", "USERNAME"].iter().find_map(|name| text(std::env::var(name).ok()));
    let user = user.or_else(owner);
    let host = text(std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .or_else(|| text(std::fs::read_to_string("/etc/hostname").ok()))
        .or_else(|| text(std::env::var("HOSTNAME").ok()));
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.as_deref().unwrap_or("localhost"))
}

/// The name of the user that this process runs as, where a process has a file that says so.
fn owner() -> Option<String> {
    let id = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(2) == Some(&id.as_str()))
        .find_map(|fields| Some((*fields.first()?).to_owned()))
}

fn text(found: Option<String>) -> Option<String> {
    found.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_always_a_user_at_a_host() {
        let author = super::default();
        let (user, host) = author.split_once('@').unwrap_or_default();
        assert!(!user.is_empty() && !host.is_empty(), "{author}");
    }
}
