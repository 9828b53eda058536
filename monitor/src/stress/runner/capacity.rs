//! Estimates how many guests this machine can run at a time.
//!
//! Talks to `/proc` and to the control group. A value that cannot be read is no limit.

use std::fs;
use std::path::Path;

/// Memory of a run beside that of its guest.
const OVERHEAD: u64 = 96 << 20;

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Processors that this process may use.
    pub(crate) cores: u32,
    /// Memory in bytes that is free or can be made so.
    pub memory: u64,
}

impl Capacity {
    /// Of this machine, or of the control group in which this process is.
    #[must_use]
    pub(crate) fn here() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let memory = free_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            memory: memory.min(group_memory(&groups, Path::new("/sys/fs/cgroup"))),
        }
    }

    /// Guests with so many vCPUs and so much memory that run at a time: at least one.
    #[must_use]
    pub(crate) fn guests(self, cpus: u32, memory: u64) -> u32 {
        let by_memory = self.memory / memory.saturating_add(OVERHEAD);
        let by_memory = u32::try_from(by_memory).unwrap_or(u32::MAX);
        (self.cores / cpus.max(1)).min(by_memory).max(1)
    }
}

/// `MemAvailable` of proc_meminfo(5), in bytes.
fn free_memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.map_or(u64::MAX, |kilobytes| kilobytes.saturating_mul(1024))
}

/// What is left of the limits of this process's control group (version 2) and those above it.
fn group_memory(groups: &str, root: &Path) -> u64 {
    let path = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    let group = root.join(path);
    let number = |group: &Path, file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let left = group
        .ancestors()
        .take_while(|group| group.starts_with(root))
        .filter_map(|group| {
            let limit = number(group, "memory.max")?;
            Some(limit.saturating_sub(number(group, "memory.current").unwrap_or(0)))
        });
    left.min().unwrap_or(u64::MAX)
}

/// Name of this machine.
#[must_use]
pub(crate) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() {
        return "a machine without a name".to_owned();
    }
    crate::escape::line(&name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_and_memory_limit_the_guests() {
        let machine = Capacity {
            cores: 16,
            memory: 8 << 30,
        };
        assert_eq!(machine.guests(2, 256 << 20), 8);
        assert_eq!(machine.guests(1, 1 << 30), 7);
        assert_eq!(machine.guests(64, 1 << 40), 1);
        assert_eq!(machine.guests(2, u64::MAX), 1);
    }

    #[test]
    fn memory_is_what_the_kernel_says_within_the_control_group() {
        assert_eq!(free_memory("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), 2 << 20);
        assert_eq!(free_memory("nonsense"), u64::MAX);
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("a/b");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("memory.max"), "max\n").unwrap();
        assert_eq!(group_memory("1:x:/y\n0::/a/b\n", root.path()), u64::MAX);
        fs::write(root.path().join("a/memory.max"), "1000\n").unwrap();
        fs::write(root.path().join("a/memory.current"), "400\n").unwrap();
        assert_eq!(group_memory("0::/a/b\n", root.path()), 600);
    }
}
