//! How short of memory the machine is, or the group of processes this one is in.

use std::fs;
use std::path::{Path, PathBuf};

use super::budget::Pressure;

/// The worse of the two. Where neither can be read, on systems other than Linux:
/// low.
pub(crate) fn pressure() -> Pressure {
    let group = own_group().and_then(|dir| group(&dir));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine(&text));
    let level = |(used, limit)| Pressure::of(used, limit, Pressure::Low);
    group.map(level).max(machine.map(level)).unwrap_or_default()
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

/// Where control groups of version 2 are, the one of this process.
fn own_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new("/sys/fs/cgroup").join(path))
}

/// Used and allowed, of a group; `None`: it has no limit.
fn group(dir: &Path) -> Option<(u64, u64)> {
    let number = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let cached = cached.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
    Some((used.saturating_sub(cached), limit))
}

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
}
