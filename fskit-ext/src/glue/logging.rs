//! The log of the extension, for Console and `log`: its standard output and error are discarded.

use std::panic;

use log::{LevelFilter, Log, Metadata, Record};
use objc2_foundation::{NSString, ns_string};

// Foundation itself is linked by objc2-foundation, which omits this function because it is variadic.
unsafe extern "C" {
    fn NSLog(format: &NSString, ...);
}

struct SystemLog;

impl Log for SystemLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        write(&format!("{}: {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

/// Starts to send log messages and panics to the system log.
pub(super) fn start() {
    if log::set_logger(&SystemLog).is_ok() {
        log::set_max_level(LevelFilter::Info);
        panic::set_hook(Box::new(|panic| write(&panic.to_string())));
    }
}

fn write(text: &str) {
    let text = NSString::from_str(text);
    // SAFETY: the format expects one object, and gets one.
    unsafe { NSLog(ns_string!("cdi: %@"), &*text) };
}
