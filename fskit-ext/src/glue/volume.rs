//! `FSVolume`: the operations of a mounted image.
//!
//! One file: it is a single Objective-C class.

use std::ptr::null_mut;

use block2::DynBlock;
use cdi_serve::tree::ROOT;
use objc2::rc::Retained;
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSArray, NSData, NSError, NSObjectProtocol, NSString};
use objc2_fs_kit::*;

use super::answer::{answer, guarded, lent, lent_error};
use super::attributes::attributes;
use super::resource::Access;
use super::uuid::ns_uuid;
use super::volume_state::{VolumeState, file_name, known};
use crate::errno::{Errno, Refused};
use crate::volume::{BLOCK, IO_SIZE, MAX_LINKS, MAX_NAME, Statistics, TYPE_NAME, Volume};

define_class!(
    // SAFETY: FSVolume is meant to be subclassed, its designated initializer is called by `new`, and there is no
    // `Drop`.
    #[unsafe(super(FSVolume))]
    #[name = "CDIVolume"]
    #[ivars = VolumeState]
    pub(super) struct MountedVolume;

    impl MountedVolume {
        /// Returns FSMountOptionsReadOnly. Called since macOS 26.4, and missing in the headers of the bindings.
        #[unsafe(method(requestedMountOptions))]
        fn requested_mount_options(&self) -> usize {
            1
        }
    }

    // SAFETY: a subclass of an NSObject is one.
    unsafe impl NSObjectProtocol for MountedVolume {}

    // SAFETY: all required methods are implemented, and one of each pair of alternatives, with the types of FSVolume.h.
    unsafe impl FSVolumePathConfOperations for MountedVolume {
        #[unsafe(method(maximumLinkCount))]
        fn maximum_link_count(&self) -> isize {
            MAX_LINKS as isize
        }

        #[unsafe(method(maximumNameLength))]
        fn maximum_name_length(&self) -> isize {
            MAX_NAME as isize
        }

        #[unsafe(method(restrictsOwnershipChanges))]
        fn restricts_ownership_changes(&self) -> bool {
            true
        }

        #[unsafe(method(truncatesLongNames))]
        fn truncates_long_names(&self) -> bool {
            false
        }

        #[unsafe(method(maximumXattrSize))]
        fn maximum_xattr_size(&self) -> isize {
            0
        }

        // Sizes are signed: files of up to 2^63 - 1 bytes.
        #[unsafe(method(maximumFileSizeInBits))]
        fn maximum_file_size_in_bits(&self) -> isize {
            64
        }
    }

    // SAFETY: all required methods are implemented, with the types of FSVolume.h; each calls its reply block once.
    unsafe impl FSVolumeOperations for MountedVolume {
        #[unsafe(method_id(supportedVolumeCapabilities))]
        fn capabilities(&self) -> Retained<FSVolumeSupportedCapabilities> {
            // SAFETY: a new object that is not shared yet; the setters accept any value.
            unsafe {
                let all = FSVolumeSupportedCapabilities::new();
                all.setSupportsPersistentObjectIDs(true);
                all.setSupports64BitObjectIDs(true);
                all.setSupportsSymbolicLinks(true);
                all.setSupportsHardLinks(true);
                all.setSupports2TBFiles(true);
                all.setSupportsFastStatFS(true);
                all.setDoesNotSupportImmutableFiles(true);
                all.setDoesNotSupportSettingFilePermissions(true);
                all.setCaseFormat(FSVolumeCaseFormat::Sensitive);
                all
            }
        }

        #[unsafe(method_id(volumeStatistics))]
        fn statistics(&self) -> Retained<FSStatFSResult> {
            let nothing = Statistics { blocks: 0, files: 0 };
            let counts = guarded("statistics", || Ok(self.ivars().volume()?.statistics())).unwrap_or(nothing);
            let name = NSString::from_str(TYPE_NAME);
            // SAFETY: a new object that is not shared yet; the setters accept any value.
            unsafe {
                let all = FSStatFSResult::initWithFileSystemTypeName(FSStatFSResult::alloc(), &name);
                all.setBlockSize(BLOCK as isize);
                all.setIoSize(IO_SIZE as isize);
                // The headers do not say whether bytes are derived from blocks, so both are set.
                let bytes = counts.blocks.saturating_mul(BLOCK.into());
                all.setTotalBlocks(counts.blocks);
                all.setTotalBytes(bytes);
                all.setUsedBlocks(counts.blocks);
                all.setUsedBytes(bytes);
                all.setFreeBlocks(0);
                all.setFreeBytes(0);
                all.setAvailableBlocks(0);
                all.setAvailableBytes(0);
                all.setTotalFiles(counts.files);
                all.setFreeFiles(0);
                all
            }
        }

        #[unsafe(method(activateWithOptions:replyHandler:))]
        fn activate(&self, _: Option<&FSTaskOptions>, reply: &DynBlock<dyn Fn(*mut FSItem, *mut NSError)>) {
            answer(
                "activate",
                || self.ivars().activate().map(|()| self.ivars().item(ROOT)),
                |root| {
                    reply.call((root.as_ref().map_or(null_mut(), lent), lent_error(&root)));
                },
            );
        }

        #[unsafe(method(deactivateWithOptions:replyHandler:))]
        fn deactivate(&self, _: FSDeactivateOptions, reply: &DynBlock<dyn Fn(*mut NSError)>) {
            // Often the last call to the volume.
            answer(
                "deactivate",
                || {
                    self.ivars().deactivate();
                    Ok(())
                },
                |result| reply.call((lent_error(&result),)),
            );
        }

        #[unsafe(method(mountWithOptions:replyHandler:))]
        fn mount(&self, _: Option<&FSTaskOptions>, reply: &DynBlock<dyn Fn(*mut NSError)>) {
            reply.call((null_mut(),));
        }

        #[unsafe(method(unmountWithReplyHandler:))]
        fn unmount(&self, reply: &DynBlock<dyn Fn()>) {
            reply.call(());
        }

        #[unsafe(method(synchronizeWithFlags:replyHandler:))]
        fn synchronize(&self, _: FSSyncFlags, reply: &DynBlock<dyn Fn(*mut NSError)>) {
            reply.call((null_mut(),));
        }

        #[unsafe(method(getAttributes:ofItem:replyHandler:))]
        fn get_attributes(
            &self,
            _: Option<&FSItemGetAttributesRequest>,
            item: Option<&FSItem>,
            reply: &DynBlock<dyn Fn(*mut FSItemAttributes, *mut NSError)>,
        ) {
            answer(
                "attributes",
                || Ok(attributes(&self.ivars().volume()?.attributes(known(item)?)?)),
                |result| {
                    reply.call((result.as_ref().map_or(null_mut(), lent), lent_error(&result)));
                },
            );
        }

        #[unsafe(method(lookupItemNamed:inDirectory:replyHandler:))]
        fn lookup(
            &self,
            name: Option<&FSFileName>,
            dir: Option<&FSItem>,
            reply: &DynBlock<dyn Fn(*mut FSItem, *mut FSFileName, *mut NSError)>,
        ) {
            answer(
                "lookup",
                || self.ivars().found(name, dir),
                |result| {
                    let (item, name) =
                        result.as_ref().map_or((null_mut(), null_mut()), |(i, n)| (lent(i), lent(n)));
                    reply.call((item, name, lent_error(&result)));
                },
            );
        }

        #[unsafe(method(reclaimItem:replyHandler:))]
        fn reclaim(&self, item: Option<&FSItem>, reply: &DynBlock<dyn Fn(*mut NSError)>) {
            self.ivars().reclaim(item);
            reply.call((null_mut(),));
        }

        #[unsafe(method(readSymbolicLink:replyHandler:))]
        fn read_link(&self, item: Option<&FSItem>, reply: &DynBlock<dyn Fn(*mut FSFileName, *mut NSError)>) {
            answer(
                "link",
                || Ok(file_name(&self.ivars().volume()?.link(known(item)?)?)),
                |result| {
                    reply.call((result.as_ref().map_or(null_mut(), lent), lent_error(&result)));
                },
            );
        }

        #[unsafe(method(enumerateDirectory:startingAtCookie:verifier:providingAttributes:usingPacker:replyHandler:))]
        fn enumerate(
            &self,
            dir: Option<&FSItem>,
            cookie: FSDirectoryCookie,
            _verifier: FSDirectoryVerifier,
            wanted: Option<&FSItemGetAttributesRequest>,
            packer: Option<&FSDirectoryEntryPacker>,
            reply: &DynBlock<dyn Fn(FSDirectoryVerifier, *mut NSError)>,
        ) {
            answer(
                "list",
                || self.ivars().listed(dir, cookie, wanted.is_some(), packer),
                |result| match result {
                    Ok(Ok(verifier)) => reply.call((verifier, null_mut())),
                    Ok(Err(bad_cookie)) => reply.call((0, lent(&bad_cookie))),
                    Err(error) => reply.call((0, lent(&error))),
                },
            );
        }

        #[unsafe(method(setAttributes:onItem:replyHandler:))]
        fn set_attributes(
            &self,
            _: Option<&FSItemSetAttributesRequest>,
            _item: Option<&FSItem>,
            reply: &DynBlock<dyn Fn(*mut FSItemAttributes, *mut NSError)>,
        ) {
            refused("set attributes", |error| reply.call((null_mut(), error)));
        }

        #[unsafe(method(createItemNamed:type:inDirectory:attributes:replyHandler:))]
        fn create(
            &self,
            _: Option<&FSFileName>,
            _type: FSItemType,
            _dir: Option<&FSItem>,
            _attributes: Option<&FSItemSetAttributesRequest>,
            reply: &DynBlock<dyn Fn(*mut FSItem, *mut FSFileName, *mut NSError)>,
        ) {
            refused("create", |error| reply.call((null_mut(), null_mut(), error)));
        }

        #[unsafe(method(createSymbolicLinkNamed:inDirectory:attributes:linkContents:replyHandler:))]
        fn create_symbolic_link(
            &self,
            _: Option<&FSFileName>,
            _dir: Option<&FSItem>,
            _attributes: Option<&FSItemSetAttributesRequest>,
            _contents: Option<&FSFileName>,
            reply: &DynBlock<dyn Fn(*mut FSItem, *mut FSFileName, *mut NSError)>,
        ) {
            refused("create a link", |error| reply.call((null_mut(), null_mut(), error)));
        }

        #[unsafe(method(createLinkToItem:named:inDirectory:replyHandler:))]
        fn create_link(
            &self,
            _: Option<&FSItem>,
            _name: Option<&FSFileName>,
            _dir: Option<&FSItem>,
            reply: &DynBlock<dyn Fn(*mut FSFileName, *mut NSError)>,
        ) {
            refused("link", |error| reply.call((null_mut(), error)));
        }

        #[unsafe(method(removeItem:named:fromDirectory:replyHandler:))]
        fn remove(
            &self,
            _: Option<&FSItem>,
            _name: Option<&FSFileName>,
            _dir: Option<&FSItem>,
            reply: &DynBlock<dyn Fn(*mut NSError)>,
        ) {
            refused("remove", |error| reply.call((error,)));
        }

        #[unsafe(method(renameItem:inDirectory:named:toNewName:inDirectory:overItem:replyHandler:))]
        fn rename(
            &self,
            _: Option<&FSItem>,
            _from: Option<&FSItem>,
            _name: Option<&FSFileName>,
            _new_name: Option<&FSFileName>,
            _to: Option<&FSItem>,
            _over: Option<&FSItem>,
            reply: &DynBlock<dyn Fn(*mut FSFileName, *mut NSError)>,
        ) {
            refused("rename", |error| reply.call((null_mut(), error)));
        }
    }

    // SAFETY: both methods are implemented, with the types of FSVolume.h; each replies once.
    unsafe impl FSVolumeReadWriteOperations for MountedVolume {
        #[unsafe(method(readFromFile:offset:length:intoBuffer:replyHandler:))]
        fn read(
            &self,
            item: Option<&FSItem>,
            offset: libc::off_t,
            length: usize,
            buffer: Option<&FSMutableFileDataBuffer>,
            reply: &DynBlock<dyn Fn(usize, *mut NSError)>,
        ) {
            answer(
                "read",
                || self.ivars().bytes(item, offset, length, buffer),
                |result| {
                    // All bytes or an error: no bytes before the error count as read.
                    reply.call((*result.as_ref().unwrap_or(&0), lent_error(&result)));
                },
            );
        }

        #[unsafe(method(writeContents:toFile:atOffset:replyHandler:))]
        fn write(
            &self,
            _: Option<&NSData>,
            _item: Option<&FSItem>,
            _offset: libc::off_t,
            reply: &DynBlock<dyn Fn(usize, *mut NSError)>,
        ) {
            refused("write", |error| reply.call((0, error)));
        }
    }

    // SAFETY: both required methods are implemented, with the types of FSVolume.h; each replies once.
    unsafe impl FSVolumeOpenCloseOperations for MountedVolume {
        #[unsafe(method(openItem:withModes:replyHandler:))]
        fn open(
            &self,
            item: Option<&FSItem>,
            modes: FSVolumeOpenModes,
            reply: &DynBlock<dyn Fn(*mut NSError)>,
        ) {
            let to_write = modes.contains(FSVolumeOpenModes::Write);
            answer(
                "open",
                || Ok(self.ivars().volume()?.open_item(known(item)?, to_write)?),
                |result| {
                    reply.call((lent_error(&result),));
                },
            );
        }

        #[unsafe(method(closeItem:keepingModes:replyHandler:))]
        fn close(
            &self,
            _: Option<&FSItem>,
            _modes: FSVolumeOpenModes,
            reply: &DynBlock<dyn Fn(*mut NSError)>,
        ) {
            reply.call((null_mut(),));
        }
    }

    // SAFETY: all required methods are implemented, with the types of FSVolume.h; each replies once.
    unsafe impl FSVolumeXattrOperations for MountedVolume {
        #[unsafe(method(getXattrNamed:ofItem:replyHandler:))]
        fn get_xattr(
            &self,
            _: Option<&FSFileName>,
            _item: Option<&FSItem>,
            reply: &DynBlock<dyn Fn(*mut NSData, *mut NSError)>,
        ) {
            // Without this, macOS would look for them in files called ._*.
            answer(
                "xattr",
                || Err::<(), _>(Errno::ENOATTR.into()),
                |result| {
                    reply.call((null_mut(), lent_error(&result)));
                },
            );
        }

        #[unsafe(method(setXattrNamed:toData:onItem:policy:replyHandler:))]
        fn set_xattr(
            &self,
            _: Option<&FSFileName>,
            _value: Option<&NSData>,
            _item: Option<&FSItem>,
            _policy: FSSetXattrPolicy,
            reply: &DynBlock<dyn Fn(*mut NSError)>,
        ) {
            refused("set xattr", |error| reply.call((error,)));
        }

        #[unsafe(method(listXattrsOfItem:replyHandler:))]
        fn list_xattrs(
            &self,
            _: Option<&FSItem>,
            reply: &DynBlock<dyn Fn(*mut NSArray<FSFileName>, *mut NSError)>,
        ) {
            answer(
                "xattrs",
                || Ok(NSArray::<FSFileName>::new()),
                |result| {
                    reply.call((result.as_ref().map_or(null_mut(), lent), lent_error(&result)));
                },
            );
        }
    }
);

impl MountedVolume {
    /// Creates a volume for `volume`, whose files are read with the permission of `access`.
    pub(super) fn new(volume: Volume, access: Access) -> Result<Retained<MountedVolume>, Refused> {
        let uuid = ns_uuid(volume.uuid())?;
        let name = file_name(volume.name().as_bytes());
        let state = VolumeState::new(volume, access);
        let this = MountedVolume::alloc().set_ivars(state);
        // SAFETY: FSVolume's designated initializer, with an identifier and a name; the instance variables are set.
        Ok(unsafe {
            let id = FSVolumeIdentifier::initWithUUID(FSVolumeIdentifier::alloc(), &uuid);
            msg_send![super(this), initWithVolumeID: &*id, volumeName: &*name]
        })
    }
}

/// Answers every operation that would change something with EROFS.
fn refused(what: &str, reply: impl FnOnce(*mut NSError)) {
    answer(what, || Err::<(), _>(Errno::EROFS.into()), |result| reply(lent_error(&result)));
}
