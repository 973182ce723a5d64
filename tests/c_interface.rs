//! The C interface, used by a program in C that is compiled with the header and linked as others would link: with the
//! archive, and with the shared library as `cdi.pc` describes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Lab, Ran, disk, run};
use crate::makers::encrypted::USUAL;
use crate::makers::{self, Tables};

tests!(
    #[needs(Program("cc"))]
    fn a_c_program_reads_the_disk() {
        let lab = Lab::new();
        lab.image(4096, 512, &[(1234, 1)]);
        let dmg = makers::dmg(&disk(1 << 20), Tables::PropertyList);
        lab.write("secret.dmg", makers::encrypted(&dmg, &USUAL));
        let root = env!("CARGO_MANIFEST_DIR");
        let prefix = lab.path("prefix");
        // The directory that this test was built in, so that less is compiled again.
        let built = Path::new(env!("CARGO_BIN_EXE_cdi")).parent().unwrap();
        let output = Command::new(format!("{root}/crates/cdi-ffi/install.sh"))
            .arg(&prefix)
            .env("CARGO", env!("CARGO"))
            .env("CARGO_TARGET_DIR", built.parent().unwrap())
            .env("PROFILE", if built.ends_with("release") { "release" } else { "dev" })
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            assert!(Path::new(line).exists(), "{line}");
        }
        let pc = fs::read_to_string(prefix.join("lib/pkgconfig/cdi.pc")).unwrap();
        let flags = |key: &str| -> Vec<String> {
            let line = pc.lines().find_map(|l| l.strip_prefix(&format!("{key}: "))).unwrap();
            let at = |word: &str| {
                word.replace("${libdir}", "${prefix}/lib").replace("${includedir}", "${prefix}/include")
            };
            line.split(' ').map(|w| at(w).replace("${prefix}", prefix.to_str().unwrap())).collect()
        };
        let program = lab.path("ffi");
        let (image, raw) = (lab.path("disk.cdimg"), lab.path("disk.raw"));
        let archive = vec![prefix.join("lib/libcdi.a").display().to_string()];
        for library in [archive.into_iter().chain(flags("Libs.private")).collect(), flags("Libs")] {
            let mut args: Vec<String> =
                ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o"].map(str::to_owned).into();
            args.push(program.display().to_string());
            args.push(format!("{root}/tests/ffi.c"));
            args.extend(flags("Cflags").into_iter().chain(library));
            run("cc", &args);
            let output = Command::new(&program)
                .args([image.to_str().unwrap(), raw.to_str().unwrap(), "1234"])
                .current_dir(&lab.dir)
                .env("LD_LIBRARY_PATH", prefix.join("lib"))
                .env("DYLD_LIBRARY_PATH", prefix.join("lib"))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), "ok\n", "{args:?}");
        }
        the_example_copies(&lab, &prefix, &flags("Cflags"), &flags("Libs"));
        only_its_own_names(&prefix);
        assert_eq!(lab.leftovers(), "");
    }
);

/// Compiles examples/c/copy.c as its comment says, and runs it.
fn the_example_copies(lab: &Lab, prefix: &Path, cflags: &[String], libs: &[String]) {
    let program = lab.path("copy");
    let source = format!("{}/examples/c/copy.c", env!("CARGO_MANIFEST_DIR"));
    let mut args: Vec<String> =
        ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o"].map(str::to_owned).into();
    args.extend([program.display().to_string(), source]);
    args.extend(cflags.iter().chain(libs).cloned());
    run("cc", &args);
    let copy = |image: &str, out: &str| -> Ran {
        let mut command = Command::new(&program);
        command.args([image, out]).current_dir(&lab.dir);
        command.env("LD_LIBRARY_PATH", prefix.join("lib")).env("DYLD_LIBRARY_PATH", prefix.join("lib"));
        command.output().unwrap().into()
    };
    let ran = copy("disk.cdimg", "copied.raw").ends(2);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("631808 512 bad sector\n", ""));
    let mut expected = lab.read("disk.raw");
    expected[1234 * 512..1235 * 512].fill(0);
    assert!(lab.read("copied.raw") == expected);
    let again = copy("disk.cdimg", "copied.raw").ends(1);
    assert!(again.err.contains("copied.raw: File exists"), "{}", again.err);
    // The list of what was lost must not get lost.
    if cfg!(target_os = "linux") {
        let mut full = Command::new(&program);
        full.args(["disk.cdimg", "full.raw"])
            .current_dir(&lab.dir)
            .env("LD_LIBRARY_PATH", prefix.join("lib"));
        let full: Ran = full.stdout(fs::File::create("/dev/full").unwrap()).output().unwrap().into();
        assert!(full.ends(1).err.contains("the list"));
    }
    let whole = copy("none.cdimg", "none.raw").ends(1);
    assert!(whole.err.contains("none.cdimg"), "{}", whole.err);
}

/// A library that exports more than its functions gets in the way of other libraries.
fn only_its_own_names(prefix: &Path) {
    if cfg!(target_os = "linux") {
        let names = run("nm", ["-D", "--defined-only", prefix.join("lib/libcdi.so").to_str().unwrap()]);
        let names: Vec<&str> = names.lines().filter_map(|line| line.split(' ').next_back()).collect();
        assert!(names.contains(&"cdi_read_partial"), "{names:?}");
        assert!(names.iter().all(|name| name.starts_with("cdi_")), "{names:?}");
    }
}
