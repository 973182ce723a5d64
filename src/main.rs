//! The program: parse, run, exit.

use std::process::ExitCode;

use cdi::cli::Cli;
use cdi::error::{Error, Kind};
use cdi::ui::{self, Ui};
use clap::Parser;

fn main() -> ExitCode {
    cdi::daemon::note_inherited();
    cdi::system::survive_file_limits();
    cdi::system::allow_files();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no errors; and who asked for JSON gets the errors so.
        Err(e) if !e.use_stderr() || !std::env::args_os().any(|a| a == "--json") => e.exit(),
        Err(e) => {
            let what = e.render().to_string().trim().trim_start_matches("error: ").to_owned();
            let ui = Ui { json: true, quiet: false };
            ui.error(&Error::usage(what));
            return ExitCode::from(Kind::Usage.exit_code());
        }
    };
    ui::start_log(cli.verbose);
    let ui = Ui { json: cli.json, quiet: cli.quiet };
    match cdi::cmd::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}
