//! The background service: keeps the images of a configuration file mounted or attached.
//!
//! `run` is the service itself. It starts a child for each image, the same `cdi attach --foreground` or `cdi mount
//! --foreground` that a user would run, so that a failing image does not affect the others. `install` registers it as a
//! service with launchd or systemd.

mod child;
pub mod config;
pub mod install;
mod managed_image;
pub mod state;
pub mod supervisor;

use std::path::PathBuf;

use cdi_base::error::Error;

/// Returns the default path of the configuration.
pub fn config_path() -> Result<PathBuf, Error> {
    Ok(config_dir()?.join("cdi/service.json"))
}

/// Returns the user's configuration directory.
fn config_dir() -> Result<PathBuf, Error> {
    match std::env::var_os("XDG_CONFIG_HOME") {
        Some(dir) if !dir.is_empty() => Ok(PathBuf::from(dir)),
        _ => Ok(home()?.join(".config")),
    }
}

/// Returns the user's home directory.
fn home() -> Result<PathBuf, Error> {
    match std::env::var_os("HOME") {
        Some(home) if !home.is_empty() => Ok(PathBuf::from(home)),
        _ => Err(Error::usage("HOME is not set")
            .hint("set HOME, or give the path of the configuration with --config")),
    }
}
