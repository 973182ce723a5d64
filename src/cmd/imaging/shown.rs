//! `create --mount`, `--attach`, `--nbd`: the disk is shown while it is imaged, and the image after that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cdi_base::advice::{Advice, Saved};
use cdi_base::error::{ErrnoStyle, Error};
use cdi_base::readable::Readable;
use cdi_base::units::SECTOR;
use cdi_base::workers::lock;
use cdi_capture::rescue::live::LiveDisk;
use cdi_image::cdimg::writer::Writer;
use cdi_serve::nbd;
use cdi_serve::served::Served;
use cdi_serve::transports::transport;
use serde_json::json;

use crate::attach;
use crate::cli::{Create, Rescue};
use crate::cmd::mount::{UNSEEN, Where};
use crate::cmd::serve::{Front, Socket, listen};
use crate::mount::daemon::{self, MountPlan};
use crate::mount::record::{MountRecord, exclusive};
use crate::ui::Ui;

/// Timeout for mounting and attaching.
const MOUNTING: Duration = Duration::from_secs(30);

/// How the disk is shown, before there is anything to show.
pub(super) struct Prepared {
    mount: Option<Mount>,
    nbd: Option<(nbd::Listener, String, Option<Socket>)>,
}

/// The mount point.
struct Mount {
    dir: PathBuf,
    created: bool,
    attach: bool,
    partscan: bool,
    files: bool,
    allow_other: bool,
}

/// Returns whether the disk is to be shown.
pub(super) fn is_wanted(rescue: &Rescue) -> bool {
    rescue.mount.is_some() || rescue.attach || rescue.nbd.is_some()
}

/// Prepares the mount point and the socket. Nothing else is changed.
pub(super) fn prepare(args: &Create) -> Result<Option<Prepared>, Error> {
    let rescue = &args.rescue;
    let mounts = rescue.mount.is_some() || rescue.attach;
    if !mounts && (rescue.files || rescue.allow_other) {
        return Err(Error::usage("--files and --allow-other are for --mount and --attach"));
    }
    if !is_wanted(rescue) {
        return Ok(None);
    }
    if rescue.attach {
        attach::ready(None)?;
    }
    let nbd = match &rescue.nbd {
        Some(at) => match listen(at, None)? {
            (Front::Nbd(listener), url, socket) => Some((listener, url, socket)),
            (Front::Nfs(..), ..) => None,
        },
        None => None,
    };
    let mount = mounts.then(|| {
        let place = rescue.mount.as_deref().map_or(Where::InRuntimeDir, Where::Given);
        let own_process = !transport(None)?.serves_itself();
        let (dir, created) = place.prepare(&future_path(&args.image)?, own_process, rescue.allow_other)?;
        let Rescue { attach, partscan, files, allow_other, .. } = *rescue;
        Ok::<_, Error>(Mount { dir, created, attach, partscan, files, allow_other })
    });
    Ok(Some(Prepared { mount: mount.transpose()?, nbd }))
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // It has not been mounted.
        if let Some(mount) = self.mount.as_ref().filter(|mount| mount.created) {
            let _ = fs::remove_dir(&mount.dir);
        }
    }
}

/// Returns the absolute path of a file that may not exist yet, without symbolic links.
fn future_path(image: &Path) -> Result<PathBuf, Error> {
    let failed = |e| Error::io("cannot resolve", image, e);
    if let Ok(path) = image.canonicalize() {
        return Ok(path);
    }
    let path = std::path::absolute(image).map_err(failed)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
    Ok(parent.canonicalize().map_err(failed)?.join(name))
}

/// The disk, shown by threads of this process.
pub(in crate::cmd) struct Shown {
    pub(super) live: Arc<LiveDisk>,
    /// The image's file.
    file: File,
    record: Arc<OnceLock<MountRecord>>,
    /// Why it could not be shown.
    failed: Arc<Mutex<Option<Error>>>,
    mount: Option<JoinHandle<()>>,
    /// The number of NBD clients, and the socket.
    clients: Option<(Arc<AtomicUsize>, Option<Socket>)>,
}

impl Shown {
    /// Shows the disk that `writer` is about to image. Returns at once: mounting needs the disk.
    pub(super) fn start(
        mut prepared: Prepared,
        writer: &mut Writer,
        file: &File,
        image: &Path,
        unit: u32,
        ui: &Ui,
    ) -> Result<Shown, Error> {
        let path = image.canonicalize().map_err(|e| Error::io("cannot resolve", image, e))?;
        let live = Arc::new(LiveDisk::new(writer, reader(file, image)?, &path, unit.into())?);
        if live.size() < u64::from(SECTOR) && prepared.mount.as_ref().is_some_and(|mount| mount.attach) {
            let what = "smaller than a sector: cannot be attached as a block device";
            return Err(Error::usage(what).at(image));
        }
        let file = *reader(file, image)?;
        let served = Served::Live(Arc::clone(&live) as _);
        let (record, failed) = (Arc::new(OnceLock::new()), Arc::new(Mutex::new(None)));
        let clients = match prepared.nbd.take() {
            Some((listener, url, socket)) => Some((serve(&served, listener, &url, ui)?, socket)),
            None => None,
        };
        let mount = match prepared.mount.take() {
            Some(mount) => Some(mount.start(served, &path, &record, &failed, ui)?),
            None => None,
        };
        Ok(Shown { live, file, record, failed, mount, clients })
    }

    /// Goes on with another run.
    pub(super) fn resume(&self, writer: &mut Writer, file: &File, image: &Path) -> Result<(), Error> {
        self.live.resume(writer, reader(file, image)?)
    }

    /// Fails if the disk could not be shown. The imaging ends then, before it has read much.
    pub(super) fn check(&self) -> Result<(), Error> {
        lock(&self.failed).take().map_or(Ok(()), Err)
    }

    /// Returns where the disk is mounted, or served.
    pub(super) fn place(&self) -> Option<String> {
        let record = self.record.get()?;
        Some(record.device.as_ref().unwrap_or(&record.mountpoint).display().to_string())
    }

    /// Waits until the disk is mounted, or cannot be: the imaging may have ended before that.
    pub(super) fn wait_for_mount(&self) -> Result<(), Error> {
        let start = Instant::now();
        let comes = |mount: &JoinHandle<()>| self.record.get().is_none() && !mount.is_finished();
        while self.mount.as_ref().is_some_and(comes) && start.elapsed() < MOUNTING {
            thread::sleep(Duration::from_millis(10));
        }
        self.check()
    }

    /// Shows the image from now on; `stays`: until the user ends that.
    pub(super) fn finish(&self, stays: bool, ui: &Ui) {
        let file = self
            .file
            .try_clone()
            .map_err(|e| Error::failed("cannot duplicate the file descriptor").because(e));
        if let Err(e) = file.and_then(|file| self.live.finish(Box::new(file))) {
            ui.warning(format!("what is shown is the image as it was at the end, not read back: {e}"));
        }
        if let Some(record) = self.record.get() {
            daemon::imaging_ended(record);
            if stays && self.mount.as_ref().is_some_and(|mount| !mount.is_finished()) {
                ui.message(format!(
                    "{} stays mounted: 'cdi detach {0}' ends that",
                    record.mountpoint.display()
                ));
            }
        }
    }

    /// Waits until nobody uses the disk any more: until it is unmounted, and the last client has disconnected.
    pub(in crate::cmd) fn wait(self) {
        if let Some(mount) = self.mount {
            let _ = mount.join();
        }
        if let Some((clients, _socket)) = self.clients {
            while clients.load(Ordering::Relaxed) > 0 {
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Returns the image's file for reading: the writer has it locked.
fn reader(file: &File, image: &Path) -> Result<Box<File>, Error> {
    let copy = file.try_clone();
    copy.map(Box::new).map_err(|e| Error::io("cannot duplicate the file descriptor", image, e))
}

/// Serves the disk over NBD. Returns the number of clients, as it changes.
fn serve(served: &Served, listener: nbd::Listener, url: &str, ui: &Ui) -> Result<Arc<AtomicUsize>, Error> {
    let clients = Arc::new(AtomicUsize::new(0));
    let (counted, served) = (Arc::clone(&clients), served.clone());
    cdi_base::workers::spawn("listener", move || {
        if let Err(e) = nbd::serve(&served, &listener, &counted) {
            log::error!("cannot accept connections: {e}");
        }
    })?;
    if !ui.event(&json!({ "event": "serving", "url": url })) {
        ui.exact(url);
    }
    Ok(clients)
}

impl Mount {
    /// Mounts the disk on a thread of its own, which ends when it is no longer mounted.
    fn start(
        self,
        disk: Served,
        image: &Path,
        record: &Arc<OnceLock<MountRecord>>,
        failed: &Arc<Mutex<Option<Error>>>,
        ui: &Ui,
    ) -> Result<JoinHandle<()>, Error> {
        let request = self.attach.then(|| attach::Request {
            size: disk.size(),
            sector: attach::sector_size(disk.size(), disk.sector()),
            failing: true,
            partitions: self.partscan,
            readahead: None,
            mount: false,
        });
        let shown = disk.clone();
        let plan = MountPlan {
            disk,
            image: image.to_owned(),
            dir: self.dir,
            created_dir: self.created,
            bad: "error".into(),
            errno: ErrnoStyle::Io,
            allow_other: self.allow_other,
            files: self.files,
            desktop: UNSEEN,
            via: None,
            device: request,
            with: None,
            exec: false,
            exclusive: exclusive()?,
        };
        let (record, failed, ui) = (Arc::clone(record), Arc::clone(failed), *ui);
        let work = move || match daemon::start(plan) {
            Ok(up) => {
                let _ = record.set(up.record.clone());
                if !shown.is_live() {
                    daemon::imaging_ended(&up.record);
                }
                print(&up.record, &ui);
                if let Err(e) = up.serve() {
                    log::error!("{e}");
                }
            }
            Err(e) => *lock(&failed) = Some(e.then(Advice::Resume(Saved::All))),
        };
        thread::Builder::new()
            .name("mount".into())
            .spawn(work)
            .map_err(|e| Error::failed("cannot start threads").because(e))
    }
}

fn print(record: &MountRecord, ui: &Ui) {
    let device = record.device.as_ref().map(|device| device.display().to_string());
    let mountpoint = record.mountpoint.display().to_string();
    if ui.event(&json!({ "event": "mounted", "mountpoint": mountpoint, "device": device })) {
        return;
    }
    ui.message(format!("the disk is mounted at {mountpoint} while it is imaged"));
    if let Some(device) = device {
        ui.data(device);
    }
}
