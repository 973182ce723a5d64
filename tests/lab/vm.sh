#!/bin/sh
# vm.sh KERNEL JOB: boots a kernel under qemu, and runs a job of the lab on it (docs/TESTING.md, "The lab"). By hand: it is
# emulated, so it takes minutes, and its times mean nothing.
#
# KERNEL is a directory with an unpacked Debian kernel (from backports; 7.3 is in three packages: linux-base-…,
# linux-binary-… and linux-modules-…):
#     apt-get download linux-image-6.12.95+deb12-amd64; dpkg-deb -x linux-image-*.deb kernel
# Needs the packages qemu-system-x86, busybox-static, cpio, kmod, and what the job needs. The guest has this machine's
# files as its root, read-only.
set -eu
kernel=$(realpath "$1") job=$2
cd "$(dirname "$0")/../.."
root=$PWD work=$(mktemp -d "${TMPDIR:-/tmp}/cdi-vm-XXXXXX")
trap 'rm -rf "$work"' EXIT

cargo test --quiet --test lab --no-run
target=${CARGO_TARGET_DIR:-$root/target}
lab=$(find "$target/debug/deps" -name 'lab-*' -type f -executable -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2)
modules=$(echo "$kernel"/lib/modules/* "$kernel"/usr/lib/modules/* | tr ' ' '\n' | grep -v '\*' | head -n 1)
version=$(basename "$modules")
image=$kernel/boot/vmlinuz-$version
[ -e "$image" ] || image=$modules/vmlinuz

# modprobe looks in lib/modules.
mkdir -p "$work/modules/lib/modules" "$work/initrd/modules"
ln -s "$modules" "$work/modules/lib/modules/$version"
[ -e "$modules/modules.dep.bin" ] || depmod -b "$work/modules" "$version"

# An initrd that mounts this machine's root over 9p, and starts the lab as its first process.
cp /bin/busybox "$work/initrd/"
for module in virtio_pci 9pnet_virtio 9p; do
    modprobe -d "$work/modules" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/list"
number=100
while read -r file; do
    number=$((number + 1))
    case $file in
    *.xz) xz -dc "$file" >"$work/initrd/modules/$number.ko" ;;
    *.zst) zstd -dcq "$file" >"$work/initrd/modules/$number.ko" ;;
    *) cp "$file" "$work/initrd/modules/$number.ko" ;;
    esac
done <"$work/list"
cat >"$work/initrd/init" <<'INIT'
#!/busybox sh
/busybox mkdir -p /proc /root
for module in /modules/*.ko; do /busybox insmod "$module"; done
/busybox mount -t proc proc /proc
for word in $(/busybox cat /proc/cmdline); do
    case $word in lab.init=*) init=${word#lab.init=} ;; esac
done
/busybox umount /proc
/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose host /root
exec /busybox switch_root /root "$init"
INIT
chmod +x "$work/initrd/init"
(cd "$work/initrd" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initrd.gz"

# The disks of the job virtual-disks: the sample, with three sectors that qemu makes fail.
set --
if [ "$job" = virtual-disks ]; then
    "$lab" --write-sample "$work/disk.raw"
    for sector in 1000 3182 8191; do
        printf '[inject-error]\nevent = "none"\niotype = "read"\nerrno = "5"\nsector = "%s"\n' $sector
    done >"$work/errors"
    for name in blk scsi nvme; do
        cp "$work/disk.raw" "$work/$name.raw"
        set -- "$@" -blockdev "driver=blkdebug,node-name=$name,config=$work/errors,image.driver=file,image.filename=$work/$name.raw"
    done
    set -- "$@" -device virtio-blk-pci,drive=blk -device virtio-scsi-pci -device scsi-hd,drive=scsi \
        -device nvme,drive=nvme,serial=lab
fi

qemu-system-x86_64 -accel tcg,thread=multi -cpu max,la57=off -machine q35 -m 2048 -smp 2 \
    -display none -nodefaults -no-reboot -monitor none -serial stdio \
    -kernel "$image" -initrd "$work/initrd.gz" \
    -append "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off \
lab.init=$(realpath "$lab") lab.job=$job lab.cdi=$(realpath "$target")/debug/cdi lab.modules=$work/modules" \
    -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap \
    -device virtio-9p-pci,fsdev=host,mount_tag=host "$@" </dev/null | tee "$work/output"
grep -q '^all [0-9]* comparisons are as expected' "$work/output"
