"""Reads disk images as the disks they were: bad sectors are errors, not zeros.

    import cdi

    with cdi.open("disk.cdimg") as disk:
        print(disk.size, disk.sector_size, disk.format)
        for offset, length in disk.bad:
            print(f"{length} bytes from {offset} on cannot be read")
        boot = disk.pread(0, 512)

Any format that the program `cdi` reads can be opened: .cdimg, E01, AFF4, dmg, qcow2, VMDK, raw images with a ddrescue
mapfile next to them, and more (cdi.formats()). Images are only read, never written.

A disk is a raw file object. What a read returns is what a read(2) of the disk itself would have returned:

- A read stops before a sector that cannot be read, and returns the bytes before it: fewer than were asked for, but at
  least one. This is not the end of the disk; only a read that returns no bytes is.
- A read that begins in such a sector raises cdi.ReadError, an OSError whose errno is EIO. The position does not move:
  seek() past the sector to continue.

Programs that expect read(n) to return n bytes, as most do, use io.BufferedReader(disk): it returns n bytes or raises.
When it raises, the bytes before the bad sector are not lost: seek() back and read fewer, or use Disk.read_partial().

A disk may be read by several threads at once; other threads run while it is read. pread() does not use the position, so
it is the method for that. After os.fork(), a disk works in both processes: the child opens the image again.
"""

from ._cdi import Error, ReadError, __version__
from ._disk import BadRanges, Block, Blocks, Disk, Failure, Format, Hash, formats, open

__all__ = [
    "BadRanges", "Block", "Blocks", "Disk", "Error", "Failure", "Format", "Hash", "ReadError", "formats", "open",
    "__version__",
]
