//! `cdi completions SHELL` and `cdi man DIR`: made from the words in `cli.rs`.

use std::path::Path;

use cdi_base::error::Error;
use cdi_capture::guard::{Guard, Over};
use clap::CommandFactory;
use serde_json::json;

use super::{End, protect_shown};
use crate::cli::Cli;
use crate::ui::Ui;

pub(super) fn run(shell: clap_complete::Shell, ui: &Ui) -> Result<End, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cdi", &mut script);
    if !ui.json(&json!({ "script": String::from_utf8_lossy(&script) })) {
        ui.raw(&script);
    }
    Ok(End::Done)
}

pub(super) fn man(dir: &Path, ui: &Ui) -> Result<End, Error> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("cannot be made", dir, e))?;
    let mut guard = Guard::new(Over { force: true, discard_unfinished: false });
    protect_shown(&mut guard);
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    pages(&cli, &mut |page| {
        let path = dir.join(page.get_filename());
        guard.write(&path, |file| page.render(file))
    })?;
    if !ui.json(&json!({ "dir": dir.display().to_string() })) {
        ui.say(format!("the man pages are in {}", dir.display()));
    }
    Ok(End::Done)
}

/// Gives a man page for a command and for each below it.
fn pages(
    command: &clap::Command,
    write: &mut dyn FnMut(clap_mangen::Man) -> Result<(), Error>,
) -> Result<(), Error> {
    let below = command.get_subcommands().filter(|c| !c.is_hide_set());
    below.into_iter().try_for_each(|c| pages(c, write))?;
    write(clap_mangen::Man::new(command.clone()))
}
