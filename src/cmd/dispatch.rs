//! Maps each verb to its module.

use cdi_base::error::Error;

use super::*;
use crate::cli::{Cli, Verb};
use crate::ui::Ui;

/// Runs the command. Returns the exit code.
pub fn run(cli: Cli) -> Result<u8, Error> {
    let ui = &Ui { json: cli.json, quiet: cli.quiet };
    let end = match cli.verb {
        Verb::Create(args) => create::run(&args, ui),
        Verb::Info(args) => info::run(&args, ui),
        Verb::Map(args) => map::run(&args, ui),
        Verb::Files(args) => files::run(&args, ui),
        Verb::Verify(args) => verify::run(&args, ui),
        Verb::Extract(args) => extract::run(&args, ui),
        Verb::Index(args) => index::run(&args, ui),
        Verb::Repair(args) => repair::run(&args, ui),
        Verb::Protect(args) => protect::run(&args, ui),
        Verb::Compact(args) => compact::run(&args, ui),
        Verb::Mount(args) => mount::mount(&args, ui),
        Verb::Attach(args) => mount::attach(&args, ui),
        Verb::Unmount(args) => unmount::unmount(&args, ui),
        Verb::Detach(args) => unmount::detach(&args, ui),
        Verb::Watch(args) => watch::run(&args, ui),
        Verb::List => mount::list(ui),
        Verb::Stats(args) => stats::run(&args, ui),
        Verb::Exec(args) => exec::run(&args, ui),
        Verb::Serve(args) => serve::run(&args, ui),
        Verb::Service(args) => service::run(&args, ui),
        Verb::Doctor => doctor::run(ui),
        Verb::Demo(args) => demo::run(&args, ui),
        Verb::Formats => formats::run(ui),
        Verb::Completions { shell } => completions::run(shell, ui),
        Verb::Man { dir, section } => completions::man(&dir, section, ui),
    };
    end.map(End::code)
}
