//! Packages for users: what can be tried of them without the program that installs them.

use std::path::Path;
use std::process::Command;

use crate::common::Ran;

tests!(
    /// The formula installs the program, completions, man pages and the service's files, and its own test passes; Homebrew
    /// is a stand-in.
    #[needs(Program("ruby"))]
    fn the_homebrew_formula_installs_and_passes_its_test() {
        let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/homebrew/check.rb");
        let ran: Ran =
            Command::new("ruby").arg("-w").arg(check).arg(env!("CARGO_BIN_EXE_cdi")).output().unwrap().into();
        let ran = ran.ends(0);
        assert!(ran.out.contains("installed and tested"), "{}{}", ran.out, ran.err);
        assert!(!ran.err.contains("warning"), "{}", ran.err);
    }
);
