"""Reports what of a disk can be read: report.py IMAGE

Prints the disk's metadata, the ranges that cannot be read, and the SHA-256 of each part between them. Exits with 1 if the image
cannot be opened, with 2 if there is anything that cannot be read.
"""

import hashlib
import sys

import cdi

PIECE = 1 << 20


def printable(text):
    """The text, with escapes for what would control the terminal: it comes from the image."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def readable_parts(disk):
    """The ranges between the bad ones, as (offset, length)."""
    at = 0
    for offset, length in disk.bad:
        if offset > at:
            yield at, offset - at
        at = offset + length
    if at < disk.size:
        yield at, disk.size - at


def hash_of(disk, offset, length):
    """The SHA-256 of a range, and the ranges in it that cannot be read although they are not known to be bad."""
    digest, lost, end = hashlib.sha256(), [], offset + length
    while offset < end:
        data, failures = disk.read_partial(offset, min(PIECE, end - offset))
        digest.update(data)
        lost += failures
        offset += len(data)
    return digest.hexdigest(), lost


def main(path):
    try:
        disk = cdi.open(path)
    except OSError as error:
        print(f"report: {printable(error)}", file=sys.stderr)
        return 1
    with disk:
        print(f"{disk.format}: {disk.size} bytes in sectors of {disk.sector_size} bytes")
        for name in ("model", "serial", "source"):
            if name in disk.metadata:
                print(f"{name}: {printable(disk.metadata[name])}")
        for warning in disk.warnings:
            print(f"warning: {printable(warning)}")
        all_lost = []
        for offset, length in readable_parts(disk):
            digest, lost = hash_of(disk, offset, length)
            all_lost += lost
            # As the image is damaged here, the hash is of zeros in place of what is lost.
            note = " (damaged)" if lost else ""
            print(f"good {offset}+{length} sha256 {digest}{note}")
        for offset, length in disk.bad:
            print(f"bad {offset}+{length}")
        for failure in all_lost:
            print(f"lost {failure.offset}+{failure.length} {printable(failure.reason)}")
        return 2 if all_lost or len(disk.bad) else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: report.py IMAGE")
    sys.exit(main(sys.argv[1]))
