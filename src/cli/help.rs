//! The parts of the long help and the man page of each verb after its options: examples, exit status, files, related
//! pages.

use std::fmt::Write;

use clap_mangen::Man;

/// The text after the options in the short help of the program.
pub(super) const EXIT_STATUS: &str = "Exit status: 0 success, 1 failure, 2 wrong usage, 3 the image cannot be used, 4 done but \
    data is missing, 5 busy, 6 this system lacks something, 7 the disk is gone, \
    8 the disk must be switched off and on, 130 interrupted.\nSee 'cdi help COMMAND' for a command, with examples.";

/// The exit codes, and their meaning.
const STATUS: [(&str, &str); 10] = [
    ("0", "success"),
    ("1", "failure: a file cannot be read or written, the file system is full"),
    ("2", "wrong usage"),
    ("3", "the image cannot be used: not an image, damaged, truncated, not supported"),
    (
        "4",
        "done, but data is missing: from what create, extract or repair wrote, or by what verify, info and files found wrong",
    ),
    ("5", "busy: the device is in use, or the file exists"),
    ("6", "this system lacks something: a driver, a program, a permission"),
    ("7", "the disk that create reads is gone"),
    ("8", "the disk that create reads must be switched off and on"),
    ("130", "interrupted"),
];

/// Files that cdi uses.
pub(super) const FILES: [(&str, &str); 4] = [
    (
        "/run/cdi, $XDG_RUNTIME_DIR/cdi, /tmp/cdi-UID",
        "records and logs of mounts, and default mount points (of root; of other users; without a runtime directory)",
    ),
    (
        "disk.img.gz.cdi-index, ~/.cache/cdi",
        "index of the compressed image disk.img.gz, next to it or in the user's cache",
    ),
    ("~/.config/cdi/service.json", "configuration of 'cdi service'"),
    (
        "disk.map, disk.mapfile, disk.log, disk.raw.map",
        "mapfile of the raw image disk.raw, if it is next to it",
    ),
];

/// An example: what it does, and the command.
type Example = (&'static str, &'static str);

/// Returns the examples of a verb, and the verbs that belong to it.
fn of(verb: &str) -> (&'static [Example], &'static [&'static str]) {
    match verb {
        "create" => (
            &[
                (
                    "Image a failing disk, and retry its bad sectors three times",
                    "cdi create -r3 /dev/sdb disk.cdimg",
                ),
                ("Continue after an interruption", "cdi create --resume /dev/sdb disk.cdimg"),
                (
                    "Read the photos of a dying disk first, then other files, then the rest",
                    "cdi create --first '*.jpg' --first used /dev/sdb disk.cdimg",
                ),
                (
                    "Look into a failing disk while it is imaged, and watch the map in a browser",
                    "cdi create --mount mnt --files --watch 0 /dev/sdb disk.cdimg",
                ),
                (
                    "Convert a raw image and its ddrescue mapfile",
                    "cdi create disk.raw disk.cdimg --mapfile disk.map",
                ),
                (
                    "Convert an E01 image, with the MD5 for the report",
                    "cdi create disk.E01 disk.cdimg --hash md5",
                ),
                (
                    "Add parity, so that damage of the image can be restored",
                    "cdi create --parity 5% disk.raw disk.cdimg",
                ),
                ("Image a disk on another machine", "ssh root@host cat /dev/sdb | cdi create - disk.cdimg"),
            ],
            &["info", "map", "watch", "verify", "repair"],
        ),
        "info" => (
            &[
                ("Show an image", "cdi info disk.cdimg"),
                ("The serial number, for a script", "cdi info --json disk.cdimg | jq -r .metadata.serial"),
                ("Show how it was made", "cdi info --events disk.cdimg"),
                ("Its digest, to be signed", "cdi info --json disk.cdimg | jq -er .digest"),
                ("Show the SMART data of the drive", "cdi info --health disk.cdimg"),
            ],
            &["map", "verify"],
        ),
        "map" => (
            &[
                ("Draw the disk", "cdi map disk.cdimg"),
                ("Draw what its bad sectors cost", "cdi map --files disk.cdimg"),
                ("List the bad sectors", "cdi map --bad disk.cdimg"),
                ("A mapfile for ddrescue or ddrescueview", "cdi map --export-mapfile disk.map disk.cdimg"),
                ("The map as a web page", "cdi map --html map.html disk.cdimg"),
                ("A list for e2fsck -l", "cdi map --export-badblocks -b 4096 disk.cdimg"),
            ],
            &["info", "extract"],
        ),
        "files" => (
            &[
                ("List the files that are damaged", "cdi files disk.cdimg"),
                ("Which file has a bad sector", "cdi files --sector 3182 disk.cdimg"),
                (
                    "Save all photographs, damaged ones with holes",
                    "cdi files --copy saved disk.cdimg '*.jpg' '*.cr2'",
                ),
                ("Save one user's files", "cdi files --copy saved disk.E01 Users/anna"),
            ],
            &["map", "extract", "mount"],
        ),
        "watch" => (
            &[
                ("Follow an image that is being made", "cdi watch disk.cdimg"),
                ("In a browser", "cdi watch disk.cdimg 0"),
            ],
            &["create", "map"],
        ),
        "index" => (
            &[
                ("Make the index of a compressed disk image, before it is attached", "cdi index disk.img.gz"),
                ("Make the indexes of all parts of a Clonezilla image", "cdi index /backup/2026-11-20-img"),
            ],
            &["attach", "mount", "create"],
        ),
        "verify" => (
            &[
                ("Check an image", "cdi verify disk.cdimg"),
                (
                    "Check an E01 against its stored hashes, and compute a SHA-256",
                    "cdi verify --hash sha256 disk.E01",
                ),
            ],
            &["repair", "info"],
        ),
        "extract" => (
            &[
                ("Export to a raw file, with a mapfile next to it", "cdi extract disk.cdimg disk.raw"),
                ("Compress with another program", "cdi extract disk.cdimg - | zstd > disk.raw.zst"),
                ("Write the disk to a new drive", "cdi extract --force disk.cdimg /dev/sdc"),
            ],
            &["create", "map"],
        ),
        "repair" => (
            &[("Salvage what is left of an image", "cdi repair damaged.cdimg new.cdimg")],
            &["verify", "protect", "create"],
        ),
        "protect" => (
            &[("Add parity that restores up to 5 % of the image", "cdi protect disk.cdimg")],
            &["verify", "repair", "create"],
        ),
        "compact" => (&[("Reclaim unused space", "cdi compact disk.cdimg")], &["create"]),
        "mount" => (
            &[
                ("Mount an image as a directory, and print where", "cdi mount disk.cdimg"),
                ("Mount it in a directory of your choice", "mkdir mnt; cdi mount disk.cdimg mnt"),
                ("Show its second partition alone", "cdi mount --partition 2 disk.cdimg mnt"),
            ],
            &["unmount", "attach", "list"],
        ),
        "unmount" => (
            &[("Unmount", "cdi unmount mnt"), ("Unmount everything", "cdi unmount --all")],
            &["mount", "list"],
        ),
        "attach" => (
            &[
                ("Attach a disk", "sudo cdi attach disk.cdimg"),
                (
                    "Attach its first partition, and mount the file system read-only",
                    "sudo mount -o ro \"$(sudo cdi attach --partition 1 disk.cdimg)\" /mnt",
                ),
                ("Let the kernel find the partitions", "sudo cdi attach --partscan disk.cdimg"),
                ("Read zeros instead of errors", "sudo cdi attach --bad zero disk.cdimg"),
            ],
            &["detach", "list", "exec", "mount"],
        ),
        "detach" => (
            &[
                (
                    "Detach a device, and unmount a file system on it that is not in use",
                    "sudo cdi detach /dev/loop0",
                ),
                ("Detach all devices of an image, and unmount it", "sudo cdi detach disk.cdimg"),
                ("Detach everything", "sudo cdi detach --all"),
            ],
            &["attach", "list"],
        ),
        "stats" => (&[("Statistics of all mounts", "cdi stats")], &["list"]),
        "exec" => (
            &[
                ("Check a file system", "sudo cdi exec disk.cdimg -- e2fsck -fn {}"),
                ("Compare with a raw file", "cdi exec disk.cdimg -- cmp {dir}/disk.raw disk.raw"),
            ],
            &["attach", "mount"],
        ),
        "serve" => (
            &[
                ("Serve to qemu over NBD", "cdi serve disk.cdimg --nbd disk.sock"),
                ("Serve over NFS", "cdi serve disk.cdimg --nfs"),
            ],
            &["mount", "attach"],
        ),
        "service" => (
            &[
                ("Set the service up", "cdi service install; cdi service start"),
                ("Show the state of each image", "cdi service status"),
            ],
            &["attach", "list"],
        ),
        "completions" => (
            &[("For bash", "cdi completions bash > ~/.local/share/bash-completion/completions/cdi")],
            &["man"],
        ),
        "man" => (&[("Install the man pages", "sudo cdi man /usr/local/share/man/man1")], &["completions"]),
        "demo" => (&[("Keep the sample", "cdi demo --keep sample")], &["create", "attach"]),
        "doctor" => (&[("As JSON, for a bug report", "cdi doctor --json")], &["demo"]),
        _ => (&[], &[]),
    }
}

/// Returns the text after the options in the long help of a verb.
pub(super) fn after(verb: &str) -> String {
    let (examples, also) = of(verb);
    let mut text = String::new();
    let mut section = |title: &str, lines: &mut dyn Iterator<Item = String>| {
        let lines: Vec<String> = lines.map(|line| format!("  {line}\n")).collect();
        if !lines.is_empty() {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{gap}{title}:\n{}", lines.concat());
        }
    };
    section("Examples", &mut examples.iter().map(|(what, how)| format!("{what}:\n    {how}")));
    section("Exit status", &mut STATUS.iter().map(|(code, what)| format!("{code:<4} {what}")));
    section("Files", &mut FILES.iter().map(|(file, what)| format!("{file}\n    {what}")));
    section("See also", &mut also.iter().map(|verb| format!("cdi help {verb}")));
    text.trim_end().to_owned()
}

/// Returns the man page of a command.
pub fn man_page(command: &clap::Command) -> std::io::Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let verb = name.rsplit('-').next().unwrap_or(&name).to_owned();
    let command = command.clone().after_help(None::<&str>).after_long_help(None::<&str>);
    let man =
        Man::new(command.clone()).source(concat!("cdi ", env!("CARGO_PKG_VERSION"))).manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut text = String::new();
    let (examples, also) = of(&verb);
    let mut section = |title: &str, items: &[(&str, &str)]| {
        if !items.is_empty() {
            let _ = writeln!(text, ".SH \"{title}\"");
        }
        for (first, second) in items {
            let _ = writeln!(text, ".TP\n{}\n{}", roff(first), roff(second));
        }
    };
    section("EXAMPLES", examples);
    section("EXIT STATUS", &STATUS);
    section("FILES", &FILES);
    let own = if name == "cdi" { &[][..] } else { &["cdi"][..] };
    let pages =
        own.iter().map(|page| (*page).to_owned()).chain(also.iter().map(|verb| format!("cdi-{verb}")));
    let pages: Vec<String> = pages.map(|page| format!("\\fB{}\\fR(1)", roff(&page))).collect();
    if !pages.is_empty() {
        let _ = writeln!(text, ".SH \"SEE ALSO\"\n{}", pages.join(", "));
    }
    page.extend_from_slice(text.as_bytes());
    Ok(page)
}

/// Escapes a line of text for roff.
pub(super) fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
