"""The file object and the lists around cdi._cdi."""

import collections.abc
import io
import json
import operator
import os
from typing import NamedTuple

from . import _cdi

# How many ranges are fetched at once.
_BATCH = 1024
# The largest position that a file can have.
_MAX = 2**63 - 1
# How many bytes readall() reads at once.
_STEP = 64 << 20


class Format(NamedTuple):
    """A format that can be read."""

    name: str
    summary: str
    suffixes: tuple


class Block(NamedTuple):
    """A range of the disk, in bytes, that is not finished, and its status, as ddrescue has it."""

    offset: int
    length: int
    status: str


class Failure(NamedTuple):
    """A range of the disk, in bytes, that could not be read.

    kind is "bad" (the disk could not read it), "untried" (nobody tried yet), "damaged" (the image is damaged there) or "io"
    (the image's file cannot be read).
    """

    offset: int
    length: int
    kind: str
    reason: str


class Hash(NamedTuple):
    """A hash that the image stores: of what, the algorithm, and the hash in hex. Unreadable data is hashed as zeros."""

    of: str
    algorithm: str
    hex: str


class _Ranges(collections.abc.Sequence):
    """Ranges that stay in the image's index: a disk may have millions."""

    def __init__(self, count, fetch, after):
        self._count, self._fetch, self._after = count, fetch, after

    def _make(self, item):
        return item

    def __len__(self):
        return self._count()

    def __getitem__(self, index):
        count = len(self)
        if isinstance(index, slice):
            start, stop, step = index.indices(count)
            if step == 1:
                return [self._make(item) for item in self._fetch(start, max(start, stop))]
            return [self[n] for n in range(start, stop, step)]
        index = operator.index(index)
        if index < 0:
            index += count
        if not 0 <= index < count:
            raise IndexError("there is no such range")
        return self._make(self._fetch(index, index + 1)[0])

    def _from(self, start):
        while True:
            batch = self._fetch(start, start + _BATCH)
            yield from map(self._make, batch)
            if len(batch) < _BATCH:
                return
            start += _BATCH

    def __iter__(self):
        return self._from(0)

    def from_offset(self, offset):
        """Iterates over the ranges that end after this byte of the disk: the one that contains it, and those after it."""
        return self._from(self._after(_position(offset)))

    def __repr__(self):
        try:
            ranges = f"{len(self)} ranges"
        except ValueError:
            ranges = "closed"
        return f"<{type(self).__name__}: {ranges}>"


class BadRanges(_Ranges):
    """The ranges of a disk whose reads fail, in order: tuples of offset and length, in bytes.

    They are fetched while they are iterated over: a disk may have millions. Ranges are whole sectors, and neighbours of
    different status (Disk.blocks) are separate.
    """


class Blocks(_Ranges):
    """The ranges of a disk that are not finished, as the image records them, in order: Block tuples."""

    def _make(self, item):
        return Block(*item)


def _position(offset):
    offset = operator.index(offset)
    if offset < 0:
        raise ValueError(f"negative offset {offset}")
    if offset > _MAX:
        raise OverflowError(f"offset {offset} is too large")
    return offset


def _length(length):
    length = operator.index(length)
    if length < 0:
        raise ValueError(f"negative length {length}")
    return min(length, _MAX)


class Disk(io.RawIOBase):
    """A disk, read from its image; cdi.open() makes it. A raw file object that can be read and positioned.

    Reads stop before a sector that cannot be read, and raise cdi.ReadError (an OSError with EIO) if they begin in one.
    Of every method: ValueError if the disk is closed.
    """

    def __init__(self, image, name):
        super().__init__()
        self._image, self._at = image, 0
        #: The path, as it was given to open().
        self.name = name
        self.mode = "rb"
        self._size = image.size()

    def __repr__(self):
        state = "closed" if self.closed else f"{self._size} bytes"
        return f"<cdi.Disk {self.name!r}: {state}>"

    def __reduce_ex__(self, protocol):
        # Copies, too: one of two objects would close the image of the other.
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} objects")

    @property
    def size(self):
        """The size of the disk in bytes."""
        return self._size

    @property
    def sector_size(self):
        """The logical sector size in bytes: 512 if the image does not record it."""
        return self._image.sector_size()

    @property
    def format(self):
        """The name of the image's format, as in cdi.formats()."""
        return self._image.format()

    @property
    def files(self):
        """The files that the image consists of, as a list of paths."""
        return self._image.files()

    @property
    def warnings(self):
        """What is to be known about the image although it can be read, as a list of texts: for example, that bad blocks
        were read from a map next to it, or that segments are missing."""
        return self._image.warnings()

    @property
    def bad(self):
        """The ranges whose reads fail, as a sequence of (offset, length) in bytes. The few formats that mark bad sectors by
        what they contain (AFF) are not listed: there, only the read itself shows it."""
        return BadRanges(self._image.bad_count, self._image.bad_slice, self._image.bad_after)

    @property
    def blocks(self):
        """The ranges that are not finished as the image records them, with their status: a sequence of Block."""
        return Blocks(self._image.block_count, self._image.block_slice, self._image.block_after)

    @property
    def info(self):
        """What `cdi info --json` prints, without partitions and digest, as a dict: docs/SEMANTICS.md has the names."""
        return json.loads(self._image.info())

    @property
    def metadata(self):
        """The metadata of the disk as a dict, as under "metadata" in `cdi info --json`: model, serial, notes and so on."""
        return self.info["metadata"]

    @property
    def hashes(self):
        """The hashes that the image stores, as a list of Hash. `cdi verify` compares the disk with them."""
        return [Hash(*stored) for stored in self._image.hashes()]

    def pread(self, offset, length):
        """Returns at most `length` bytes at `offset`, without using the position. Fewer before a sector that cannot be read
        and at the end of the disk, b"" there, and at most 1 GiB. Raises ReadError if the first byte cannot be read."""
        return self._image.pread(_position(offset), _length(length))

    def read_partial(self, offset, length):
        """Returns all that can be read of `length` bytes at `offset`, and what could not: bytes, with zeros where reads
        fail, and a list of Failure. Fewer bytes at the end of the disk, and at most 1 GiB."""
        data, failures = self._image.read_partial(_position(offset), _length(length))
        return data, [Failure(*failure) for failure in failures]

    def readable(self):
        """Returns True."""
        self._check()
        return True

    def seekable(self):
        """Returns True."""
        self._check()
        return True

    def _check(self):
        if self.closed:
            raise ValueError("I/O operation on closed file.")

    def tell(self):
        """Returns the position in bytes."""
        self._check()
        return self._at

    def seek(self, offset, whence=os.SEEK_SET):
        """Moves the position, and returns it. It may be after the end of the disk, where reads return no bytes."""
        self._check()
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}.get(whence)
        if start is None:
            raise ValueError(f"invalid whence {whence!r}")
        at = start + operator.index(offset)
        if at < 0:
            raise ValueError(f"negative seek position {at}")
        self._at = _position(at)
        return at

    def read(self, size=-1):
        """Returns at most `size` bytes, as pread() does at the position; None or a negative number: all up to the end of
        the disk, or ReadError."""
        if size is None or size < 0:
            return self.readall()
        data = self._image.pread(self._at, _length(size))
        self._at += len(data)
        return data

    def readall(self):
        """Returns all bytes up to the end of the disk. Raises ReadError if there is a sector that cannot be read; the
        position is then what it was before."""
        self._check()
        start, pieces = self._at, []
        try:
            while True:
                data = self.read(_STEP)
                if not data:
                    return b"".join(pieces)
                pieces.append(data)
        except BaseException:
            self._at = start
            raise

    def readinto(self, buffer):
        """Reads into a writable buffer, as read() does of its length. Returns the number of bytes."""
        with memoryview(buffer) as whole, whole.cast("B") as view:
            if view.readonly:
                raise TypeError("readinto() needs a writable buffer")
            data = self._image.pread(self._at, len(view))
            view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self):
        """Closes the image. A disk may be closed twice."""
        if not self.closed:
            try:
                super().close()
            finally:
                self._image.close()


def _path(path):
    name = os.fsencode(path)
    if not name:
        raise FileNotFoundError(2, "the path is empty", path)
    if b"\0" in name:
        raise ValueError("the path contains a null byte")
    return name


def open(path, *, format=None, mapfile=None, badblocks=None, block_size=None, sector_size=None, read_suspect=False,
         allow_parent=(), snapshot=None, member=None, passphrase=None, part=None, cache=64 << 20, remote_cache=None):
    """Opens the image at `path` as a Disk, with its other files.

    path: str, bytes or os.PathLike; also an address: https://…, s3://… (docs/REMOTE.md).
    format: the name of the format, if it cannot be detected (cdi.formats()).
    mapfile: the map of a raw image, by ddrescue or HDDSuperClone; False: none. Default: the one next to the image.
    badblocks, block_size: the list of bad blocks of a raw image, by badblocks(8), and its block size in bytes.
    sector_size: the logical sector size in bytes, for images that do not record it.
    read_suspect: whether suspect sectors return the stored bytes; they count as bad otherwise.
    allow_parent: directories where parents may be, besides the image's own.
    snapshot: the internal snapshot to open. member: the disk to open of an image that holds several.
    passphrase: of an encrypted image, str (UTF-8) or bytes.
    part: (offset, length) in bytes: this part of the disk becomes a disk of its own.
    cache: the maximum memory for decompressed chunks, in bytes.
    remote_cache: (directory, bytes): what is fetched of remote images is kept there.

    Raises FileNotFoundError, PermissionError and the like if a file cannot be opened; cdi.Error if it is not an image that
    can be read.
    """
    if (badblocks is None) != (block_size is None):
        raise ValueError("badblocks and block_size belong together")
    if badblocks is not None and mapfile:
        raise ValueError("a mapfile and a list of bad blocks cannot be used together")
    if block_size is not None and not 0 < block_size <= _MAX:
        raise ValueError(f"invalid block size {block_size}")
    if sector_size is not None and sector_size not in (1 << n for n in range(9, 17)):
        raise ValueError(f"invalid sector size {sector_size} (must be a power of two from 512 to 65536)")
    if isinstance(allow_parent, (str, bytes, os.PathLike)):
        allow_parent = (allow_parent,)
    if isinstance(passphrase, str):
        passphrase = passphrase.encode()
    try:
        directory = os.getcwdb()
    except OSError:
        directory = b"/"
    opening = {
        "path": _path(path),
        "directory": directory,
        "format": format,
        "mapfile": None if mapfile is None else b"" if mapfile is False else _path(mapfile),
        "badblocks": None if badblocks is None else (_path(badblocks), block_size),
        "sector_size": sector_size,
        "read_suspect": bool(read_suspect),
        "allow_parent": [_path(parent) for parent in allow_parent],
        "snapshot": snapshot,
        "member": member,
        "passphrase": None if passphrase is None else bytes(memoryview(passphrase)),
        "part": None if part is None else (_position(part[0]), _length(part[1])),
        "cache": _length(cache),
        "remote_cache": None if remote_cache is None else (_path(remote_cache[0]), _length(remote_cache[1])),
    }
    return Disk(_cdi.open_image(opening), path)


def formats():
    """Returns the formats that can be read, as a list of Format."""
    return [Format(name, summary, tuple(suffixes)) for name, summary, suffixes in _cdi.formats()]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_cdi.before_fork)
