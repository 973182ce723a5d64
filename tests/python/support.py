"""What the tests share: the program, and images made by it. CDI_PROGRAM is set by tests/python.rs."""

import os
import pathlib
import random
import subprocess
import tempfile
import unittest

SECTOR = 512


def mapfile(sectors, bad):
    """A ddrescue mapfile in which the `bad` sectors (first, count) are bad."""
    lines, at = ["0x0 + 1"], 0
    for first, count in bad:
        if first > at:
            lines.append(f"{at * SECTOR:#x} {(first - at) * SECTOR:#x} +")
        lines.append(f"{first * SECTOR:#x} {count * SECTOR:#x} -")
        at = first + count
    if at < sectors:
        lines.append(f"{at * SECTOR:#x} {(sectors - at) * SECTOR:#x} +")
    return "\n".join(lines) + "\n"


def make_image(directory, disk, bad, name="disk.cdimg", options=()):
    """Images `disk`: NAME.raw, NAME.raw.map and the image are in the directory."""
    raw, image = pathlib.Path(directory, name + ".raw"), pathlib.Path(directory, name)
    raw.write_bytes(disk)
    pathlib.Path(str(raw) + ".map").write_text(mapfile(len(disk) // SECTOR, bad))
    words = [os.environ["CDI_PROGRAM"], "create", raw, image, "--mapfile", str(raw) + ".map", *options]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == (4 if bad else 0), ended.stderr
    return image


class Case(unittest.TestCase):
    """A test with a directory of its own, and a disk of 2048 sectors of which 100, 1000 and 1001 are bad."""

    BAD = [(100, 1), (1000, 2)]

    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.dir = pathlib.Path(temporary.name)
        cls.truth = random.Random(1).randbytes(2048 * SECTOR)
        cls.image = make_image(cls.dir, cls.truth, cls.BAD)


# The files of the disk with a file system, which looks like one of Linux; "bad.bin" has a bad sector.
FILES = {
    "good.txt": b"every byte of this file is right\n",
    "large.bin": random.Random(3).randbytes(300_000),
    "bad.bin": random.Random(4).randbytes(100_000),
    "etc/hostname": b"survivor\n",
    "opt/inner.bin": random.Random(5).randbytes(20_000),
    "var/log/messages": b"nothing to report\n" * 500,
}


def make_ext4(directory):
    """An image of a disk with ext4, without partitions: its path."""
    directory = pathlib.Path(directory)
    for name, data in FILES.items():
        path = directory / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    raw = directory / "ext4.raw"
    raw.write_bytes(bytes(8 << 20))
    made = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", directory / "files", raw]
    subprocess.run(made, check=True, capture_output=True)
    listed = subprocess.run(["debugfs", "-R", "blocks /bad.bin", raw], check=True, capture_output=True, text=True)
    block = int(listed.stdout.split()[3])
    return make_image(directory, raw.read_bytes(), [(block * 8 + 2, 1)], "ext4.cdimg")
