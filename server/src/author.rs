//! Who a commit is by when nobody says so: `user@host`. Never an error.

/// The user and host that this process runs as.
pub(crate) fn default() -> String {
    let user = ["USER", "LOGNAME", "USERNAME"].iter().find_map(|name| text(std::env::var(name).ok()));
    let host = text(std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .or_else(|| text(std::fs::read_to_string("/etc/hostname").ok()))
        .or_else(|| text(std::env::var("HOSTNAME").ok()));
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.as_deref().unwrap_or("localhost"))
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
