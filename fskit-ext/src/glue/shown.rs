//! What a volume holds, and the questions whose answers take more than a line.

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

/// What a volume holds.
pub(super) struct Shown {
    /// Nothing once the volume is deactivated: the file has to be closed then, for the extension may go on to live, and
    /// the disk that the image is on could not be ejected.
    open: Mutex<Option<Arc<Volume>>>,
    items: Items,
    /// Held as long as the volume, though its file is open: what an image may still have to open is not known here.
    access: Mutex<Access>,
}

const _: () = super::shared::<Shown>();

impl Shown {
    pub(super) fn new(volume: Volume, access: Access) -> Shown {
        let open = Mutex::new(Some(Arc::new(volume)));
        Shown { open, items: Items::new(), access: Mutex::new(access) }
    }

    /// The volume; ENODEV once it is deactivated.
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
        // Before anybody can open it again.
        lock(&self.access).give_back();
    }

    pub(super) fn item(&self, id: Id) -> Retained<FSItem> {
        self.items.get(id)
    }

    /// The item of that name, and the name.
    pub(super) fn found(
        &self,
        name: Option<&FSFileName>,
        folder: Option<&FSItem>,
    ) -> Result<(Retained<FSItem>, Retained<FSFileName>), Refused> {
        let name = name.ok_or(Errno::EINVAL)?;
        // SAFETY: every name has bytes.
        let name = unsafe { name.data() }.to_vec();
        let (id, name) = self.volume()?.lookup(known(folder)?, &name)?;
        Ok((self.items.get(id), file_name(name.as_bytes())))
    }

    /// The verifier; or FSKit's own error for a cookie that is none of ours, which has no number in POSIX.
    pub(super) fn listed(
        &self,
        folder: Option<&FSItem>,
        cookie: FSDirectoryCookie,
        with_attributes: bool,
        packer: Option<&FSDirectoryEntryPacker>,
    ) -> Result<Result<FSDirectoryVerifier, Retained<NSError>>, Refused> {
        let packer = packer.ok_or(Errno::EINVAL)?;
        // SAFETY: a constant of FSKit, there from before we run.
        let first = unsafe { FSDirectoryCookieInitial };
        let from = if cookie == first { directory::FIRST } else { cookie };
        let pack = |entry: &Entry| {
            let name = file_name(entry.name.as_bytes());
            let (kind, id) = (item_type(entry.kind), item_id(entry.id));
            let all = entry.attributes.as_ref().map(attributes);
            // SAFETY: the packer is valid until the reply, and copies what it is given.
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
        match directory::list(&*self.volume()?, known(folder)?, from, with_attributes, pack) {
            Ok(verifier) => Ok(Ok(verifier)),
            // SAFETY: a constant of FSKit, likewise.
            Err(NotListed::Cookie) => {
                Ok(Err(unsafe { NSError::new(FSErrorCode::InvalidDirectoryCookie.0, FSKitErrorDomain) }))
            }
            Err(NotListed::Refused(refused)) => Err(refused),
        }
    }

    /// Reads into the buffer: how many bytes.
    pub(super) fn bytes(
        &self,
        item: Option<&FSItem>,
        offset: libc::off_t,
        length: usize,
        buffer: Option<&FSMutableFileDataBuffer>,
    ) -> Result<usize, Refused> {
        let buffer = buffer.ok_or(Errno::EINVAL)?;
        // SAFETY: asks for a number.
        let room = unsafe { buffer.length() }.min(length);
        if room == 0 {
            return Ok(0);
        }
        // SAFETY: the buffer has at least `room` bytes, which are ours alone to write until the reply, and which were
        // set to something when they were mapped.
        let bytes = unsafe { slice::from_raw_parts_mut(buffer.mutableBytes().cast::<u8>().as_ptr(), room) };
        Ok(self.volume()?.read(known(item)?, offset, bytes)?)
    }
}

/// The entry that an item stands for. FSKit asks about no item at all when, say, nothing is there to be renamed over.
pub(super) fn known(item: Option<&FSItem>) -> Result<Id, Errno> {
    id_of(item).ok_or(Errno::ENOENT)
}

/// A name as FSKit has it.
pub(super) fn file_name(bytes: &[u8]) -> Retained<FSFileName> {
    // SAFETY: whole data, which is copied.
    unsafe { FSFileName::nameWithData(&NSData::with_bytes(bytes)) }
}
