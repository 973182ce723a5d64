//! UUIDs, as Foundation has them.

use objc2::AnyThread;
use objc2::rc::Retained;
use objc2_foundation::{NSString, NSUUID};

use crate::errno::{Errno, Refused};
use crate::identity::Uuid;

/// Converts a UUID to Foundation's type, through its text, because the byte types of Foundation differ between
/// versions.
pub(super) fn ns_uuid(uuid: Uuid) -> Result<Retained<NSUUID>, Refused> {
    let text = NSString::from_str(&uuid.to_string());
    NSUUID::initWithUUIDString(NSUUID::alloc(), &text).ok_or_else(|| Errno::EIO.into())
}
