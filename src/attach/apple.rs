//! What hdiutil and diskutil have in common: the device that they make is found in what they print, held against what was
//! asked for, and taken away with timeout.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cdi_base::error::{Error, Kind};
use cdi_system::ask;

use super::{Attacher, Request, macos_output};

/// One of macOS's programs for disk images.
pub struct Apple {
    /// Its name.
    pub(super) name: &'static str,
    /// What makes the file a device.
    pub(super) attach: fn(&Path, &Request) -> Command,
    /// What takes a device away, one after the other; forcibly or not. The last one's answer counts.
    pub(super) detach: fn(&Path, bool) -> Vec<Command>,
}

/// How long a program may take: the system looks for partitions and file systems, and reads them through us.
const WORK: Duration = Duration::from_secs(120);
/// How long a device that is busy is asked again to go: what looks at every new disk lets go of it soon.
const TIMEOUT: Duration = Duration::from_secs(8);

impl Apple {
    fn run(&self, command: &mut Command) -> Result<Vec<u8>, Error> {
        ask(command, WORK, &format!("{} is a part of macOS", self.name))
    }
}

impl Attacher for Apple {
    fn name(&self) -> &'static str {
        self.name
    }

    fn attach(&self, file: &Path, request: &Request) -> Result<PathBuf, Error> {
        // The file has only just come to be there: a device that shows this path shows what was there before.
        for stale in macos_output::devices(file)? {
            self.detach(&stale, file, true)?;
        }
        let said = self.run(&mut (self.attach)(file, request))?;
        // What shows the file is what counts; what the program says is believed where nothing else tells.
        let shown = macos_output::devices(file)?;
        let device = match macos_output::attached(&said) {
            Some(device) if shown.is_empty() || shown.contains(&device) => device,
            _ => shown.into_iter().next().ok_or_else(|| {
                let what = format!("{} attached it, but does not say as which device", self.name);
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
        // What is on the device is unmounted by whoever detaches it.
        Ok(Vec::new())
    }

    fn nodes(&self, device: &Path) -> Vec<PathBuf> {
        vec![device.to_owned()]
    }

    fn used_by(&self, _: &Path) -> Option<String> {
        // The refusal of the program tells.
        None
    }

    fn detach(&self, device: &Path, file: &Path, force: bool) -> Result<(), Error> {
        let start = Instant::now();
        let timeout = if force { TIMEOUT / 4 } else { TIMEOUT };
        // A number may be somebody else's by now: what does not show the file is left alone.
        let is_ours = || macos_output::devices(file).map(|all| all.iter().any(|d| d == device));
        while is_ours()? {
            let late = start.elapsed() > timeout;
            let mut answer = Ok(Vec::new());
            for mut command in (self.detach)(device, force && late) {
                answer = self.run(&mut command);
            }
            if !is_ours()? {
                break;
            }
            if late {
                let error = Error::new(Kind::Busy, "is in use and stays").at(device);
                let error = error.hint("close what uses it, or use --force: its reads then fail");
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
