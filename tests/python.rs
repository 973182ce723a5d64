//! The Python package: its wheel is built by maturin, installed by pip, and used by the tests in `tests/python/` and by the
//! programs in `examples/python/`, of which two are plugins for packages from PyPI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::common::{Lab, Need, Ran};

/// What every test here needs: something to build the wheel, and something to install it.
const PACKAGE: Need = Need::All(&[Need::Program("maturin"), Need::Python("pip")]);
/// What the tests of plugins make their disk with.
const EXT4: Need = Need::All(&[Need::Program("mke2fs"), Need::Program("debugfs")]);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Builds the wheel in the directory that the tests were built in, and installs it below the lab. Returns the wheel's name, and
/// where it is installed. One at a time: maturin moves the library away that cargo has built.
fn installed(lab: &Lab) -> (String, PathBuf) {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let built = Path::new(env!("CARGO_BIN_EXE_cdi")).parent().unwrap();
    let wheels = lab.path("wheels");
    let maturin: Ran = Command::new("maturin")
        // Without what takes long to build, and is not tried here.
        .args(["build", "--locked", "--no-default-features"])
        .args(["--quiet", "--compatibility", "linux", "--manifest-path"])
        .arg(root().join("crates/cdi-python/Cargo.toml"))
        .arg("--profile")
        .arg(if built.ends_with("release") { "release" } else { "dev" })
        .arg("--target-dir")
        .arg(built.parent().unwrap())
        .arg("--out")
        .arg(&wheels)
        .output()
        .unwrap()
        .into();
    maturin.ends(0);
    drop(one);
    let wheel = fs::read_dir(&wheels).unwrap().next().unwrap().unwrap().path();
    let site = lab.path("site");
    let pip: Ran = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-cache-dir", "--target"])
        .args([&site, &wheel])
        .output()
        .unwrap()
        .into();
    pip.ends(0);
    (wheel.file_name().unwrap().to_str().unwrap().to_owned(), site)
}

/// Runs a file of tests in `tests/python/` with the package.
#[track_caller]
fn python(lab: &Lab, file: &str) {
    let (_, site) = installed(lab);
    let examples = root().join("examples/python");
    let tests = root().join("tests/python");
    let path = std::env::join_paths([&site, &examples, &tests]).unwrap();
    fs::create_dir(lab.path("tmp")).unwrap();
    let ran: Ran = Command::new("python3")
        .args(["-B", "-W", "error::ResourceWarning"])
        .arg(tests.join(file))
        .env("PYTHONPATH", path)
        .env("CDI_PROGRAM", env!("CARGO_BIN_EXE_cdi"))
        .env("CDI_EXAMPLES", &examples)
        .env("CDI_RUNTIME_DIR", lab.path("run"))
        .env("XDG_CACHE_HOME", lab.path("cache"))
        .env("TMPDIR", lab.path("tmp"))
        .current_dir(&lab.dir)
        .output()
        .unwrap()
        .into();
    let ran = ran.ends(0);
    // No test is skipped in there.
    assert!(ran.err.contains("\nOK\n"), "{}{}", ran.out, ran.err);
}

tests!(
    /// One wheel for each system, for all versions of Python from 3.9 on, with types.
    #[needs(PACKAGE)]
    fn the_wheel_is_for_every_python() {
        let lab = Lab::new();
        let (wheel, site) = installed(&lab);
        assert!(wheel.starts_with("cdi-") && wheel.contains("-cp39-abi3-"), "{wheel}");
        let mut names: Vec<String> = fs::read_dir(site.join("cdi"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "__pycache__")
            .collect();
        names.sort();
        assert_eq!(names, ["__init__.py", "__init__.pyi", "_cdi.abi3.so", "_disk.py", "py.typed"]);
    }

    #[needs(PACKAGE)]
    fn a_disk_is_a_file_object() {
        python(&Lab::new(), "test_disk.py");
    }

    #[needs(PACKAGE)]
    fn a_disk_is_for_several_threads_and_processes() {
        python(&Lab::new(), "test_together.py");
    }

    #[needs(PACKAGE)]
    fn the_example_reports_what_can_be_read() {
        python(&Lab::new(), "test_report.py");
    }

    #[needs(PACKAGE, EXT4, Python("dissect.target"), Python("dissect.extfs"))]
    fn dissect_target_reads_the_files_of_an_image() {
        python(&Lab::new(), "test_dissect.py");
    }

    #[needs(PACKAGE, EXT4, Python("dfvfs"))]
    fn dfvfs_reads_the_files_of_an_image() {
        python(&Lab::new(), "test_dfvfs.py");
    }
);
