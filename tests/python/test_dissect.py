"""examples/python/dissect_cdi.py, with dissect.target."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import dissect_cdi
from dissect.target import Target, container
from support import FILES, make_ext4

PLUGIN = dissect_cdi.__file__


class Dissect(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.image = make_ext4(temporary.name)

    def files(self, target):
        """The root of the one file system."""
        (volume,) = target.filesystems
        return volume.path("/")

    def test_the_container_is_that_of_the_plugin(self):
        for path in (self.image, str(self.image)):
            disk = container.open(path)
            self.assertEqual((disk.__type__, disk.size), ("cdi", 8 << 20))
            disk.close()
        renamed = self.image.with_suffix(".evidence")
        os.link(self.image, renamed)
        self.assertEqual(container.open(renamed).__type__, "cdi")

    def test_a_target_has_the_files_and_the_bad_one_raises(self):
        root = self.files(Target.open(self.image))
        names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        self.assertEqual(names, set(FILES))
        for name, data in FILES.items():
            if name != "bad.bin":
                self.assertEqual(root.joinpath(name).read_bytes(), data, name)
        with self.assertRaises(OSError):
            root.joinpath("bad.bin").read_bytes()
        # What is not near the bad sector can still be read.
        with root.joinpath("bad.bin").open("rb") as file:
            file.seek(50_000)
            self.assertEqual(file.read(50_000), FILES["bad.bin"][50_000:])

    def tool(self, name, *words):
        script = pathlib.Path(sys.executable).with_name(name)
        environment = {**os.environ, "DISSECT_PLUGINS": PLUGIN}
        ran = subprocess.run([script, "-q", self.image, *words], capture_output=True, text=True, env=environment)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return ran.stdout

    def test_the_tools_find_the_plugin(self):
        self.assertEqual(self.tool("target-fs", "cat", "/good.txt").encode(), FILES["good.txt"])
        self.assertIn("survivor", self.tool("target-query", "-f", "hostname"))


if __name__ == "__main__":
    unittest.main()
