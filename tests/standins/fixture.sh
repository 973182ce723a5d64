# For the other stand-ins: prints what macOS's programs print, from tests/macos/fixtures. Which system's, $STANDIN/version
# says.

# escape TEXT: for XML, and as a replacement of sed's.
escape() {
    printf %s "$1" | sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/[\\&|]/\\&/g'
}

# url PATH: as in a URL.
url() {
    printf %s "$1" | od -An -v -tu1 | LC_ALL=C awk '{
        for (i = 1; i <= NF; i++) {
            c = $i
            plain = c >= 45 && c <= 57 || c >= 65 && c <= 90 || c >= 97 && c <= 122 || c == 95 || c == 126
            printf plain ? "%c" : "%%%02X", c
        }
    }'
}

# fixture NAME [DEVICE IMAGE]
fixture() {
    version=documented
    [ ! -e "$STANDIN/version" ] || version=$(cat "$STANDIN/version")
    size=0 block=512 disk=${2-}
    [ ! -e "$STANDIN/size" ] || size=$(cat "$STANDIN/size") block=$(cat "$STANDIN/block")
    sed -e "s|@DISK@|${disk#/dev/}|g" -e "s|@IMAGE_URL@|$(url "${3-}")|g" -e "s|@IMAGE@|$(escape "${3-}")|g" \
        -e "s|@SIZE@|$size|g" -e "s|@BLOCK@|$block|g" "$(dirname "$0")/../macos/fixtures/$version/$1.txt"
}

# listed NAME: the fixture for what is attached, by hdiutil ($STANDIN/attached: a device and its image), by diskutil
# ($STANDIN/ioreg), or for nothing.
listed() {
    touch "$STANDIN/attached" "$STANDIN/ioreg"
    [ "$(cat "$STANDIN/attached" "$STANDIN/ioreg" | wc -l)" -le 1 ] || { echo "stand-in: for one image at a time" >&2; exit 99; }
    if read -r device image < "$STANDIN/attached"; then
        fixture "$1-hdiutil" "$device" "$image"
    elif read -r device image < "$STANDIN/ioreg"; then
        fixture "$1-diskutil" "$device" "$image"
    else
        fixture "$1-none"
    fi
}
