#!/bin/sh
# Builds and installs the C library: install.sh [PREFIX] (default: /usr/local). DESTDIR is prepended, for packagers.
# PROFILE selects the build profile (default: release). Prints the installed files.
set -eu
prefix=${1:-/usr/local}
profile=${PROFILE:-release}
root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)

case $profile in release) flag=--release out=release ;; *) flag= out=debug ;; esac
# shellcheck disable=SC2086
"${CARGO:-cargo}" build -q $flag --manifest-path "$root/Cargo.toml" -p cdi-ffi --target-dir "$target"

to=${DESTDIR:-}$prefix
mkdir -p "$to/include" "$to/lib/pkgconfig"
put() {
    # A running program may use the file that is replaced.
    cp "$1" "$2.new"
    chmod "${3:-644}" "$2.new"
    mv -f "$2.new" "$2"
    echo "$2"
}
put "$root/include/cdi.h" "$to/include/cdi.h"
put "$target/$out/libcdi.a" "$to/lib/libcdi.a"
case $(uname -s) in
Darwin) put "$target/$out/libcdi.dylib" "$to/lib/libcdi.dylib" 755 ;;
*)
    put "$target/$out/libcdi.so" "$to/lib/libcdi.so.$version" 755
    # Before 1.0 each minor version may change the interface.
    so=libcdi.so.${version%.*}
    ln -sf "libcdi.so.$version" "$to/lib/$so"
    ln -sf "$so" "$to/lib/libcdi.so"
    ;;
esac
cat >"$to/lib/pkgconfig/cdi.pc" <<END
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: cdi
Description: Reads disk images, with I/O errors where the original disk had bad sectors
Version: $version
Libs: -L\${libdir} -lcdi
Libs.private: -lm -lpthread -ldl
Cflags: -I\${includedir}
END
echo "$to/lib/pkgconfig/cdi.pc"
