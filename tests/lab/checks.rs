//! Comparisons, which are counted, and the programs that a job runs.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a job prints last if all its comparisons were as expected, and as many as there should be.
pub fn all_right(checks: usize) -> String {
    format!("all {checks} comparisons are as expected")
}

/// The comparisons of a job.
pub struct Checks {
    cdi: PathBuf,
    right: usize,
    wrong: usize,
}

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code, or -1 if a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Ran {
    /// Returns stdout as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_default()
    }
}

impl Checks {
    pub fn new(cdi: &Path) -> Checks {
        Checks { cdi: cdi.to_owned(), right: 0, wrong: 0 }
    }

    /// Compares a value with the expected one.
    pub fn same<T: PartialEq + Debug>(&mut self, what: &str, got: T, expected: T) {
        if got == expected {
            self.right += 1;
            println!("ok   {what}: {got:?}");
        } else {
            self.wrong += 1;
            println!("FAIL {what}: {got:?}, expected {expected:?}");
        }
    }

    /// Checks that something took at least `min` and at most `max` seconds.
    pub fn took(&mut self, what: &str, time: Duration, min: f64, max: f64) {
        let seconds = time.as_secs_f64();
        if (min..=max).contains(&seconds) {
            self.right += 1;
            println!("ok   {what}: {seconds:.1} s ({min} to {max})");
        } else {
            self.wrong += 1;
            println!("FAIL {what}: {seconds:.1} s, expected {min} to {max}");
        }
    }

    /// Checks the exit code of a program, and prints its messages if it is another one.
    pub fn code(&mut self, what: &str, ran: &Ran, expected: i32) {
        if ran.code != expected {
            println!("     {}", ran.stderr.trim().replace('\n', "\n     "));
        }
        self.same(&format!("{what}: exit code"), ran.code, expected);
    }

    /// Runs cdi.
    pub fn cdi(&self, args: &[&str]) -> Ran {
        run(Command::new(&self.cdi).args(args))
    }

    /// Returns a command that runs cdi, to be started in the background.
    pub fn cdi_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.cdi);
        command.args(args);
        command
    }

    /// Prints the result. The job succeeds if all comparisons were made, and were as expected.
    pub fn finish(self, expected: usize) -> ExitCode {
        if self.wrong == 0 && self.right == expected {
            println!("{}", all_right(expected));
            return ExitCode::SUCCESS;
        }
        println!("{} comparisons as expected, {} not; there should be {expected}", self.right, self.wrong);
        ExitCode::FAILURE
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Ran {
    let start = Instant::now();
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        took: start.elapsed(),
    }
}

/// Runs a program that only prepares something, and must succeed.
pub fn must(program: &str, args: &[&str]) -> String {
    let ran = run(Command::new(program).args(args));
    assert!(ran.code == 0, "{program} {}: {} {}", args.join(" "), ran.code, ran.stderr);
    ran.stdout
}

/// Waits until something is so, for at most ten seconds. Returns whether it is.
pub fn wait_until(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
