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

/// Keeps a virtual machine from giving free memory back to its host while this lives. Getting it again, page by page, would
/// be what is measured; and of those that fill the page cache in large pieces much more than of those that do not.
pub struct KeptMemory(Option<String>);

const REPORTING: &str = "/sys/module/page_reporting/parameters/page_reporting_order";

impl KeptMemory {
    pub fn new() -> KeptMemory {
        // Where the kernel has no such parameter it gives nothing back.
        let Ok(before) = fs::read_to_string(REPORTING) else { return KeptMemory(None) };
        // There are columns for the orders of free memory that there are. Of one more, nothing is ever found; which of those
        // a kernel takes is its own.
        let orders = fs::read_to_string("/proc/buddyinfo").unwrap_or_default();
        let orders = orders.lines().map(|l| l.split_whitespace().skip(4).count()).max().unwrap_or(11);
        let holds = |order: &usize| {
            let written = fs::write(REPORTING, order.to_string());
            written.is_ok() && fs::read_to_string(REPORTING).is_ok_and(|now| now.trim() == order.to_string())
        };
        if (orders..=orders + 32).find(holds).is_none() {
            eprintln!(
                "{REPORTING} stays {}: this machine gives free memory back to its host, and getting it again is measured, too",
                before.trim()
            );
        }
        KeptMemory(Some(before))
    }
}

impl Drop for KeptMemory {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = fs::write(REPORTING, before.trim());
        }
    }
}

/// Has the kernel forget what it has read, and leaves it memory that can be used at once.
pub fn drop_caches() {
    const TOUCHED: usize = 8 << 30;
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
