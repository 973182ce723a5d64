//! The entry point: parses the command line, runs the command, and returns its exit code.

mod attach;
mod cli;
mod cmd;
mod indexes;
mod mount;
mod report;
mod service;
mod ui;

use std::process::ExitCode;

use cdi_base::error::{Error, Kind};

use crate::report::exit_code;
use crate::ui::Ui;

fn main() -> ExitCode {
    mount::inherited::note_inherited();
    cdi_system::ignore_file_size_signal();
    cdi_system::raise_open_file_limit();
    if mount::helper::is_helper() {
        let json = std::env::args_os().any(|word| word == "--json");
        return ExitCode::from(mount::helper::run(|verbose| ui::start_log(verbose, json)));
    }
    if cli::mount_helper::is_mount_helper(std::env::args_os().next().as_deref()) {
        return mount_for_mount8();
    }
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // Help and version are not errors. With --json, errors are printed as JSON.
        Err(e) if !e.use_stderr() => e.exit(),
        Err(e) if !std::env::args_os().any(|a| a == "--json") => {
            let text = e.render().to_string();
            if !text.contains("://") {
                e.exit();
            }
            // It repeats words, among which may be an address with a password.
            Ui { json: false, quiet: false }.usage(&text);
            return ExitCode::from(exit_code(Kind::Usage));
        }
        Err(e) => {
            let what = e.render().to_string().trim().trim_start_matches("error: ").to_owned();
            let ui = Ui { json: true, quiet: false };
            ui.error(&Error::usage(what));
            return ExitCode::from(exit_code(Kind::Usage));
        }
    };
    ui::start_log(cli.verbose, cli.json);
    let ui = Ui { json: cli.json, quiet: cli.quiet };
    match cmd::dispatch::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            ui.error(&error);
            ExitCode::from(exit_code(error.kind))
        }
    }
}

/// Mounts an image for mount(8), which runs the program under another name.
fn mount_for_mount8() -> ExitCode {
    let ui = Ui { json: false, quiet: false };
    let fail = |error: Error| {
        ui.error(&error);
        ExitCode::from(cli::mount_helper::exit_code(error.kind))
    };
    let wanted = match cli::mount_helper::parse(std::env::args_os().skip(1)) {
        Ok(wanted) => wanted,
        Err(error) => return fail(error),
    };
    ui::start_log(wanted.cli.verbose, false);
    if wanted.fake {
        return ExitCode::SUCCESS;
    }
    if mount::automount::is_awaited(&wanted.dir) {
        return mount::automount::mount(&wanted.words).map_or_else(fail, |()| ExitCode::SUCCESS);
    }
    cmd::dispatch::run(wanted.cli).map_or_else(fail, ExitCode::from)
}
