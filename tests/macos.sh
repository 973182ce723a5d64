#!/usr/bin/env bash
# Tests and measurements that need a real Mac: NFS mounted by the system, devices made by hdiutil and diskutil, their bad
# sectors, servers that stop or die, the service, the FSKit extension. It needs a stock Mac and Rust, but neither root nor
# a driver, and nobody who watches it:
#
#     tests/macos.sh                # builds and tests; exit code 0 if nothing failed; about 20 minutes, and cargo test
#
# Everything that it finds out is in target/macos (CDI_OUT): log.txt, results.txt, raw/ (what macOS's programs printed),
# and tests/macos/fixtures/, which belongs into the directory of the same name. Please attach that directory to a report;
# its files contain your user name, and raw/failure-*.txt lines of the system's log.
#
# No step can hang: a watchdog ends each, and the script goes on with the next one. At its end, it unmounts and detaches
# what it made, also after Ctrl-C. Options, as environment variables:
#
#     CDI=/path/cdi      test this program (default: build one)
#     CDI_OUT=DIRECTORY  where results go
#     CDI_SKIP="a b"     skip these sections (their names are printed: "== name")
#     CDI_AGENT=1        also install, start and uninstall the LaunchAgent (unless ~/.config/cdi/service.json exists)
#     CDI_FSKIT=1        also build and register the FSKit extension, and try to switch it on
#     CDI_DISPOSABLE=1   this Mac is thrown away afterwards (CI): also write to the databases of TCC and of FSKit
#     CDI_BUDGET=3600    seconds after which no further step is started
#
# It must run in macOS's bash, version 3.2. tests/standin.rs runs it on Linux with stand-ins (CDI_DRY_RUN).
#
# shellcheck disable=SC2317,SC2009 # functions that the watchdog calls; there is no pgrep for whole lines
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
dry=${CDI_DRY_RUN-}
[ "$(uname -s)" = Darwin ] || { echo "this script only runs on macOS"; exit 1; }

command -v perl >/dev/null || { echo "perl not found: it ends the steps that hang"; exit 1; }

out=${CDI_OUT:-$root/target/macos}
budget=${CDI_BUDGET:-3600}
mkdir -p "$out/raw" || exit 1
out=$(cd "$out" && pwd -P)
log=$out/log.txt
results=$out/results.txt
: >"$log"
: >"$results"
lab=$(cd "$(mktemp -d)" && pwd -P)
# Other users can reach this one.
shared=$(cd "$(mktemp -d /tmp/cdi-macos.XXXXXX)" && pwd -P)
chmod 755 "$shared"
said=$lab/said
# A signal may arrive while these are redirected.
exec 3>&1 4>&2
export CDI_RUNTIME_DIR=$lab/run
export lab shared out dry root

# --- the watchdog ---------------------------------------------------------------------------------------------------
# Runs a command in a process group of its own. When its time is up, the group gets SIGTERM, then SIGKILL, and the exit
# code is 124. A process that hangs in the kernel survives even that: it is left behind.
# shellcheck disable=SC2016 # it is Perl
watchdog='
my $seconds = shift;
my $pid = fork;
exit 126 unless defined $pid;
if (!$pid) { setpgrp(0, 0); exec { $ARGV[0] } @ARGV; exit 127 }
for my $name (qw(HUP INT TERM)) { $SIG{$name} = sub { kill "KILL", -$pid; exit 130 } }
$SIG{ALRM} = sub { die "time is up\n" };
my $late = 0;
for my $step ([$seconds, "TERM"], [5, "KILL"], [10, ""]) {
    if (eval { alarm $step->[0]; waitpid $pid, 0; alarm 0; 1 }) {
        my $status = $?;
        exit 124 if $late;
        exit($status & 127 ? 128 + ($status & 127) : $status >> 8);
    }
    $late = 1;
    kill $step->[1], -$pid if $step->[1];
}
print STDERR "process $pid does not even end by SIGKILL; it is left behind\n";
exit 124;
'

# limited SECONDS COMMAND...: runs a command, or a function that is exported.
limited() {
    local seconds=$1
    shift
    if [ "$(type -t "$1")" = function ]; then
        # shellcheck disable=SC2016 # for the inner shell
        set -- "$BASH" -c '"$@"' bash "$@"
    fi
    perl -e "$watchdog" "$seconds" "$@" 3>&- 4>&-
}

# --- results --------------------------------------------------------------------------------------------------------
say() { printf '%s\n' "$*" | tee -a "$log"; }
indent() { head -40 | sed 's/^/          | /' | tee -a "$log"; }
# result STATE TEXT: STATE is ok, FAILED, measured or skipped.
result() {
    printf '%s\t%s\n' "$1" "$2" >>"$results"
    say "$(printf '%-9s %s' "$1" "$2")"
}
now() { perl -MTime::HiRes=time -e 'printf "%.3f\n", time'; }
since() { perl -MTime::HiRes=time -e 'printf "%.1f\n", time - $ARGV[0]' "$1"; }

late() { [ "$SECONDS" -ge "$budget" ]; }
# Seconds for the next step, unless set: limit=100 check ...
limit=60
# Set where a failure is no fault of cdi's: it is reported as measured.
measuring=
diagnosed=0

# check WHAT COMMAND...: checks that the command succeeds.
check() {
    local what=$1 code note=
    shift
    if late; then
        result skipped "$what (the time is up)"
        return 1
    fi
    limited "$limit" "$@" >"$said" 2>&1 </dev/null
    code=$?
    if [ $code = 0 ]; then
        result ok "$what"
        return 0
    fi
    [ $code != 124 ] || note=", ended by the watchdog after $limit s"
    if [ -n "$measuring" ]; then
        result measured "$what: does not succeed (exit code $code$note)"
    else
        result FAILED "$what (exit code $code$note): $*"
    fi
    indent <"$said"
    if grep -q -i 'operation not permitted' "$said"; then
        say "          (a refusal by macOS? Privacy & Security > Files & Folders > Network Volumes, or Full Disk Access)"
    fi
    [ -n "$measuring" ] || diagnose "$what"
    return $code
}

# Collects what the system's log and the daemon can say about a failure; for the first few only, as it takes time.
diagnose() {
    local file pid
    diagnosed=$((diagnosed + 1))
    [ $diagnosed -le 4 ] || return 0
    file=$out/raw/failure-$diagnosed.txt
    {
        echo "$1"
        cat "$said"
        limited 20 mount
        limited 60 log show --last 2m --style compact --predicate \
            'subsystem == "com.apple.TCC" OR process CONTAINS[c] "diskimage" OR process == "hdiutil" OR process == "fskitd" OR (process == "kernel" AND (eventMessage CONTAINS[c] "nfs" OR eventMessage CONTAINS[c] "disk" OR eventMessage CONTAINS[c] "sandbox"))' |
            tail -400
    } >"$file" 2>&1 </dev/null
    for pid in $(daemons); do
        limited 30 sample "$pid" 1 -file "$out/raw/failure-$diagnosed-$pid.sample.txt" >/dev/null 2>&1 </dev/null
    done
}

# keep NAME COMMAND...: keeps the output as raw/NAME.txt.
keep() {
    local file=$out/raw/$1.txt code
    shift
    late && return 1
    limited "$limit" "$@" >"$file" 2>"$said" </dev/null
    code=$?
    [ ! -s "$said" ] || cp "$said" "${file%.txt}.stderr.txt"
    [ $code = 0 ] || echo "exit code $code: $*" >>"${file%.txt}.stderr.txt"
    return $code
}

# measure WHAT COMMAND...: reports what the command prints and how long it takes; it may fail.
measure() {
    local what=$1 code start
    shift
    if late; then
        result skipped "$what (the time is up)"
        return 1
    fi
    start=$(now)
    limited "$limit" "$@" >"$said" 2>&1 </dev/null
    code=$?
    result measured "$what: exit code $code after $(since "$start") s"
    indent <"$said"
    return $code
}

# section NAME: whether it is to be run.
section() {
    case " ${CDI_SKIP-} " in *" $1 "*)
        say "== $1: skipped"
        result skipped "the section $1 (CDI_SKIP)"
        return 1
        ;;
    esac
    # What a failed step has left must not make the next ones fail, too.
    measuring=
    release
    limited 120 "$CDI" -q detach --all --force >/dev/null 2>&1 </dev/null
    cd "$lab" || exit 1
    say "== $1 (after $SECONDS s)"
}

# --- what steps are made of; exported, as the watchdog runs them in a shell of their own ---------------------------
# code CODE COMMAND...: checks that the command ends with this exit code.
code() {
    local expect=$1 got
    shift
    "$@"
    got=$?
    [ "$got" = "$expect" ] || { echo "exit code $got instead of $expect"; return 1; }
}
not() { ! "$@"; }
# within SECONDS COMMAND...: repeats the command until it succeeds; fails after this many seconds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}
number() { sed -n "s/.*\"$1\": *\\([0-9]*\\).*/\\1/p" | head -1; }
word() { sed -n "s/.*\"$1\": *\"\\([^\"]*\\)\".*/\\1/p" | head -1; }
daemons() { limited 20 "$CDI" list --json 2>/dev/null </dev/null | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p'; }
mounted() { mount | grep -F "$1"; }
nothing_mounted() { ! mounted "$lab" && ! mounted "$shared"; }
size_of() { stat -f %z "$1"; }
has_size() { [ "$(size_of "$1")" = "$2" ]; }
is_same() { [ "$(stat -f %i "$1")" = "$(stat -f %i "$2")" ]; }
# The sector $2 of a file or device.
sector() { dd if="$1" bs=512 skip="$2" count=1 2>/dev/null; }
# is_right DEVICE FILE SECTOR: whether it can be read and is as in the file.
is_right() {
    local code=1
    # Read once: a read that fails may take long.
    if sector "$1" "$3" >"$lab/sector.$$" && sector "$2" "$3" | cmp -s - "$lab/sector.$$"; then code=0; fi
    rm -f "$lab/sector.$$"
    return "$code"
}
is_error() { ! dd if="$1" of=/dev/null bs="$2" skip="$3" count=1 2>/dev/null; }
is_attached() { [ -b "$1" ] || [ -n "$dry" ]; }
is_gone() { ! [ -e "$1" ] && ! [ -e "/dev/r${1#/dev/}" ]; }
attach_to() {
    local file=$1
    shift
    "$CDI" -q attach "$@" >"$file" && is_attached "$(cat "$file")"
}
same_part() { # same_part A B FIRST COUNT: in sectors; COUNT may be empty
    cmp <(dd if="$1" bs=512 skip="$3" ${4:+count="$4"} 2>/dev/null) <(dd if="$2" bs=512 skip="$3" ${4:+count="$4"} 2>/dev/null)
}
# rest_is_right DEVICE FILE FIRST LAST: everything but these sectors is as in the file.
rest_is_right() { same_part "$1" "$2" 0 "$3" && same_part "$1" "$2" $(($4 + 1)) ''; }
image_processes() { ps -axo user,pid,command | grep -i diskimage | grep -v grep; }
not_listed() { ! "$CDI" list --json | grep -F "$1"; }
service_phase() { "$CDI" service status --json | word phase; }
is_up() { [ "$(service_phase)" = up ]; }
as_root() { sudo -n "$@"; }
export -f as_root code not within number word daemons mounted nothing_mounted size_of has_size is_same sector is_right is_error is_attached \
    is_gone attach_to same_part rest_is_right image_processes not_listed service_phase is_up

# --- steps ----------------------------------------------------------------------------------------------------------
# attach WHAT ARGUMENTS...: sets device and raw.
attach() {
    local what=$1
    shift
    device='' raw=''
    : >"$lab/device"
    limit=150 check "$what" attach_to "$lab/device" "$@" || return 1
    device=$(cat "$lab/device")
    raw=/dev/r${device#/dev/}
    # The stand-ins make no device.
    [ -z "$dry" ] || raw=$(cat "$STANDIN/attached" "$STANDIN/ioreg" | sed -n -e 's/\.dmg$/.raw/' -e 's/^[^ ]* //p' | tail -1)
}
detach() { limit=150 check "detach${2:+ ($2)}" "$CDI" detach "$1"; }

# Something that has the device open, and the end of it.
holder=
hold() {
    # shellcheck disable=SC2217 # it only has it open
    sleep 600 <"$1" 3>&- 4>&- &
    holder=$!
    sleep 1
}
release() {
    [ -z "$holder" ] || end_process "$holder"
    holder=
}
# end_process PID: ends a process; does not wait for one that hangs in the kernel.
end_process() {
    local try
    kill "$1" 2>/dev/null
    for try in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.2
        [ "$try" != 5 ] || kill -9 "$1" 2>/dev/null
    done
}

# A sector of the large disk that nothing has read: far from all of the earlier ones, so not read ahead either.
fresh_at=0
fresh() { fresh_at=$(((fresh_at + 8 * 2048) % big_sectors)); }

stop() { echo "$1" >>"$lab/stopped" && kill -STOP "$1" 2>/dev/null; }

# --- the end --------------------------------------------------------------------------------------------------------
service=
agent=
tcc=
bundle=
cleanup() {
    trap '' HUP INT TERM
    local line device place
    [ ! -e "$lab/stopped" ] || while read -r line; do kill -CONT "$line"; done <"$lab/stopped" 2>/dev/null
    release
    # It detaches its images first.
    if [ -n "$service" ]; then
        kill "$service" 2>/dev/null
        limited 60 within 50 sh -c "! kill -0 $service" >/dev/null 2>&1 </dev/null
    fi
    if [ -n "$agent" ]; then
        (
            unset CDI_RUNTIME_DIR
            limited 150 "$CDI" -q service uninstall
            limited 100 "$CDI" -q detach --force "$lab/disk.cdimg"
        ) >/dev/null 2>&1 </dev/null
        rm -f "$agent"
    fi
    [ -z "$tcc" ] || tcc_rows delete
    cd / || exit 1
    limited 150 "$CDI" -q detach --all --force >/dev/null 2>&1 </dev/null
    # What is left even so: devices first, because their files are on the mounts.
    limited 30 hdiutil info 2>/dev/null </dev/null | while read -r line; do
        case $line in
        image-path*) case $line in *"$lab"* | *"$shared"*) place=1 ;; *) place='' ;; esac ;;
        /dev/disk*)
            [ -z "${place-}" ] || limited 30 hdiutil detach "${line%%[[:space:]]*}" -force >/dev/null 2>&1 </dev/null
            place=''
            ;;
        esac
    done
    limited 30 mount 2>/dev/null </dev/null | grep -F -e "$lab" -e "$shared" | sed -e 's/^.* on \//\//' -e 's/ ([^(]*$//' | sort -r |
        while read -r place; do limited 30 umount -f "$place" >/dev/null 2>&1 </dev/null; done
    if [ -n "$bundle" ]; then limited 30 pluginkit -r "$bundle/cdi.app/Contents/Extensions/cdi-fskit.appex" >/dev/null 2>&1 </dev/null; fi
    if limited 30 nothing_mounted >"$said" 2>&1 </dev/null; then
        rm -rf "$lab" "$shared"
    else
        result FAILED "cleaning up: something is still mounted"
        indent <"$said"
    fi
}

count() { grep -c "^$1	" "$results"; }
finish() {
    local code=$?
    trap - EXIT
    exec >&3 2>&4
    cleanup
    [ "$(count FAILED)" = 0 ] || code=1
    {
        echo
        echo "== summary (after $SECONDS s)"
        [ "$code" -lt 128 ] || echo "stopped by a signal: the rest was not run"
        echo "$(count ok) checks passed, $(count FAILED) failed, $(count measured) measured, $(count skipped) skipped"
        grep -v "^ok	" "$results" | sort -s -k1,1 | tr '\t' ' '
        echo "everything is in $out"
    } | tee -a "$log"
    if [ -n "${GITHUB_STEP_SUMMARY-}" ]; then
        { echo '```'; sed -n '/^== summary/,$p' "$log"; echo '```'; } >>"$GITHUB_STEP_SUMMARY"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

# --- this Mac -------------------------------------------------------------------------------------------------------
if [ -z "${CDI-}" ]; then
    CDI=$root/target/release/cdi
    if ! limited 1800 cargo build --release </dev/null; then
        result FAILED "cargo build --release"
        exit 1
    fi
fi
export CDI
version=$(sw_vers -productVersion)
page=$(sysctl -n hw.pagesize)
fixtures=$out/tests/macos/fixtures/$version-$(uname -m)
mkdir -p "$fixtures"
have_sudo=
if limited 20 sudo -n true >/dev/null 2>&1 </dev/null; then have_sudo=yes; fi
say "macOS $version ($(sw_vers -buildVersion)), $(uname -m), pages of $page bytes, $("$CDI" --version), bash $BASH_VERSION"
say "user $(id -un), session $(limited 20 launchctl managername 2>&1 </dev/null), sudo without a password: ${have_sudo:-no}, $(limited 20 csrutil status 2>&1 </dev/null | head -1)"
keep uname uname -a
keep nfsstat-before nfsstat -c
keep mounts-before mount
keep diskutil-image-help diskutil image attach --help
keep hdiutil-attach-help hdiutil attach -help
has_diskutil_image=
cat "$out/raw/diskutil-image-help.txt" "$out/raw/diskutil-image-help.stderr.txt" 2>/dev/null | grep -q readOnly && has_diskutil_image=1

cd "$lab" || exit 1
say "== sample"
check "cdi doctor" "$CDI" doctor
limited 60 "$CDI" doctor 2>&1 </dev/null | indent
limited 60 "$CDI" doctor --json >"$out/raw/doctor.json" 2>/dev/null </dev/null
# The demo ends with an attach of its own.
limit=300 check "cdi demo" "$CDI" demo --keep "$lab/sample"
cp sample/disk.cdimg sample/disk.raw . || { result FAILED "there is no sample to test with"; exit 1; }
bad=$("$CDI" map --bad --json disk.cdimg | number first_sector)
size=$(size_of disk.raw)
sectors=$((size / 512))
say "          the sample has $size bytes; sector $bad is bad"
# A large disk, for what must not be cached: without errors, and with one.
big_mib=${CDI_DRY_RUN:+16}
big_mib=${big_mib:-256}
big_sectors=$((big_mib * 2048))
big_bad=$((big_sectors / 2 + 6144))
limited 120 dd if=/dev/urandom of=big.raw bs=1048576 count="$big_mib" 2>/dev/null </dev/null
printf '0x0 ? 1\n0x0 0x%x +\n0x%x 0x200 -\n0x%x 0x%x +\n' $((big_bad * 512)) $((big_bad * 512)) $((big_bad * 512 + 512)) \
    $(((big_sectors - big_bad - 1) * 512)) >big.map
limit=300 check "an image of $big_mib MiB without errors" "$CDI" -q create big.raw clean.cdimg --mapfile none
limit=300 check "an image of $big_mib MiB with one bad sector" code 4 "$CDI" -q create big.raw failing.cdimg --mapfile big.map

# --- the directory, over NFS ----------------------------------------------------------------------------------------
if section directory; then
    check "mount over NFS, without root" "$CDI" mount disk.cdimg mnt
    check "mount lists it as NFS" sh -c "mount | grep ' on $lab/mnt (nfs'"
    keep mount mount
    check "disk.raw has the right size" has_size mnt/disk.raw "$size"
    check "its first MiB is right" cmp -n 1048576 mnt/disk.raw disk.raw
    check "badblocks.json names the sector" grep -q "\"first_sector\": $bad" mnt/badblocks.json
    check "disk.dmg is the same file" is_same mnt/disk.raw mnt/disk.dmg
    check "the file that disables Spotlight exists" test -e mnt/.metadata_never_index
    check "no file can be created" not touch mnt/.DS_Store
    check "no file can be written" not dd if=/dev/zero of=mnt/disk.raw bs=512 count=1 conv=notrunc
    check "the bad sector is an error" is_error mnt/disk.raw 512 "$bad"
    measure "what ls and id say about the owner" sh -c 'id; ls -lnae mnt'
    measure "what nfsstat -m shows every user about the mount" nfsstat -m "$lab/mnt"
    measure "what statfs says" df -k mnt
    check "unmount" "$CDI" unmount mnt
    check "it is unmounted" not mounted "$lab/mnt"
    # Where other users can get at it.
    if [ -n "$have_sudo" ]; then
        check "mount in a directory that others can enter" "$CDI" mount disk.cdimg "$shared/mnt"
        check "another user cannot read disk.raw" not as_root -u nobody head -c 512 "$shared/mnt/disk.raw"
        check "root can read disk.raw" as_root head -c 512 "$shared/mnt/disk.raw"
        check "unmount it" "$CDI" unmount "$shared/mnt"
    else
        result skipped "reads by root and by another user (sudo asks for a password)"
    fi
    mkdir 'a disk'
    cp disk.cdimg 'a disk/grün & blau.cdimg'
    attach "attach an image whose path has blanks and an umlaut" 'a disk/grün & blau.cdimg' &&
        check "it reads correctly" is_right "$raw" "$lab/disk.raw" 0
    detach 'a disk/grün & blau.cdimg'
fi

# --- what macOS's programs print, as fixtures for the stand-ins -----------------------------------------------------
# fixture NAME DIRECTORY: makes tests/macos/fixtures/VERSION/NAME.txt of raw/NAME.txt: with placeholders for the device, the
# file in DIRECTORY, and their sizes (tests/macos/fixtures/README.md).
fixture() {
    local name=$1 plain=${2#/private} disk=${device#/dev/}
    [ -n "$disk" ] || disk=no-disk
    [ -e "$out/raw/$name.txt" ] || return 0
    sed -E -e "s#file://((localhost)?(/private)?)$plain/disk\\.(raw|dmg)#file://\\1@IMAGE_URL@#g" \
        -e "s#$plain/disk\\.(raw|dmg)#@IMAGE@#g" \
        -e "s/(^|[^a-z0-9])(r?)$disk([^0-9]|\$)/\\1\\2@DISK@\\3/g" -e "s/(^|[^a-z0-9])(r?)$disk([^0-9]|\$)/\\1\\2@DISK@\\3/g" \
        -e "s|<integer>$size</integer>|<integer>@SIZE@</integer>|g" -e "s|$HOME|/Users/me|g" \
        -e '/<key>(DeviceBlockSize|blocksize)</{' -e n -e 's/>512</>@BLOCK@</' -e '}' "$out/raw/$name.txt" >"$fixtures/$name.txt"
}

# raw_outputs PROGRAM ATTACH-COMMAND...: the commands that cdi uses, by hand.
raw_outputs() {
    local with=$1
    shift
    check "mount, to attach with $with by hand" "$CDI" mount disk.cdimg mnt || return
    device=''
    keep hdiutil-info-none hdiutil info -plist
    keep ioreg-none ioreg -a -l -r -c AppleDiskImageDevice
    fixture hdiutil-info-none "$lab/mnt"
    fixture ioreg-none "$lab/mnt"
    if limit=120 keep "$with-attach" "$@"; then
        result ok "the command for $with, by hand"
    else
        result FAILED "the command for $with, by hand: $*"
        cat "$out/raw/$with-attach.txt" "$out/raw/$with-attach.stderr.txt" 2>/dev/null | tee "$said" | indent
        diagnose "$with by hand"
    fi
    # The sample has no partitions, so it is the only whole disk.
    device=$(sed -n 's/.*<string>\(\/dev\/\)\{0,1\}\(disk[0-9]*\)<\/string>.*/\2/p' "$out/raw/$with-attach.txt" | head -1)
    if [ -n "$device" ]; then
        keep "hdiutil-info-$with" hdiutil info -plist
        keep "ioreg-$with" ioreg -a -l -r -c AppleDiskImageDevice
        keep "ioreg-iohdix-$with" ioreg -a -l -r -c IOHDIXHDDriveOutKernel
        [ -n "$dry" ] && device=$(sed 's/ .*//' "$STANDIN/attached" "$STANDIN/ioreg" | tail -1)
        device=${device#/dev/}
        keep diskutil-info diskutil info -plist "$device"
        keep "processes-$with" image_processes
        keep "lsof-$with" lsof "$lab/mnt/disk.raw"
        keep "device-$with" ls -l "/dev/$device" "/dev/r$device"
        for name in "$with-attach" "hdiutil-info-$with" "ioreg-$with" diskutil-info; do fixture "$name" "$lab/mnt"; done
        result measured "$device by $with: who reads it: $(awk '{ print $1 }' "$out/raw/processes-$with.txt" 2>/dev/null | sort -u | tr '\n' ' ')"
        if [ "$with" = diskutil ]; then
            limit=60 check "diskutil eject" diskutil eject "/dev/$device"
        else
            limit=60 check "hdiutil detach" hdiutil detach "/dev/$device"
        fi
    fi
    # How long the helper holds the file after the device is gone.
    local start
    start=$(now)
    limited 60 within 45 umount "$lab/mnt" >/dev/null 2>&1 </dev/null
    result measured "the mount can be unmounted $(since "$start") s after $with has detached"
    # The daemon notices it; the stand-ins do not tell it.
    [ -n "$dry" ] || limited 60 within 30 not "$CDI" stats disk.cdimg >/dev/null 2>&1 </dev/null
    limited 60 "$CDI" -q detach --all --force >/dev/null 2>&1 </dev/null
    device=''
}

if section outputs; then
    raw_outputs hdiutil hdiutil attach -imagekey diskimage-class=CRawDiskImage -nomount -readonly -noverify -noautofsck -noautoopen -plist "$lab/mnt/disk.raw"
    if [ -n "$has_diskutil_image" ]; then
        raw_outputs diskutil diskutil image --plist attach --readOnly --noMount "$lab/mnt/disk.dmg"
    else
        result measured "this macOS does not have 'diskutil image attach' with --readOnly"
    fi
fi

# --- the device -----------------------------------------------------------------------------------------------------
device_with() {
    local first last
    attach "attach with $1" disk.cdimg --with "$1" || return
    check "$raw exists" test -c "$raw"
    check "the first sector is right" is_right "$raw" disk.raw 0
    check "the last sector is right" is_right "$raw" disk.raw $((sectors - 1))
    check "the bad sector is an error" is_error "$raw" 512 "$bad"
    # How far the error extends. The map is exact in any case.
    first=$bad last=$bad
    while [ "$first" -gt $((bad - 300)) ] && [ "$first" -gt 0 ] && ! limited 60 is_right "$raw" disk.raw $((first - 1)) </dev/null; do first=$((first - 1)); done
    while [ "$last" -lt $((bad + 300)) ] && [ "$last" -lt $((sectors - 1)) ] && ! limited 60 is_right "$raw" disk.raw $((last + 1)) </dev/null; do last=$((last + 1)); done
    result measured "$1: one bad sector of 512 bytes makes reads fail for $(((last - first + 1) * 512)) bytes on $raw (sectors $first to $last)"
    limit=120 check "the rest of the disk is right" rest_is_right "$raw" disk.raw "$first" "$last"
    check "it cannot be written to" not dd if=/dev/zero of="$raw" bs=512 count=1
    check "diskutil knows it" diskutil info "$device"
    check "attaching it again is refused" code 5 "$CDI" attach disk.cdimg
    hold "$raw"
    limit=100 check "detaching a device in use is refused" code 5 "$CDI" detach disk.cdimg
    check "the device still reads correctly" is_right "$raw" disk.raw 0
    release
    detach disk.cdimg
    check "the device is gone" within 10 is_gone "$device"
    check "nothing is mounted" nothing_mounted
}

if section device; then
    device_with hdiutil
    [ -z "$has_diskutil_image" ] || device_with diskutil
    if attach "attach" disk.cdimg; then
        hold "$raw"
        limit=100 check "detach --force while it is in use" "$CDI" detach --force disk.cdimg
        release
        check "the device is gone" within 10 is_gone "$device"
    fi
    if attach "attach, and let macOS mount it" disk.cdimg --mount; then
        check "the volume is mounted" within 10 test -e "/Volumes/CDI DEMO/LETTER.TXT"
        check "its files are right" grep -q . "/Volumes/CDI DEMO/LETTER.TXT"
        check "imaging a mounted disk is refused" code 5 "$CDI" -q create "$raw" mounted.cdimg
        detach disk.cdimg "while it is mounted"
        check "the volume is gone" not test -e "/Volumes/CDI DEMO/LETTER.TXT"
    fi
    if attach "attach, to image the device" disk.cdimg; then
        limit=200 check "create reads the device; the bad sector is lost" code 4 "$CDI" -q create "$raw" copy.cdimg
        measure "what create calls bad, of sector $bad" "$CDI" map --bad copy.cdimg
        detach disk.cdimg
    fi
fi

# --- granularity and speed ------------------------------------------------------------------------------------------
block() { # block DEVICE BYTES NUMBER: what reading this block gives
    if dd if="$1" of="$lab/block" bs="$2" skip="$3" count=1 2>/dev/null; then
        if dd if="$lab/big.raw" bs="$2" skip="$3" count=1 2>/dev/null | cmp -s - "$lab/block"; then echo right; else echo WRONG; fi
    else
        echo error
    fi
}
speed() { dd if="$1" of=/dev/null bs=1048576 count="$2" 2>&1 | tail -1; }
export -f block speed
if section granularity; then
    attach "attach the large image with one bad sector" failing.cdimg && for node in "$raw" "$device"; do
        for bytes in 512 4096 16384 131072 1048576; do
            at=$((big_bad * 512 / bytes))
            before=$(limited 60 block "$node" $bytes $((at - 1)) </dev/null)
            itself=$(limited 60 block "$node" $bytes $at </dev/null)
            after=$(limited 60 block "$node" $bytes $((at + 1)) </dev/null)
            result measured "$node, blocks of $bytes bytes: before the bad one $before, the bad one $itself, after it $after"
            case "$before $itself $after" in *WRONG*) result FAILED "wrong bytes near a bad sector, blocks of $bytes bytes on $node" ;; esac
        done
        [ -z "$dry" ] || break
    done
    detach failing.cdimg
    for image in clean failing; do
        attach "attach $image.cdimg" $image.cdimg || continue
        limit=120 measure "$image.cdimg, the raw device, a quarter of the disk" speed "$raw" $((big_mib / 4))
        limit=120 measure "$image.cdimg, the same again (cached?)" speed "$raw" $((big_mib / 4))
        detach $image.cdimg
        check "mount $image.cdimg" "$CDI" mount $image.cdimg mnt
        limit=120 measure "$image.cdimg, the file on NFS, a quarter of the disk" speed mnt/disk.raw $((big_mib / 4))
        check "unmount" "$CDI" unmount mnt
    done
    keep nfsstat-after nfsstat -c
fi

# --- other images ---------------------------------------------------------------------------------------------------
if section images; then
    limited 60 "$CDI" -q create disk.raw four.cdimg --mapfile none --sector-size 4096 >/dev/null 2>&1 </dev/null
    if attach "attach with sectors of 4096 bytes" four.cdimg --with hdiutil; then
        check "diskutil reports 4096 bytes" sh -c "diskutil info $device | grep 'Block Size' | grep 4096"
        detach four.cdimg
    fi
    { cat disk.raw && dd if=/dev/urandom bs=512 count=3; } >odd.raw 2>/dev/null
    odd=$((sectors + 3))
    for with in hdiutil ${has_diskutil_image:+diskutil}; do
        attach "attach an image that is no multiple of 4096 bytes with $with" odd.raw --mapfile none --with "$with" || continue
        check "its last sector is right" is_right "$raw" odd.raw $((odd - 1))
        check "there is nothing after it" sh -c "[ \$(dd if='$raw' bs=512 skip=$odd count=1 2>/dev/null | wc -c) = 0 ]"
        detach odd.raw
    done
    # 3 TiB, with a few bytes at its start and its end.
    huge=$((3 * 1024 * 1024 * 2048))
    [ -z "$dry" ] || huge=4096
    if printf start | dd of=huge.raw bs=512 conv=sync 2>/dev/null && printf end | dd of=huge.raw bs=512 seek=$((huge - 1)) conv=sync,notrunc 2>/dev/null; then
        if attach "attach a disk of $((huge / 2097152)) GiB" huge.raw --mapfile none; then
            check "its first sector is right" is_right "$raw" huge.raw 0
            check "its last sector is right" is_right "$raw" huge.raw $((huge - 1))
            check "a sector beyond 2 TiB is right" is_right "$raw" huge.raw $((huge * 5 / 6))
            detach huge.raw
        fi
    else
        result skipped "a disk of 3 TiB: the file system does not take it"
    fi
    rm -f huge.raw
fi

# --- a server that stops for a while --------------------------------------------------------------------------------
timed_stat() {
    local start
    start=$(now)
    stat -f %z "$1" >/dev/null
    echo "exit code $? after $(since "$start") s"
}
export -f timed_stat now since

# stall IMAGE SECONDS: stops the server for some seconds, and reads a sector that nothing has read before.
stall() {
    local image=$1 seconds=$2 pid start code took told
    attach "attach $image" "$image" || return
    pid=$(daemons | head -1)
    fresh
    stop "$pid"
    (sleep "$seconds" && kill -CONT "$pid") >/dev/null 2>&1 </dev/null 3>&- 4>&- &
    limited 150 timed_stat "$lab/run/mnt/${image%.cdimg}/disk.raw" >"$lab/stat" 2>&1 </dev/null &
    start=$(now)
    limited 150 is_right "$raw" big.raw $fresh_at >"$said" 2>&1 </dev/null
    code=$?
    took=$(since "$start")
    kill -CONT "$pid" 2>/dev/null
    wait
    case $code in
    0) told="right data" ;;
    124) told="no end within 150 s" ;;
    *) told="an error" ;;
    esac
    result measured "$image, server stopped for $seconds s: $told after $took s; stat of the file meanwhile: $(cat "$lab/stat")"
    # tests/nfs/macos_client.rs: a read survives this (it gives up after some 25 s).
    if [ "$seconds" -le 12 ]; then
        if [ $code = 0 ]; then result ok "$image: $seconds s of silence are no error"; else result FAILED "$image: $seconds s of silence are an error"; fi
    fi
    fresh
    check "after that, it reads correctly" is_right "$raw" big.raw $fresh_at
    detach "$image"
}
if section stalls; then
    stalls='3 12 30'
    [ -z "$dry" ] || stalls=1
    for image in clean.cdimg failing.cdimg; do
        for seconds in $stalls; do late || stall $image "$seconds"; done
    done
fi

# --- an image on a server that stops --------------------------------------------------------------------------------
if section nested; then
    seconds=90
    [ -z "$dry" ] || seconds=1
    check "mount the outer image" "$CDI" mount clean.cdimg outer
    outer=$(daemons | head -1)
    if attach "attach the disk in it, as an image" outer/disk.raw --mapfile none; then
        inner=$(daemons | grep -v "^$outer\$" | head -1)
        fresh
        stop "$outer"
        (sleep "$seconds" && kill -CONT "$outer") >/dev/null 2>&1 </dev/null 3>&- 4>&- &
        waker=$!
        start=$(now)
        limited 200 is_right "$raw" big.raw $fresh_at >"$said" 2>&1 </dev/null
        result measured "an image whose server is stopped for $seconds s: the read ended with exit code $? after $(since "$start") s (expected: an error after some 30 s)"
        wait "$waker"
        kill -CONT "$outer" 2>/dev/null
        check "the daemon of the inner image is still there" kill -0 "$inner"
        fresh
        check "the inner mount answers" stat "$lab/run/mnt/disk/disk.raw"
        measuring=1
        limit=100 check "the inner disk reads again" is_right "$raw" big.raw $fresh_at
        check "the outer mount reads again" head -c 512 outer/disk.raw
        measuring=
        # By the device: the image's path is on the mount of the outer one.
        detach "$device"
    fi
    limit=150 check "unmount the outer image" "$CDI" unmount outer
fi

# --- a server that dies ---------------------------------------------------------------------------------------------
if section death; then
    for image in clean.cdimg failing.cdimg; do
        attach "attach $image" $image || continue
        fresh
        kill -9 "$(daemons | head -1)"
        start=$(now)
        # A sector that nothing has read: one that is in a cache still reads correctly.
        limited 150 sector "$raw" $fresh_at >/dev/null 2>&1 </dev/null
        code=$?
        took=$(since "$start")
        result measured "$image: a read of the device of a dead daemon ended with exit code $code after $took s (expected: some 38 s)"
        if [ -z "$dry" ]; then
            if [ $code != 0 ] && [ $code != 124 ] && [ "${took%.*}" -lt 45 ]; then
                result ok "$image: a dead daemon is an error within 45 s"
            else
                result FAILED "$image: a dead daemon is an error within 45 s"
            fi
        fi
        start=$(now)
        detach $image "its daemon is dead"
        result measured "$image: detaching it took $(since "$start") s"
        check "nothing is left" nothing_mounted
        check "the device is gone" is_gone "$device"
        if attach "attach it again" $image; then
            check "it reads correctly" is_right "$raw" big.raw 0
            detach $image
        fi
    done
    check "mount" "$CDI" mount clean.cdimg mnt
    fresh
    kill -9 "$(daemons | head -1)"
    limit=150 measure "a read of the file of a dead daemon" is_error mnt/disk.raw 512 $fresh_at
    limit=150 check "unmount cleans up" "$CDI" unmount mnt
    check "nothing is left" nothing_mounted
fi

# --- the service ----------------------------------------------------------------------------------------------------
if section service; then
    long=30
    [ -z "$dry" ] || long=3
    rm -f later.cdimg
    printf '{ "version": 1, "images": [ { "image": "%s" }, { "image": "%s" } ] }\n' "$lab/disk.cdimg" "$lab/later.cdimg" >service.json
    "$CDI" -q service run --config service.json 2>"$out/raw/service-log.txt" </dev/null 3>&- 4>&- &
    service=$!
    check "the service attaches an image" within $long is_up
    check "the service waits for the other image" sh -c "'$CDI' service status | grep waiting"
    cp disk.cdimg later.cdimg
    check "the other image is attached when it appears" within $long "$CDI" -q service status
    kill -9 "$(daemons | head -1)" 2>/dev/null
    limit=100 check "a killed child is restarted" within $((2 * long)) "$CDI" -q service status
    kill "$service" 2>/dev/null
    # shellcheck disable=SC2016 # for the inner shell
    limit=100 check "SIGTERM ends the service" within 90 sh -c '! kill -0 '"$service"
    if kill -0 "$service" 2>/dev/null; then
        end_process "$service"
    else
        wait "$service"
        service_code=$?
        if [ $service_code = 0 ]; then result ok "its exit code is 0"; else result FAILED "its exit code is $service_code"; fi
    fi
    service=
    check "nothing stays mounted" nothing_mounted
fi

# tcc_rows insert|delete: lets the agent's program read network volumes, as a click on "Allow" would. Only in CI, on a machine
# without SIP.
tcc_rows() {
    local database service code=0
    for database in "$HOME/Library/Application Support/com.apple.TCC/TCC.db" "/Library/Application Support/com.apple.TCC/TCC.db"; do
        for service in kTCCServiceSystemPolicyNetworkVolumes kTCCServiceSystemPolicyAllFiles; do
            if [ "$1" = insert ]; then
                limited 20 as_root sqlite3 "$database" "INSERT OR REPLACE INTO access (service, client, client_type, auth_value, auth_reason, auth_version, indirect_object_identifier, flags) VALUES ('$service', '$CDI', 1, 2, 4, 1, 'UNUSED', 0);" || code=1
            else
                limited 20 as_root sqlite3 "$database" "DELETE FROM access WHERE client = '$CDI';" || code=1
            fi
        done >>"$out/raw/tcc.txt" 2>&1 </dev/null
    done
    return $code
}

config=$HOME/.config/cdi/service.json
if [ -n "${CDI_AGENT-}" ] && [ ! -e "$config" ] && section agent; then
    session=$(limited 20 launchctl managername 2>/dev/null </dev/null)
    if [ -n "${CDI_DISPOSABLE-}" ] && [ -n "$have_sudo" ]; then
        keep tcc-before as_root sqlite3 "/Library/Application Support/com.apple.TCC/TCC.db" "SELECT service, client, auth_value FROM access WHERE service LIKE '%NetworkVolumes' OR service LIKE '%AllFiles';"
        tcc=1
        if tcc_rows insert; then
            result measured "TCC: the agent's program was given access to network volumes"
        else
            result measured "TCC: the agent's program could not be given access (raw/tcc.txt)"
            measuring=1
        fi
    fi
    [ "$session" = Aqua ] || measuring=1
    runtime=$CDI_RUNTIME_DIR
    unset CDI_RUNTIME_DIR
    agent=$config
    check "install the agent" "$CDI" service install
    check "its property list is valid" plutil -lint "$HOME/Library/LaunchAgents/org.cdimg.cdi.plist"
    mkdir -p "$(dirname "$config")"
    printf '{ "version": 1, "images": [ { "image": "%s" } ] }\n' "$lab/disk.cdimg" >"$config"
    limit=100 check "start it" "$CDI" service start
    limit=100 check "the image is attached" within 60 is_up
    measure "what the service says" "$CDI" service status
    keep launchctl-print launchctl print "gui/$(id -u)/org.cdimg.cdi"
    start=$(now)
    limit=120 check "stop it" "$CDI" service stop
    result measured "stopping the agent took $(since "$start") s"
    check "it is detached" not_listed "$lab/disk.cdimg"
    check "uninstall the agent" "$CDI" service uninstall
    cp "$HOME/Library/Logs/cdi.log" "$out/raw/agent-log.txt" 2>/dev/null
    rm -f "$config"
    agent=
    export CDI_RUNTIME_DIR=$runtime
    [ -z "$tcc" ] || tcc_rows delete
    tcc=
    measuring=
fi

# --- the extension --------------------------------------------------------------------------------------------------
fskit_is_on() { "$CDI" doctor | grep -q 'FSKit extension *installed and switched on'; }
export -f fskit_is_on
if section fskit; then
    id=org.cdimg.cdi.fskit
    if [ -n "${CDI_FSKIT-}" ] && [ "${version%%.*}" -ge 26 ]; then
        bundle=$out/bundle
        if limit=1500 check "the FSKit extension is built and registered" "$root/fskit-ext/bundle/bundle.sh" "$bundle"; then
            keep codesign codesign -d --entitlements - --verbose=4 "$bundle/cdi.app/Contents/Extensions/cdi-fskit.appex"
            keep pluginkit pluginkit -m -A -D -vvv -p com.apple.fskit.fsmodule
        else
            bundle=
        fi
    fi
    if ! limited 60 fskit_is_on </dev/null && [ -n "$bundle" ] && [ -n "${CDI_DISPOSABLE-}" ]; then
        # In System Settings, a person does this. By other people's reports, FSKit's agent reads this list when it starts.
        measuring=1
        list="$HOME/Library/Group Containers/group.com.apple.fskit.settings/enabledModules.plist"
        if [ -e "$list" ]; then
            check "add the extension to FSKit's list" /usr/libexec/PlistBuddy -c "Add :0 string $id" "$list"
        else
            mkdir -p "$(dirname "$list")"
            printf '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><array><string>%s</string></array></plist>\n' $id >"$list"
        fi
        keep fskit-enabled plutil -p "$list"
        limited 20 killall -9 fskit_agent >/dev/null 2>&1 </dev/null
        [ -z "$have_sudo" ] || limited 20 as_root killall -9 fskitd >/dev/null 2>&1 </dev/null
        sleep 3
    fi
    if limited 60 fskit_is_on </dev/null || [ -n "$bundle" ]; then
        # Whether an ad-hoc signature is enough is an open question.
        limited 60 fskit_is_on </dev/null || measuring=1
        [ -z "$bundle" ] || measuring=1
        limit=120 check "mount with FSKit" "$CDI" mount disk.cdimg fskit --via fskit && {
            keep mount-fskit mount
            check "its first MiB is right" cmp -n 1048576 fskit/disk.raw disk.raw
            check "the bad sector is an error" is_error fskit/disk.raw 512 "$bad"
            measure "its options: does nobrowse hold?" mounted "$lab/fskit"
            limit=120 check "unmount" "$CDI" unmount fskit
            attach "attach through FSKit" disk.cdimg --via fskit && {
                check "the first sector is right" is_right "$raw" disk.raw 0
                check "the bad sector is an error" is_error "$raw" 512 "$bad"
                detach disk.cdimg
            }
        }
        measuring=
    else
        result measured "the FSKit extension is not installed or not switched on"
    fi
fi

# --- the Finder -----------------------------------------------------------------------------------------------------
# take_over: adds the results of another script to those of this one.
take_over() {
    local state text
    while read -r state text; do
        case $state in
        ok | FAILED | measured) result "$state" "$text" ;;
        *) say "          | $state $text" ;;
        esac
    done
}
if section finder; then
    # In our directory, so that what it leaves behind is cleaned up with the rest.
    TMPDIR=$lab limited 600 "$root/tests/macos/finder.sh" >"$out/raw/finder.txt" 2>&1 </dev/null
    code=$?
    take_over <"$out/raw/finder.txt"
    grep -q 'checks passed$\|checks failed$' "$out/raw/finder.txt" || result FAILED "tests/macos/finder.sh ended early (exit code $code)"
fi

# --- all other tests ------------------------------------------------------------------------------------------------
if section tests; then
    # Those that need Linux are skipped by name.
    cd "$root" || exit 1
    limit=${CDI_TESTS_SECONDS:-2400} check "cargo test" env -u CI -u CDI_RUNTIME_DIR -u CDI_OUT cargo test --no-fail-fast
    cp "$said" "$out/raw/cargo-test.txt"
    grep -E '^test result|FAILED|panicked' "$said" | indent
    limit=600 check "cargo test -p cdi-fskit" env -u CI cargo test -p cdi-fskit
    cp "$said" "$out/raw/cargo-test-fskit.txt"
fi
exit 0
