//! The options of `service` and `demo`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// The arguments of `service`.
#[derive(Debug, Args)]
pub struct Service {
    /// What to do
    #[command(subcommand)]
    pub verb: ServiceVerb,
    /// Configuration file (default: ~/.config/cdi/service.json)
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

/// What to do with the service.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ServiceVerb {
    /// Install the service for launchd or systemd, with an empty configuration if there is none
    Install,
    /// Stop the service and remove it from launchd or systemd; the configuration stays
    Uninstall,
    /// Check the configuration and start the service, or make it read the configuration again
    Start,
    /// Stop the service: detach and unmount its images
    Stop,
    /// Show the state of each image; exit code 1 unless all are up
    Status,
    /// Run the service in the foreground; SIGHUP reads the configuration again, SIGTERM stops it
    Run,
}

/// The arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Keep the sample (disk.raw, disk.map, disk.cdimg) in this directory
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}
