//! Answers to FSKit: converts errors, and catches panics.

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

/// Does `work`, and passes the result to `reply`, which calls FSKit's block.
///
/// A panic in `work` is a bug in cdi and becomes EIO. After a panic in `reply`, FSKit would wait forever for the
/// answer, so the process aborts, which FSKit notices.
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
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Refused { errno: Errno::EIO, why: Some("internal error: panic (a bug in cdi)".into()) })
    });
    // A number alone is an ordinary answer; an error with a text is logged.
    if let Err(refused @ Refused { why: Some(_), .. }) = &result {
        log::error!("{what}: {refused}");
    }
    result
}

/// Converts an error to the form that FSKit passes on: the number for the caller, the text for programs that show it.
pub(super) fn error(refused: &Refused) -> Retained<NSError> {
    let Some(why) = &refused.why else {
        // SAFETY: any number is accepted.
        return unsafe { fs_errorForPOSIXError(refused.errno.0) };
    };
    let why = NSString::from_str(why);
    // SAFETY: a constant of Foundation, initialized before we run.
    let key: &NSErrorUserInfoKey = unsafe { NSLocalizedDescriptionKey };
    let text: &AnyObject = &why;
    let info = NSDictionary::from_slices(&[key], &[text]);
    // SAFETY: a constant of Foundation, likewise.
    let domain = unsafe { NSPOSIXErrorDomain };
    // SAFETY: the value of this key must be a string, and it is.
    unsafe { NSError::errorWithDomain_code_userInfo(domain, refused.errno.0 as isize, Some(&info)) }
}

/// Returns an object as a pointer for a block. The object must live until the block has been called.
pub(super) fn lent<T: Message>(object: &Retained<T>) -> *mut T {
    Retained::as_ptr(object).cast_mut()
}

/// Returns the error of an answer as a pointer for a block: null if there was none.
pub(super) fn lent_error<T>(result: &Result<T, Retained<NSError>>) -> *mut NSError {
    result.as_ref().err().map_or(null_mut(), lent)
}
