"""A plugin for dissect.target: disk images that cdi reads, with their bad sectors as errors.

    target-query --plugin-path examples/python/dissect_cdi.py disk.cdimg -f hostname
    DISSECT_PLUGINS=examples/python/dissect_cdi.py target-fs disk.cdimg cat /etc/hostname

or, in a program of your own:

    import dissect_cdi
    from dissect.target import Target
    target = Target.open("disk.cdimg")

Without it, dissect.target would take a .cdimg for a raw disk. Made for dissect.target 3.25.
"""

import io
import pathlib

import cdi
from dissect.target import container

# What is opened by cdi and not by dissect's own code. Add suffixes of other formats here: "dmg", "aff", "chd", …
SUFFIXES = {".cdimg"}
MAGIC = b"\x89CDIMG\r\n"


class CdiContainer(container.Container):
    """A disk that cdi reads."""

    __type__ = "cdi"

    def __init__(self, fh, *args, **kwargs):
        path = fh[0] if isinstance(fh, list) else fh
        self.disk = cdi.open(path)
        # The disk itself reads up to a bad sector and no further. dissect.target takes fewer bytes than it asked for as the
        # end of the disk; a BufferedReader returns all of them, or raises.
        self._reader = io.BufferedReader(self.disk)
        super().__init__(fh, self.disk.size, *args, **kwargs)

    @staticmethod
    def _is_here(item):
        """Whether it is a path of this system: not one in another image, nor an open file."""
        path = item[0] if isinstance(item, list) else item
        return isinstance(path, (pathlib.PosixPath, pathlib.WindowsPath))

    @staticmethod
    def detect_path(path, original):
        return CdiContainer._is_here(path) and path.suffix.lower() in SUFFIXES

    @staticmethod
    def _detect_fh(fh, original):
        return CdiContainer._is_here(original) and fh.read(len(MAGIC)) == MAGIC

    def read(self, length=-1):
        return self._reader.read(length)

    def seek(self, offset, whence=io.SEEK_SET):
        return self._reader.seek(offset, whence)

    def tell(self):
        return self._reader.tell()

    def close(self):
        self._reader.close()


container.register(__name__, CdiContainer.__name__, internal=False)
