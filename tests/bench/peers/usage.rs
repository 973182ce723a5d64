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

/// Has the kernel forget what it has read, and leaves it memory that can be used at once: a virtual machine may have given
/// what was free back to its host, and getting it again page by page would be what is measured.
pub fn drop_caches() {
    const TOUCHED: usize = 6 << 30;
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut memory: Vec<u8> = Vec::with_capacity(TOUCHED / 2);
                memory.resize(TOUCHED / 2, 1);
                std::hint::black_box(&memory);
            });
        }
    });
}
