//! What a run costs, as the kernel counts it.

use std::fs;

/// All processors' busy time: also that of the kernel's own file systems and of programs that have ended.
pub struct Usage(f64);

impl Usage {
    pub fn now() -> Usage {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let ticks: Vec<u64> =
            stat.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
        // user, nice, system, (idle, iowait,) irq, softirq
        Usage((ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) as f64 / 100.0)
    }

    /// In seconds.
    pub fn cpu_since(&self) -> f64 {
        Usage::now().0 - self.0
    }
}

/// The most memory that a process has had, in MiB.
pub fn peak_memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

/// Has the kernel forget what it has read.
pub fn drop_caches() {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}
