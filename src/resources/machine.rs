//! How short of memory the machine is, or one of the groups of processes this one is in.

use std::fs;
use std::path::{Path, PathBuf};

use super::budget::Pressure;

/// The worst of them, from the level it had `before`. Where none can be read, on systems
/// other than Linux: low.
pub(crate) fn pressure(before: Pressure) -> Pressure {
    let read = |file: &Path| fs::read_to_string(Path::new(GROUPS).join(file)).ok();
    let groups = own_group().map(|own| groups(&own, read)).unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine(&text));
    let level = |(used, limit)| Pressure::of(used, limit, before);
    groups.into_iter().chain(machine).map(level).max().unwrap_or_default()
}

/// Used and there, of the machine; what can be taken back at once is not used.
fn machine(meminfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
    };
    let (total, available) = (field("MemTotal")?, field("MemAvailable")?);
    Some((total.saturating_sub(available), total))
}

/// The control group of version 2 of this process, as a path below [`GROUPS`].
fn own_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().find_map(|line| line.strip_prefix("0::/")).map(PathBuf::from)
}

/// Used and allowed, of a group and of those that it is in, as far as they have limits.
fn groups(own: &Path, read: impl Fn(&Path) -> Option<String>) -> Vec<(u64, u64)> {
    let group = |dir: &Path| {
        let number = |file: &str| read(&dir.join(file))?.trim().parse::<u64>().ok();
        let (limit, used) = (number("memory.max")?, number("memory.current")?);
        // Without it, what can be taken back at once would pass for used.
        let stat = read(&dir.join("memory.stat"))?;
        let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
        let cached = cached.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
        Some((used.saturating_sub(cached), limit))
    };
    own.ancestors().filter_map(group).collect()
}

/// Where Linux shows them.
const GROUPS: &str = "/sys/fs/cgroup";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_its_two_lines() {
        let text = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    250 kB\n";
        assert_eq!(machine(text), Some((750, 1000)));
        assert_eq!(machine("MemTotal: x kB"), None);
        assert_eq!(machine(""), None);
    }
    #[test]
    fn the_groups_around_a_group_count_too() {
        let read = |file: &Path| match file.to_str()? {
            "outer/memory.max" => Some("1000\n".into()),
            "outer/memory.current" => Some("900\n".into()),
            "outer/memory.stat" => Some("anon 1\ninactive_file 100\n".into()),
            "outer/own/memory.max" => Some("max\n".into()),
            "outer/own/memory.current" => Some("500\n".into()),
            _ => None,
        };
        assert_eq!(groups(Path::new("outer/own"), read), [(800, 1000)]);
        assert_eq!(groups(Path::new(""), read), []);
    }
}
