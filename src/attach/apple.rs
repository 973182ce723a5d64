//! What hdiutil and diskutil have in common: the new device is found in their output, verified against the request, and
//! detached with a timeout.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cdi_base::error::{Error, Kind, PRIVACY};
use cdi_system::ask;

use super::{Attacher, Request, macos_output};

/// One of macOS's programs for disk images.
pub struct Apple {
    /// Its name.
    pub(super) name: &'static str,
    /// Returns the command that attaches the file as a device.
    pub(super) attach: fn(&Path, &Request) -> Command,
    /// Returns the commands that detach a device, run in this order; the flag is whether to force it. Only the result
    /// of the last one counts.
    pub(super) detach: fn(&Path, bool) -> Vec<Command>,
}

/// Timeout for one program. The system probes the device for partitions and file systems, and reads them through us.
const WORK: Duration = Duration::from_secs(120);
/// How long detaching a busy device is retried: programs that probe every new disk release it soon.
const TIMEOUT: Duration = Duration::from_secs(8);

impl Apple {
    fn run(&self, command: &mut Command) -> Result<Vec<u8>, Error> {
        ask(command, WORK, &format!("{} is a part of macOS", self.name)).map_err(|e| {
            // All that these programs say of a refusal for privacy is the text of EPERM.
            if e.what.contains("Operation not permitted") { e.hint(PRIVACY) } else { e }
        })
    }
}

impl Attacher for Apple {
    fn name(&self) -> &'static str {
        self.name
    }

    fn attach(&self, file: &Path, request: &Request) -> Result<PathBuf, Error> {
        // The file has only just appeared, so a device that is backed by this path shows an earlier mount.
        for stale in macos_output::devices(file)? {
            self.detach(&stale, file, true)?;
        }
        let output = self.run(&mut (self.attach)(file, request))?;
        // The list of devices backed by the file decides; the program's own output is trusted only if that list is
        // empty.
        let listed = macos_output::devices(file)?;
        let device = match macos_output::attached(&output) {
            Some(device) if listed.is_empty() || listed.contains(&device) => device,
            _ => listed.into_iter().next().ok_or_else(|| {
                let what = format!("attached by {}, but it did not report the device", self.name);
                Error::failed(what).at(file)
            })?,
        };
        match macos_output::check(&device, request) {
            Ok(()) => Ok(device),
            Err(e) => self.detach(&device, file, true).and(Err(e)),
        }
    }

    fn devices(&self, file: &Path) -> Result<Vec<PathBuf>, Error> {
        macos_output::devices(file)
    }

    fn mounts(&self, _: &Path) -> Result<Vec<PathBuf>, Error> {
        // hdiutil and diskutil unmount the volumes of a device when they detach it.
        Ok(Vec::new())
    }

    fn nodes(&self, device: &Path) -> Vec<PathBuf> {
        vec![device.to_owned()]
    }

    fn used_by(&self, _: &Path) -> Option<String> {
        // The program's own error message names the user.
        None
    }

    fn lingers(&self) -> Duration {
        // The helper of the system that read the file ends some seconds after the device is gone.
        Duration::from_secs(10)
    }

    fn detach(&self, device: &Path, file: &Path, force: bool) -> Result<(), Error> {
        let start = Instant::now();
        let timeout = if force { TIMEOUT / 4 } else { TIMEOUT };
        // The device number may have been reused: a device that is not backed by the file is left alone.
        let is_cdi_mount = || macos_output::devices(file).map(|all| all.iter().any(|d| d == device));
        while is_cdi_mount()? {
            let late = start.elapsed() > timeout;
            let mut answer = Ok(Vec::new());
            for mut command in (self.detach)(device, force && late) {
                answer = self.run(&mut command);
            }
            if !is_cdi_mount()? {
                break;
            }
            if late {
                let error = Error::new(Kind::Busy, "device is in use; not detached").at(device);
                let error =
                    error.hint("stop the programs using it, or use --force (they will get I/O errors)");
                return Err(match answer {
                    Ok(_) => error,
                    Err(e) => error.because(e),
                });
            }
            sleep(Duration::from_millis(300));
        }
        Ok(())
    }
}
