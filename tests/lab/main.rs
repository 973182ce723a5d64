//! The lab: cdi on kernels other than that of this machine. `cargo test --test lab` boots each job of [`JOBS`] on
//! user-mode Linux, a kernel that runs as an ordinary process, and succeeds if every job does. This program is also what
//! the kernel starts there: its first process (`guest.rs`) and the job. See docs/TESTING.md.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_possible_truncation)]

mod another_machine;
mod checks;
mod dead_servers;
mod device_mapper;
mod disks;
mod fuse;
mod guest;
mod mounts;
mod nbd;
mod nfs;
mod scsi;
mod slow_sources;
mod virtual_disks;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use checks::Checks;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A job: what a fresh kernel is booted for.
struct Job {
    name: &'static str,
    run: fn(&mut Checks),
    /// The number of its comparisons. A job that leaves some out has failed.
    checks: usize,
    /// Whether it is for `vm.sh` alone: what it needs is not in user-mode Linux.
    by_hand: bool,
}

/// The jobs, the slowest first.
const JOBS: &[Job] = &[
    Job { name: "slow-sources", run: slow_sources::run, checks: 22, by_hand: false },
    Job { name: "dead-servers", run: dead_servers::run, checks: 39, by_hand: false },
    Job { name: "nfs", run: nfs::run, checks: 47, by_hand: false },
    Job { name: "scsi", run: scsi::run, checks: 60, by_hand: false },
    Job { name: "device-mapper", run: device_mapper::run, checks: 10, by_hand: false },
    Job { name: "dm-dust", run: device_mapper::run_dust, checks: 6, by_hand: false },
    Job { name: "fuse", run: fuse::run, checks: 48, by_hand: false },
    Job { name: "nbd", run: nbd::run, checks: 23, by_hand: false },
    Job { name: "another-machine", run: another_machine::run, checks: 11, by_hand: false },
    Job { name: "virtual-disks", run: virtual_disks::run, checks: 24, by_hand: true },
];

/// How many kernels run at the same time. Most jobs wait for timeouts, so more than there are cores.
const AT_ONCE: usize = 3;
/// The time that a job may take.
const TIMEOUT: Duration = Duration::from_secs(240);
/// Programs that the jobs run, with the Debian packages that have them.
const NEEDS: &[(&str, &str)] = &[
    ("linux.uml", "user-mode-linux"),
    ("ddrescue", "gddrescue"),
    ("nbd-client", "nbd-client"),
    ("mount.nfs", "nfs-common"),
    ("dmsetup", "dmsetup"),
    ("mke2fs", "e2fsprogs"),
    ("losetup", "mount"),
    ("modprobe", "kmod"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
];
/// The modules of the kernels of user-mode Linux.
const UML_MODULES: &str = "/usr/lib/uml/modules";
/// Where administrators' programs are; PATH may not have it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest::first_process();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [job, cdi] = &args[..]
        && let Some(job) = job.strip_prefix("--job=")
    {
        return run_job(job, Path::new(cdi));
    }
    if let [option, file] = &args[..]
        && option == "--write-sample"
    {
        // For vm.sh, whose disks are made outside.
        fs::write(file, disks::disk(disks::SECTORS)).unwrap();
        return ExitCode::SUCCESS;
    }
    boot_all(&args)
}

/// Runs one job, on this kernel. Only the first process of a guest does this.
fn run_job(name: &str, cdi: &Path) -> ExitCode {
    let job = JOBS.iter().find(|j| j.name == name).unwrap();
    let mut checks = Checks::new(cdi);
    (job.run)(&mut checks);
    checks.finish(job.checks)
}

/// Boots the jobs whose names contain one of `wanted`, or all of them.
fn boot_all(wanted: &[String]) -> ExitCode {
    let is_missing = |program: &str| !PATH.split(':').any(|dir| Path::new(dir).join(program).is_file());
    let missing: Vec<&str> = NEEDS.iter().filter(|n| is_missing(n.0)).map(|n| n.1).collect();
    if !missing.is_empty() || !cfg!(target_os = "linux") {
        println!(
            "the lab is skipped: it needs {}",
            if missing.is_empty() { "Linux".into() } else { missing.join(", ") }
        );
        let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty());
        return if ci { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let jobs: Vec<&Job> = JOBS
        .iter()
        .filter(|j| !j.by_hand && (wanted.is_empty() || wanted.iter().any(|w| j.name.contains(w.as_str()))))
        .collect();
    if jobs.is_empty() {
        let names: Vec<&str> = JOBS.iter().filter(|j| !j.by_hand).map(|j| j.name).collect();
        println!("there is no such job; the jobs are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let start = Instant::now();
    let work = std::env::temp_dir().join(format!("cdi-lab-{}", std::process::id()));
    let modules = prepare(&work);
    let waiting = Mutex::new(jobs.iter());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(job) = waiting.lock().unwrap().next() else { break };
                    let outcome = boot(job.name, &work, &modules);
                    let mut results = results.lock().unwrap();
                    println!("{}", outcome.report(job));
                    results.push((outcome.is_right(job), outcome.checks));
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    let failed = results.iter().filter(|(right, _)| !right).count();
    let checks: usize = results.iter().map(|(_, checks)| checks).sum();
    println!(
        "lab: {} jobs, {checks} comparisons, {failed} jobs failed, {} s",
        results.len(),
        start.elapsed().as_secs()
    );
    if failed > 0 {
        println!("the output of each job is in {}", work.display());
        return ExitCode::FAILURE;
    }
    let _ = fs::remove_dir_all(&work);
    ExitCode::SUCCESS
}

/// Makes the directory for the output of the jobs. Returns the directory from which the guest loads modules.
fn prepare(work: &Path) -> PathBuf {
    let modules = work.join("modules");
    let all = modules.join("lib/modules");
    fs::create_dir_all(&all).unwrap();
    for version in fs::read_dir(UML_MODULES).unwrap().map(|e| e.unwrap()) {
        std::os::unix::fs::symlink(version.path(), all.join(version.file_name())).unwrap();
    }
    modules
}

/// What a job's kernel printed.
struct Outcome {
    output: String,
    checks: usize,
    took: Duration,
    in_time: bool,
}

impl Outcome {
    /// Returns whether the job said itself that all its comparisons were as expected.
    fn is_right(&self, job: &Job) -> bool {
        self.in_time && self.output.lines().any(|line| line == checks::all_right(job.checks))
    }

    /// Returns the comparisons of the job, and more if it failed.
    fn report(&self, job: &Job) -> String {
        let right = self.is_right(job);
        let shown = |line: &&str| !right || line.starts_with("ok") || line.starts_with("note");
        let lines: Vec<&str> = self.output.lines().filter(shown).collect();
        let what = match (right, self.in_time) {
            (true, _) => "ok",
            (false, true) => "FAILED",
            (false, false) => "FAILED (timeout)",
        };
        let seconds = self.took.as_secs();
        format!(
            "== {}\n{}\n== {}: {what}, {} comparisons, {seconds} s",
            job.name,
            lines.join("\n"),
            job.name,
            self.checks
        )
    }
}

/// Runs a job on a kernel of its own, which has this machine's files, read-only. Kills it after [`TIMEOUT`].
fn boot(job: &str, work: &Path, modules: &Path) -> Outcome {
    let start = Instant::now();
    let log = work.join(format!("{job}.log"));
    let output = File::create(&log).unwrap();
    let state = work.join(format!("{job}.uml"));
    fs::create_dir(&state).unwrap();
    let mut kernel = Command::new("linux.uml")
        .env("PATH", PATH)
        .args(["mem=640M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "loglevel=1"])
        .args(["con=null", "con0=fd:0,fd:1"])
        .arg(format!("uml_dir={}", state.display()))
        .arg(format!("init={}", std::env::current_exe().unwrap().display()))
        .arg(format!("lab.job={job}"))
        .arg(format!("lab.cdi={}", env!("CARGO_BIN_EXE_cdi")))
        .arg(format!("lab.modules={}", modules.display()))
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .process_group(0)
        .spawn()
        .unwrap();
    let mut in_time = true;
    while kernel.try_wait().unwrap().is_none() {
        if start.elapsed() > TIMEOUT {
            // The kernel, and the processes in which it runs those of the guest.
            let _ = killpg(Pid::from_raw(kernel.id().cast_signed()), Signal::SIGKILL);
            let _ = kernel.wait();
            in_time = false;
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    // A terminal's line ends.
    let output = String::from_utf8_lossy(&fs::read(&log).unwrap()).replace('\r', "");
    let checks = output.lines().filter(|l| l.starts_with("ok ")).count();
    Outcome { output, checks, took: start.elapsed(), in_time }
}
