//! `cdi completions SHELL` and `cdi man DIR`: made from the words in `cli.rs`.

use std::path::Path;

use clap::CommandFactory;
use serde_json::json;

use super::End;
use crate::cli::Cli;
use crate::error::Error;
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
    clap_mangen::generate_to(Cli::command(), dir)
        .map_err(|e| Error::io("the man pages cannot be written", dir, e))?;
    if !ui.json(&json!({ "dir": dir.display().to_string() })) {
        ui.say(format!("the man pages are in {}", dir.display()));
    }
    Ok(End::Done)
}
