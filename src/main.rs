//! The program: parse, run, exit.

use std::process::ExitCode;

use cdi::cli::Cli;
use cdi::ui::{self, Ui};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
