//! What the extension says, for Console and `log`: its standard output and error lead nowhere.

use std::panic;

use log::{LevelFilter, Log, Metadata, Record};
use objc2_foundation::{NSString, ns_string};

// Foundation itself is linked by objc2-foundation, which leaves this function out because it takes any arguments.
unsafe extern "C" {
    fn NSLog(format: &NSString, ...);
}

struct SystemLog;

impl Log for SystemLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        say(&format!("{}: {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

/// From here on what is logged is said, and so are panics.
pub(super) fn start() {
    if log::set_logger(&SystemLog).is_ok() {
        log::set_max_level(LevelFilter::Info);
        panic::set_hook(Box::new(|panic| say(&panic.to_string())));
    }
}

fn say(text: &str) {
    let text = NSString::from_str(text);
    // SAFETY: the format wants one object, and gets one.
    unsafe { NSLog(ns_string!("cdi: %@"), &*text) };
}
