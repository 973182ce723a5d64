//! `FSUnaryFileSystem`: opens an image file as a volume. There is one object, and one process, for each mounted image.

use std::ptr::null_mut;
use std::sync::Mutex;

use block2::DynBlock;
use cdi_base::workers::lock;
use objc2::rc::{Allocated, Retained};
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSError, NSObjectProtocol, NSString};
use objc2_fs_kit::{
    FSContainerIdentifier, FSContainerStatus, FSFileSystemBase, FSProbeResult, FSResource, FSTaskOptions,
    FSUnaryFileSystem, FSUnaryFileSystemOperations, FSVolume,
};

use super::answer::{answer, error, lent, lent_error};
use super::resource::Access;
use super::uuid::ns_uuid;
use super::volume::MountedVolume;
use crate::errno::{Errno, Refused};
use crate::volume::Volume;

/// The volume while it is loaded. This reference keeps it alive whatever FSKit does with its own.
pub(super) struct Loaded(Mutex<Option<Retained<MountedVolume>>>);

// SAFETY: the state of a volume may be used from every thread (`VolumeState`), reference counting is atomic as for
// every object, and FSKit itself passes volumes between threads.
unsafe impl Send for Loaded {}
// SAFETY: likewise; the volume is behind a lock.
unsafe impl Sync for Loaded {}

impl Loaded {
    fn set(&self, volume: Option<Retained<MountedVolume>>) {
        *lock(&self.0) = volume;
    }
}

const _: () = super::shared::<Loaded>();

define_class!(
    // SAFETY: FSUnaryFileSystem is meant to be subclassed, its initializer is called by ours, and there is no `Drop`.
    #[unsafe(super(FSUnaryFileSystem))]
    // EXExtensionPrincipalClass in Info.plist.
    #[name = "CDIFileSystem"]
    #[ivars = Loaded]
    pub(super) struct FileSystem;

    impl FileSystem {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            let this = this.set_ivars(Loaded(Mutex::new(None)));
            // SAFETY: the initializer of FSUnaryFileSystem; the instance variables are set.
            unsafe { msg_send![super(this), init] }
        }
    }

    // SAFETY: a subclass of an NSObject is one.
    unsafe impl NSObjectProtocol for FileSystem {}

    // SAFETY: all required methods are implemented, with the types of FSUnaryFileSystem.h; each replies once.
    unsafe impl FSUnaryFileSystemOperations for FileSystem {
        #[unsafe(method(probeResource:replyHandler:))]
        fn probe(&self, resource: Option<&FSResource>, reply: &DynBlock<dyn Fn(*mut FSProbeResult, *mut NSError)>) {
            answer("probe", || probed(resource), |result| {
                reply.call((result.as_ref().map_or(null_mut(), lent), lent_error(&result)));
            });
        }

        #[unsafe(method(loadResource:options:replyHandler:))]
        fn load(
            &self,
            resource: Option<&FSResource>,
            _options: Option<&FSTaskOptions>,
            reply: &DynBlock<dyn Fn(*mut FSVolume, *mut NSError)>,
        ) {
            // Every error of an image must be found here: FSKit cleans up after a failed load, but a volume that fails
            // when it is activated leaves its file busy.
            answer("load", || self.loaded(resource), |result| {
                reply.call((result.as_ref().map_or(null_mut(), lent), lent_error(&result)));
            });
        }

        #[unsafe(method(unloadResource:options:replyHandler:))]
        fn unload(
            &self,
            _resource: Option<&FSResource>,
            _options: Option<&FSTaskOptions>,
            reply: &DynBlock<dyn Fn(*mut NSError)>,
        ) {
            answer("unload", || self.unloaded(), |result| reply.call((lent_error(&result),)));
        }

        #[unsafe(method(didFinishLoading))]
        fn did_finish_loading(&self) {}
    }
);

impl FileSystem {
    fn loaded(&self, resource: Option<&FSResource>) -> Result<Retained<FSVolume>, Refused> {
        let access = Access::to(resource)?;
        let path = access.path()?;
        let volume = Volume::open(&path)?;
        volume.start()?;
        log::info!("{}: loaded as volume {}", path.display(), volume.uuid());
        let mounted = MountedVolume::new(volume, access)?;
        self.ivars().set(Some(mounted.clone()));
        // SAFETY: a status that FSKit created.
        unsafe { self.setContainerStatus(&FSContainerStatus::ready()) };
        Ok(mounted.into_super())
    }

    fn unloaded(&self) -> Result<(), Refused> {
        self.ivars().set(None);
        // SAFETY: likewise; FSKit copies the error.
        unsafe {
            let gone = error(&Errno::ENODEV.into());
            self.setContainerStatus(&FSContainerStatus::notReadyWithStatus(&gone));
        }
        Ok(())
    }
}

/// Probes a file for FSKit before it is loaded: an image that can be opened is usable, a file that is not an image is
/// not recognized.
fn probed(resource: Option<&FSResource>) -> Result<Retained<FSProbeResult>, Refused> {
    let access = Access::to(resource)?;
    let volume = match Volume::open(&access.path()?) {
        Ok(volume) => volume,
        Err(refused) if refused.errno == Errno::EFTYPE => {
            log::info!("{refused}");
            // SAFETY: has no arguments.
            return Ok(unsafe { FSProbeResult::notRecognizedProbeResult() });
        }
        // The probing process is not the one that will mount the image, and may have fewer permissions. If it cannot be
        // opened here, loading will show whether it can be mounted.
        Err(refused) if refused.is_for_rights() => {
            log::info!("{refused}");
            // SAFETY: likewise.
            return Ok(unsafe { FSProbeResult::usableButLimitedProbeResult() });
        }
        Err(refused) => return Err(refused),
    };
    let uuid = ns_uuid(volume.uuid())?;
    // SAFETY: a valid UUID and a valid name, both copied.
    Ok(unsafe {
        let container = FSContainerIdentifier::initWithUUID(FSContainerIdentifier::alloc(), &uuid);
        FSProbeResult::usableProbeResultWithName_containerID(&NSString::from_str(volume.name()), &container)
    })
}
