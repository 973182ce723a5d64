//! The integration tests: one binary, with a harness that can skip tests. A test lists its requirements besides Rust and a
//! C compiler. If one is missing, the test is skipped with the reason; with `CI` set, that is a failure. See docs/TESTING.md.

// All files are one binary: `pub` items are for its other files.
#![allow(unreachable_pub)]
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, clippy::print_stderr)]

#[macro_use]
mod common;

mod bounded_memory;
mod c_interface;
mod cleanup_after_death;
mod cli;
mod coexistence;
mod confinement;
mod copied_files;
mod crash_consistency;
mod device;
mod docs;
mod evidence;
mod files;
mod filesystem;
mod formats;
mod interrupted_imaging;
mod lying_index;
mod makers;
mod model;
mod mount;
mod mounted_files;
mod nbd;
mod nfs;
mod nothing_is_overwritten;
mod oracle;
mod packaging;
mod parity;
mod partitions;
mod python;
mod remote;
mod repair;
mod rescue;
mod seal;
mod service;
mod standin;
mod tidy;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Test, leftovers};
use libtest_mimic::{Arguments, Completion, Trial};

/// The tests, by module; those in folders have lists of their own.
const MODULES: &[&[Test]] = &[
    bounded_memory::TESTS,
    c_interface::TESTS,
    cleanup_after_death::TESTS,
    cli::TESTS,
    coexistence::TESTS,
    confinement::TESTS,
    crash_consistency::TESTS,
    device::TESTS,
    docs::TESTS,
    evidence::TESTS,
    copied_files::TESTS,
    files::TESTS,
    filesystem::TESTS,
    interrupted_imaging::TESTS,
    lying_index::TESTS,
    model::TESTS,
    mount::TESTS,
    mounted_files::TESTS,
    nbd::TESTS,
    nothing_is_overwritten::TESTS,
    oracle::TESTS,
    packaging::TESTS,
    partitions::TESTS,
    python::TESTS,
    repair::TESTS,
    seal::TESTS,
    service::TESTS,
    standin::TESTS,
    tidy::TESTS,
];

/// Returns every test.
fn all_tests() -> impl Iterator<Item = &'static Test> {
    [MODULES, formats::MODULES, nfs::MODULES, parity::MODULES, remote::MODULES, rescue::MODULES]
        .into_iter()
        .flatten()
        .copied()
        .flatten()
}

/// Restarts with default signals if some are ignored, as SIGINT is in the background of a script: the program that the
/// tests start would inherit that.
fn with_all_signals() {
    use std::os::unix::process::CommandExt;
    const AGAIN: &str = "CDI_TESTS_AGAIN";
    if cdi_system::ending_signals().len() == 3 || std::env::var_os(AGAIN).is_some() {
        return;
    }
    let mut env = std::process::Command::new("env");
    env.arg("--default-signal=INT,QUIT,HUP").args(std::env::args_os()).env(AGAIN, "1");
    eprintln!("signals are ignored here, and cannot be set to their default: {}", env.exec());
}

fn main() -> ExitCode {
    with_all_signals();
    let args = Arguments::from_args();
    let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty());
    // What is known to be missing here.
    let lacks = std::env::var("CDI_LACKS").unwrap_or_default();
    let lacks: Arc<Vec<String>> = Arc::new(lacks.split(',').map(str::to_owned).collect());
    let times: Arc<Mutex<Vec<(Duration, &str)>>> = Arc::default();
    let trials = all_tests().map(|test| {
        let (lacks, times) = (Arc::clone(&lacks), Arc::clone(&times));
        Trial::ignorable_test(test.name(), move || {
            let missing: Vec<&str> = test.needs.iter().flat_map(|need| need.missing()).collect();
            if !missing.is_empty() {
                let reason = format!("needs {}", missing.join(", "));
                let known = missing.iter().all(|name| lacks.iter().any(|l| l == name));
                return if ci && !known { Err(reason.into()) } else { Ok(Completion::ignored_with(reason)) };
            }
            let start = Instant::now();
            (test.run)();
            times.lock().unwrap().push((start.elapsed(), test.name()));
            Ok(Completion::Completed)
        })
    });
    let trials = trials.collect();
    let conclusion = libtest_mimic::run(&args, trials);
    let mut times = std::mem::take(&mut *times.lock().unwrap());
    times.sort_unstable();
    for (time, name) in times.iter().rev().take(10).filter(|(time, _)| time.as_secs() >= 10) {
        eprintln!("{:4.0} s  {name}", time.as_secs_f64());
    }
    let left = leftovers();
    if !left.is_empty() {
        eprintln!("left behind by the tests:\n{left}");
        return ExitCode::FAILURE;
    }
    if conclusion.has_failed() { ExitCode::from(101) } else { ExitCode::SUCCESS }
}
