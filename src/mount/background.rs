//! A process that serves a disk in the background.
//!
//! No thread is started before the process has forked.

use std::fs::{self, File};
use std::io::{self, Read, Write};

use cdi_base::error::Error;
use serde::{Deserialize, Serialize};

use crate::mount::daemon::{MountPlan, start};
use crate::mount::inherited::close_inherited;
use crate::mount::record::MountRecord;
use crate::report::{Report, exit_code};

/// The daemon's report to the command that started it.
#[derive(Serialize, Deserialize)]
enum Message {
    /// The disk is served; and what the user is to be warned of.
    Served(MountRecord, Option<String>),
    Failed(Report),
}

/// Mounts a disk, and attaches it if requested, in a daemon process of its own.
pub fn start_in_background(plan: MountPlan) -> Result<MountRecord, Error> {
    let failed = |e: io::Error| Error::failed("cannot start a daemon").because(e);
    let (mut from_daemon, mut to_parent) = io::pipe().map_err(failed)?;
    let record = plan.record("");
    let log_path = record.log()?;
    let log = File::create(&log_path).map_err(|e| Error::io("cannot create", &log_path, e))?;
    cdi_image::input::rest();
    // Never start(): it exits with 0 when the daemon has failed.
    let daemonize = daemonize::Daemonize::new().working_directory("/").umask(0o077).stderr(log);
    match daemonize.execute() {
        daemonize::Outcome::Parent(started) => {
            started.map_err(|e| Error::failed("cannot start a daemon").because(e))?;
            drop(to_parent);
            let mut text = Vec::new();
            from_daemon.read_to_end(&mut text).map_err(failed)?;
            match serde_json::from_slice(&text) {
                Ok(Message::Served(record, warning)) => {
                    // The daemon's own is in its log.
                    warning.into_iter().for_each(|warning| log::warn!("{warning}"));
                    Ok(record)
                }
                Ok(Message::Failed(report)) => Err(report.into_error()),
                Err(_) => {
                    let last_lines = fs::read_to_string(&log_path).unwrap_or_default();
                    let last_lines = last_lines.lines().rev().take(3).collect::<Vec<_>>().join("; ");
                    Err(Error::failed(format!("the daemon exited before it was ready: {last_lines}"))
                        .at(&plan.image))
                }
            }
        }
        daemonize::Outcome::Child(started) => {
            drop(from_daemon);
            close_inherited();
            let up = started
                .map_err(|e| Error::failed("cannot start a daemon").because(e))
                .and_then(|_| start(plan))
                .map(|mut up| {
                    up.confine(None);
                    up
                });
            let message = match &up {
                Ok(up) => Message::Served(up.record.clone(), up.warning.clone()),
                Err(e) => Message::Failed(Report::of(e)),
            };
            let sent = serde_json::to_vec(&message)
                .map_err(io::Error::from)
                .and_then(|text| to_parent.write_all(&text));
            drop(to_parent);
            let end = match (up, sent) {
                (Ok(up), Ok(())) => up.serve(),
                // The command that started the daemon is gone, so nobody wants the mount.
                (Ok(mut up), Err(e)) => up.tear_down(true).and(Err(failed(e))),
                (Err(e), _) => Err(e),
            };
            // Exit instead of returning: fuser's session must not be dropped, see crates/cdi-serve/src/fuse/session.rs.
            match end {
                Ok(()) => std::process::exit(0),
                Err(e) => {
                    log::error!("{e}");
                    std::process::exit(exit_code(e.kind).into())
                }
            }
        }
    }
}
