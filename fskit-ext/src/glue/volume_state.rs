//! The state of a volume, and the operations that take more than a line.

use cdi_base::workers::lock;
use std::slice;
use std::sync::{Arc, Mutex};

use cdi_serve::tree::Id;
use objc2::rc::Retained;
use objc2_foundation::{NSData, NSError};
use objc2_fs_kit::{
    FSDirectoryCookie, FSDirectoryCookieInitial, FSDirectoryEntryPacker, FSDirectoryVerifier, FSErrorCode,
    FSFileName, FSItem, FSKitErrorDomain, FSMutableFileDataBuffer,
};

use super::attributes::{attributes, item_id, item_type};
use super::item::{Items, id_of};
use super::resource::Access;
use crate::directory::{self, Entry, NotListed};
use crate::errno::{Errno, Refused};
use crate::volume::Volume;

/// The state of a volume.
pub(super) struct VolumeState {
    /// `None` after the volume was deactivated: the file has to be closed then, because the extension may live on, and
    /// the disk that the image is on could not be ejected.
    open: Mutex<Option<Arc<Volume>>>,
    items: Items,
    /// Kept as long as the volume, although its file is open, because the image may have to open further files.
    access: Mutex<Access>,
}

const _: () = super::shared::<VolumeState>();

impl VolumeState {
    pub(super) fn new(volume: Volume, access: Access) -> VolumeState {
        let open = Mutex::new(Some(Arc::new(volume)));
        VolumeState { open, items: Items::new(), access: Mutex::new(access) }
    }

    /// Returns the volume, or ENODEV after it was deactivated.
    pub(super) fn volume(&self) -> Result<Arc<Volume>, Errno> {
        lock(&self.open).clone().ok_or(Errno::ENODEV)
    }

    /// Opens the image again if it was closed.
    pub(super) fn activate(&self) -> Result<(), Refused> {
        let mut open = lock(&self.open);
        if open.is_none() {
            let mut access = lock(&self.access);
            *access = access.again();
            let volume = Volume::open(&access.path()?)?;
            volume.start()?;
            *open = Some(Arc::new(volume));
        }
        Ok(())
    }

    /// Closes the image.
    pub(super) fn deactivate(&self) {
        let mut open = lock(&self.open);
        open.take();
        // While the lock on `open` is held, so that it cannot be opened again before.
        lock(&self.access).release();
    }

    pub(super) fn item(&self, id: Id) -> Retained<FSItem> {
        self.items.get(id)
    }

    /// Notes that FSKit does not use an item any more.
    pub(super) fn reclaim(&self, item: Option<&FSItem>) {
        if let Some(id) = id_of(item) {
            self.items.reclaim(id);
        }
    }

    /// Returns the item with this name, and the name.
    pub(super) fn found(
        &self,
        name: Option<&FSFileName>,
        dir: Option<&FSItem>,
    ) -> Result<(Retained<FSItem>, Retained<FSFileName>), Refused> {
        let name = name.ok_or(Errno::EINVAL)?;
        // SAFETY: the name is a valid object.
        let name = unsafe { name.data() }.to_vec();
        let id = self.volume()?.lookup(known(dir)?, &name)?;
        Ok((self.items.get(id), file_name(&name)))
    }

    /// Lists a directory and returns the verifier, or FSKit's own error for an invalid cookie, which has no POSIX
    /// number.
    pub(super) fn listed(
        &self,
        dir: Option<&FSItem>,
        cookie: FSDirectoryCookie,
        with_attributes: bool,
        packer: Option<&FSDirectoryEntryPacker>,
    ) -> Result<Result<FSDirectoryVerifier, Retained<NSError>>, Refused> {
        let packer = packer.ok_or(Errno::EINVAL)?;
        // SAFETY: a constant of FSKit, initialized before we run.
        let first = unsafe { FSDirectoryCookieInitial };
        let from = if cookie == first { directory::FIRST } else { cookie };
        let pack = |entry: &Entry<'_>| {
            let name = file_name(entry.name.as_bytes());
            let (kind, id) = (item_type(entry.kind), item_id(entry.id));
            let all = entry.attributes.as_ref().map(attributes);
            // SAFETY: the packer is valid until the reply, and copies its arguments.
            unsafe {
                packer.packEntryWithName_itemType_itemID_nextCookie_attributes(
                    &name,
                    kind,
                    id,
                    entry.next,
                    all.as_deref(),
                )
            }
        };
        match directory::list(&*self.volume()?, known(dir)?, from, with_attributes, pack) {
            Ok(verifier) => Ok(Ok(verifier)),
            // SAFETY: a constant of FSKit, likewise.
            Err(NotListed::Cookie) => {
                Ok(Err(unsafe { NSError::new(FSErrorCode::InvalidDirectoryCookie.0, FSKitErrorDomain) }))
            }
            Err(NotListed::Refused(refused)) => Err(refused),
        }
    }

    /// Reads into the buffer. Returns the number of bytes.
    pub(super) fn bytes(
        &self,
        item: Option<&FSItem>,
        offset: libc::off_t,
        length: usize,
        buffer: Option<&FSMutableFileDataBuffer>,
    ) -> Result<usize, Refused> {
        let buffer = buffer.ok_or(Errno::EINVAL)?;
        // SAFETY: returns a number.
        let room = unsafe { buffer.length() }.min(length);
        if room == 0 {
            return Ok(0);
        }
        // SAFETY: the buffer has at least `room` bytes, which only we write until the reply, and which were initialized
        // when they were mapped.
        let bytes = unsafe { slice::from_raw_parts_mut(buffer.mutableBytes().cast::<u8>().as_ptr(), room) };
        Ok(self.volume()?.read(known(item)?, offset, bytes)?)
    }
}

/// Returns the entry of an item, or ENOENT. FSKit passes no item if, for example, a rename does not replace one.
pub(super) fn known(item: Option<&FSItem>) -> Result<Id, Errno> {
    id_of(item).ok_or(Errno::ENOENT)
}

/// Converts a name to FSKit's type.
pub(super) fn file_name(bytes: &[u8]) -> Retained<FSFileName> {
    // SAFETY: valid data, which is copied.
    unsafe { FSFileName::nameWithData(&NSData::with_bytes(bytes)) }
}
