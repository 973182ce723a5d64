//! `cdi completions SHELL` and `cdi man DIR`: generated from the definition of the command line.

use std::io::Write;
use std::path::Path;

use cdi_base::error::Error;
use cdi_capture::guard::{Guard, Over};
use serde_json::json;

use super::{End, protect_mounted};
use crate::cli;
use crate::ui::Ui;

pub(super) fn run(shell: clap_complete::Shell, ui: &Ui) -> Result<End, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "cdi", &mut script);
    if !ui.json(&json!({ "script": String::from_utf8_lossy(&script) })) {
        ui.raw(&script);
    }
    Ok(End::Done)
}

pub(super) fn man(dir: &Path, section: u8, ui: &Ui) -> Result<End, Error> {
    if section != 1 && section != 8 {
        return Err(Error::usage(format!(
            "there are no pages in section {section}: cdi has them in 1 and 8"
        )));
    }
    std::fs::create_dir_all(dir).map_err(|e| Error::io("cannot create", dir, e))?;
    let mut guard = Guard::new(Over { force: true, discard_unfinished: false });
    protect_mounted(&mut guard);
    let write = &mut |name: String, page: &[u8]| guard.write(&dir.join(name), |file| file.write_all(page));
    if section == 8 {
        write("mount.cdi.8".into(), &cli::mount_helper::man_page())?;
    } else {
        let mut cli = cli::command().disable_help_subcommand(true);
        cli.build();
        pages(&cli, write)?;
    }
    if !ui.json(&json!({ "dir": dir.display().to_string() })) {
        ui.message(format!("man pages written to {}", dir.display()));
    }
    Ok(End::Done)
}

/// Writes a man page, given its file name and its text.
type WritePage<'a> = dyn FnMut(String, &[u8]) -> Result<(), Error> + 'a;

/// Generates the man pages of a command and its subcommands, and passes each to `write`.
fn pages(command: &clap::Command, write: &mut WritePage<'_>) -> Result<(), Error> {
    let subcommands = command.get_subcommands().filter(|c| !c.is_hide_set());
    subcommands.into_iter().try_for_each(|c| pages(c, write))?;
    let page = cli::man_page(command).map_err(|e| Error::failed("cannot generate a man page").because(e))?;
    write(format!("{}.1", command.get_display_name().unwrap_or(command.get_name())), &page)
}
