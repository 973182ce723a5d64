//! The app for AppKit: the delegate that is told which files to open, and the alert.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2::{DefinedClass, MainThreadMarker, MainThreadOnly, define_class, msg_send};
use objc2_app_kit::{NSAlert, NSApplication, NSApplicationDelegate};
use objc2_foundation::{NSArray, NSNotification, NSObject, NSObjectProtocol, NSString, NSURL};

use crate::opening::{Opened, Programs};
use crate::show_settings;

/// What has happened so far.
#[derive(Default)]
struct State {
    launched: Cell<bool>,
    opened: Cell<bool>,
}

define_class!(
    // SAFETY: NSObject may be subclassed, and there is no `Drop`.
    #[unsafe(super(NSObject))]
    #[thread_kind = MainThreadOnly]
    #[name = "CDIAppDelegate"]
    #[ivars = State]
    struct Delegate;

    // SAFETY: a subclass of an NSObject is one.
    unsafe impl NSObjectProtocol for Delegate {}

    // SAFETY: the methods have the types of NSApplication.h.
    unsafe impl NSApplicationDelegate for Delegate {
        /// Called before `applicationDidFinishLaunching:` if the app is started by opening a file, and later if it is
        /// running.
        #[unsafe(method(application:openURLs:))]
        fn open_urls(&self, app: &NSApplication, urls: &NSArray<NSURL>) {
            self.ivars().opened.set(true);
            for url in urls.to_vec() {
                if let Some(path) = url.path() {
                    open(app, Path::new(&path.to_string()));
                }
            }
            if self.ivars().launched.get() {
                app.terminate(None);
            }
        }

        #[unsafe(method(applicationDidFinishLaunching:))]
        fn did_finish_launching(&self, _notification: &NSNotification) {
            self.ivars().launched.set(true);
            if !self.ivars().opened.get() {
                show_settings();
            }
            NSApplication::sharedApplication(self.mtm()).terminate(None);
        }
    }
);

/// Runs the app. AppKit ends the process.
pub(super) fn run() -> ExitCode {
    let Some(main_thread) = MainThreadMarker::new() else { return ExitCode::FAILURE };
    let app = NSApplication::sharedApplication(main_thread);
    let delegate = Delegate::alloc(main_thread).set_ivars(State::default());
    // SAFETY: the initializer of NSObject; the instance variables are set.
    let delegate: Retained<Delegate> = unsafe { msg_send![super(delegate), init] };
    // The property is weak: the delegate lives as long as this function.
    app.setDelegate(Some(ProtocolObject::from_ref(&*delegate)));
    app.run();
    ExitCode::SUCCESS
}

/// Attaches an image and shows its volumes, or an alert. The app does nothing else meanwhile.
fn open(app: &NSApplication, image: &Path) {
    let programs = Programs::of(&std::env::current_exe().unwrap_or_else(|_| PathBuf::from("cdi-app")));
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    match programs.open(image) {
        Ok(Opened::Volumes(volumes)) => {
            let _ = Command::new("/usr/bin/open").args(volumes).status();
        }
        Ok(Opened::Device(device)) => {
            let what = format!(
                "It is attached as {device}, but macOS has mounted no volume of it. To detach it: cdi detach {device}"
            );
            alert(app, &format!("“{name}” has no volume that macOS can show."), &what);
        }
        Err(why) => alert(app, &format!("“{name}” could not be opened."), &why),
    }
}

fn alert(app: &NSApplication, title: &str, text: &str) {
    app.activate();
    let alert = NSAlert::new(app.mtm());
    alert.setMessageText(&NSString::from_str(title));
    alert.setInformativeText(&NSString::from_str(text));
    alert.runModal();
}
