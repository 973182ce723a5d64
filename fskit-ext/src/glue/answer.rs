//! What an answer is made of: errors as FSKit knows them, and no panic that gets out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use objc2::Message;
use objc2::rc::Retained;
use objc2::runtime::AnyObject;
use objc2_foundation::{
    NSDictionary, NSError, NSErrorUserInfoKey, NSLocalizedDescriptionKey, NSPOSIXErrorDomain, NSString,
};
use objc2_fs_kit::fs_errorForPOSIXError;

use crate::errno::{Errno, Refused};

/// Does `work`, and hands what came of it to `reply`, which calls FSKit's block.
///
/// A panic in `work` is a bug in cdi and becomes EIO. One in `reply` leaves the question without an answer, and FSKit
/// would wait for ever: better that the process ends, which it notices.
pub(super) fn answer<T>(
    what: &str,
    work: impl FnOnce() -> Result<T, Refused>,
    reply: impl FnOnce(Result<T, Retained<NSError>>),
) {
    let result = guarded(what, work);
    let replied = catch_unwind(AssertUnwindSafe(|| reply(result.map_err(|refused| error(&refused)))));
    if replied.is_err() {
        std::process::abort();
    }
}

/// Does `work`. A panic becomes EIO.
pub(super) fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, Refused>) -> Result<T, Refused> {
    let result = catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Refused { errno: Errno::EIO, why: Some("a panic: a bug in cdi".into()) }));
    // A number alone is an everyday answer; what has words is worth a line in the log.
    if let Err(refused @ Refused { why: Some(_), .. }) = &result {
        log::error!("{what}: {refused}");
    }
    result
}

/// An error as FSKit passes it on: the number for the caller, the words for whoever shows them.
pub(super) fn error(refused: &Refused) -> Retained<NSError> {
    let Some(why) = &refused.why else {
        // SAFETY: any number may be asked for.
        return unsafe { fs_errorForPOSIXError(refused.errno.0) };
    };
    let why = NSString::from_str(why);
    // SAFETY: a constant of Foundation, there from before we run.
    let key: &NSErrorUserInfoKey = unsafe { NSLocalizedDescriptionKey };
    let words: &AnyObject = &why;
    let info = NSDictionary::from_slices(&[key], &[words]);
    // SAFETY: a constant of Foundation, likewise.
    let domain = unsafe { NSPOSIXErrorDomain };
    // SAFETY: under this key there has to be a string, and there is.
    unsafe { NSError::errorWithDomain_code_userInfo(domain, refused.errno.0 as isize, Some(&info)) }
}

/// An object as a block takes it. The object must live until the block was called.
pub(super) fn lent<T: Message>(object: &Retained<T>) -> *mut T {
    Retained::as_ptr(object).cast_mut()
}

/// The error of an answer as a block takes it: null if there was none.
pub(super) fn lent_error<T>(result: &Result<T, Retained<NSError>>) -> *mut NSError {
    result.as_ref().err().map_or(null_mut(), lent)
}
