//! The library for other languages, by a program in C that is compiled with the header and linked with the archive.

use std::fs;
use std::path::PathBuf;

use crate::Test;
use crate::common::{Lab, Need, run};

pub const TESTS: &[Test] = &[("a_program_in_c_reads_the_disk", &[Need::Program("cc")], c)];

/// The archive that was built with the tests: the newest beside this program.
fn archive() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let files = fs::read_dir(own.parent().unwrap()).unwrap().map(|e| e.unwrap());
    let archives = files.filter(|e| {
        let name = e.file_name().into_string().unwrap_or_default();
        name.starts_with("libcdi") && name.ends_with(".a")
    });
    archives.max_by_key(|e| e.metadata().unwrap().modified().unwrap()).unwrap().path()
}

fn c() {
    let lab = Lab::new();
    lab.image(4096, 512, &[(1234, 1)]);
    let root = env!("CARGO_MANIFEST_DIR");
    let program = lab.path("ffi");
    let archive = archive();
    let args = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        "-I",
        &format!("{root}/include"),
        "-o",
        program.to_str().unwrap(),
        &format!("{root}/tests/ffi.c"),
        archive.to_str().unwrap(),
        "-lm",
        "-lpthread",
        "-ldl",
    ];
    run("cc", args);
    let (image, raw) = (lab.path("disk.cdimg"), lab.path("disk.raw"));
    assert_eq!(
        run(program.to_str().unwrap(), [image.to_str().unwrap(), raw.to_str().unwrap(), "1234"]),
        "ok\n"
    );
    assert_eq!(lab.leftovers(), "");
}
