//! `FSItemAttributes`, with the times, which objc2-fs-kit omits.

use std::time::Duration;

use cdi_serve::tree::{EntryKind, Id};
use objc2::encode::{Encode, Encoding};
use objc2::msg_send;
use objc2::rc::Retained;
use objc2_fs_kit::{FSItemAttributes, FSItemID, FSItemType};

use crate::volume::{Attributes, file_id};

/// C's `struct timespec`, as it is on macOS on every processor.
#[derive(Clone, Copy)]
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

// SAFETY: this is the Objective-C type encoding of that struct, which has two members of type `long`.
unsafe impl Encode for Timespec {
    const ENCODING: Encoding = Encoding::Struct("timespec", &[i64::ENCODING, i64::ENCODING]);
}

fn timespec(since_1970: Duration) -> Timespec {
    Timespec {
        seconds: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since_1970.subsec_nanos().into(),
    }
}

/// Returns the type of an item.
pub(super) fn item_type(kind: EntryKind) -> FSItemType {
    match kind {
        EntryKind::Directory => FSItemType::Directory,
        EntryKind::File(_) => FSItemType::File,
        EntryKind::Link(_) => FSItemType::Symlink,
    }
}

/// Returns the number of an item.
pub(super) fn item_id(id: Id) -> FSItemID {
    FSItemID(file_id(id))
}

/// Returns all attributes of an item, even those that were not requested: extra ones do no harm, but a missing one
/// does.
pub(super) fn attributes(of: &Attributes) -> Retained<FSItemAttributes> {
    let (time, changed) = (timespec(of.time), timespec(of.changed));
    // SAFETY: a new object that is not shared yet; the setters accept any value, and the four that are called by name
    // take a timespec (FSItem.h).
    unsafe {
        let all = FSItemAttributes::new();
        all.setType(item_type(of.kind));
        all.setMode(of.mode);
        all.setLinkCount(of.link_count);
        all.setUid(of.uid);
        all.setGid(of.gid);
        all.setFlags(of.flags);
        all.setSize(of.size);
        all.setAllocSize(of.alloc_size);
        all.setFileID(FSItemID(of.file_id));
        all.setParentID(FSItemID(of.parent_id));
        let () = msg_send![&*all, setAccessTime: time];
        let () = msg_send![&*all, setModifyTime: time];
        let () = msg_send![&*all, setChangeTime: changed];
        let () = msg_send![&*all, setBirthTime: time];
        all
    }
}
