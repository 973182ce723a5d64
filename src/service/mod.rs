//! The background service: the configured images, brought up and kept up.
//!
//! `run` is the service itself. It starts a child for each image, the same `cdi attach --foreground` or `cdi mount
//! --foreground` that a user would run, so that what becomes of one image is nothing to the others. `install` makes it a
//! service of launchd or systemd.

mod child;
pub mod config;
pub mod install;
mod managed_image;
pub mod state;
pub mod supervisor;

use std::path::PathBuf;

use cdi_base::error::Error;

/// Where the configuration is, if the user does not say.
pub fn config_path() -> Result<PathBuf, Error> {
    Ok(config_folder()?.join("cdi/service.json"))
}

/// Where the user's configurations are.
fn config_folder() -> Result<PathBuf, Error> {
    match std::env::var_os("XDG_CONFIG_HOME") {
        Some(dir) if !dir.is_empty() => Ok(PathBuf::from(dir)),
        _ => Ok(home()?.join(".config")),
    }
}

/// The user's home.
fn home() -> Result<PathBuf, Error> {
    match std::env::var_os("HOME") {
        Some(home) if !home.is_empty() => Ok(PathBuf::from(home)),
        _ => Err(Error::usage("HOME is not set").hint("name the configuration with --config")),
    }
}
