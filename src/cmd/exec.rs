//! `cdi exec IMAGE -- CMD … {} …`: attaches an image, runs a command, and detaches the image.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use cdi_base::error::{Error, Kind};

use super::End;
use super::mount::{Shown, UNSEEN, Where, plan};
use crate::cli::Exec;
use crate::mount::daemon;
use crate::mount::daemon::MountPlan;
use crate::ui::{Ui, ignore_closed_stdout};
use crate::{attach, cli};

pub(super) fn run(args: &Exec, ui: &Ui) -> Result<End, Error> {
    // A command that only uses the directory needs no device, and no permission to create one.
    let device = args.command.iter().any(|word| has(word, b"{}")).then_some(&args.device);
    if let Some(device) = device {
        attach::ready(device.with.map(cli::With::name))?;
    }
    let shown = Shown {
        image: &args.image,
        part: &args.part,
        reads: &args.reads,
        access: &args.access,
        desktop: UNSEEN,
    };
    let (plan, _) = plan(&shown, Where::InRuntimeDir, device, ui)?;
    let mut up = daemon::start(MountPlan { exec: true, ..plan })?;
    ignore_closed_stdout();
    let device = up.record.device.clone().unwrap_or_default();
    let argv: Vec<OsString> =
        args.command.iter().map(|w| fill_in(w, &device, &up.record.mountpoint)).collect();
    let status = Command::new(&argv[0]).args(&argv[1..]).spawn().and_then(|mut command| {
        // The command has all privileges; what serves the disk for it does not keep them.
        up.confine(Some(command.id()));
        up.wait_for(&mut command)
    });
    let cleaned = up.tear_down(false).or_else(|busy| {
        ui.warning(format!("{busy}; detached anyway"));
        up.tear_down(true)
    });
    let status =
        status.map_err(|e| Error::new(Kind::Usage, "cannot run").at(Path::new(&argv[0])).because(e))?;
    cleaned?;
    // As in a shell: 128 plus the number of the signal.
    let code = status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(1);
    Ok(End::Code(u8::try_from(code).unwrap_or(1)))
}

/// Checks whether `word` contains `what`.
fn has(word: &OsString, what: &[u8]) -> bool {
    word.as_bytes().windows(what.len()).any(|w| w == what)
}

/// Replaces {} in `word` by the device, and {dir} by the directory.
fn fill_in(word: &OsString, device: &Path, dir: &Path) -> OsString {
    let mut out = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"{}") {
            out.extend_from_slice(device.as_os_str().as_bytes());
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b"{dir}") {
            out.extend_from_slice(dir.as_os_str().as_bytes());
            rest = after;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    OsString::from_vec(out)
}
