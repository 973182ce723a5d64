"""examples/python/dfvfs_cdi.py, with dfVFS."""

import tempfile
import unittest

import dfvfs_cdi
from dfvfs.helpers import source_scanner
from dfvfs.lib import definitions, errors
from dfvfs.path import factory
from dfvfs.resolver import resolver
from support import FILES, make_ext4

NEW = factory.Factory.NewPathSpec


class DfVFS(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.image = make_ext4(temporary.name)
        cls.disk = NEW(dfvfs_cdi.TYPE_INDICATOR_CDI, parent=NEW(definitions.TYPE_INDICATOR_OS, location=str(cls.image)))

    def test_the_scanner_finds_the_file_system(self):
        context = source_scanner.SourceScannerContext()
        context.OpenSourcePath(str(self.image))
        source_scanner.SourceScanner().Scan(context)
        self.assertEqual(context.source_type, definitions.SOURCE_TYPE_STORAGE_MEDIA_IMAGE)
        kinds, node = [], context.GetRootScanNode()
        while node:
            kinds.append(node.type_indicator)
            node = node.sub_nodes[0] if node.sub_nodes else None
        self.assertEqual(kinds, ["OS", "CDI", definitions.PREFERRED_EXT_BACK_END])

    def test_files_are_right_and_the_bad_one_raises(self):
        for kind in (definitions.TYPE_INDICATOR_EXT, definitions.TYPE_INDICATOR_TSK):
            for name, data in FILES.items():
                with self.subTest(kind=kind, name=name):
                    path_spec = NEW(kind, location="/" + name, parent=self.disk)
                    file = resolver.Resolver.OpenFileObject(path_spec)
                    self.assertEqual(file.get_size(), len(data))
                    if name == "bad.bin":
                        self.assert_raises_after_right_bytes(file, data)
                        file.seek(50_000)
                        self.assertEqual(file.read(50_000), data[50_000:])
                    else:
                        self.assertEqual(file.read(len(data)), data)

    def assert_raises_after_right_bytes(self, file, data):
        # libfsext raises at once; TSK returns what is before the bad sector, and pytsk3 raises RuntimeError.
        at = 0
        with self.assertRaises((OSError, RuntimeError)):
            while at < len(data):
                read = file.read(len(data) - at)
                self.assertEqual(read, data[at : at + len(read)])
                self.assertTrue(read, f"the file ends at byte {at}")
                at += len(read)

    def test_the_disk_itself(self):
        disk = resolver.Resolver.OpenFileObject(self.disk)
        self.assertEqual(disk.get_size(), 8 << 20)
        disk.seek(-10, 2)
        self.assertEqual(disk.get_offset(), (8 << 20) - 10)
        self.assertEqual(len(disk.read()), 10)
        nowhere = NEW("CDI", parent=NEW(definitions.TYPE_INDICATOR_RAW, parent=self.disk.parent))
        self.assertRaises(errors.PathSpecError, resolver.Resolver.OpenFileObject, nowhere)
        self.assertRaises(ValueError, NEW, "CDI")


if __name__ == "__main__":
    unittest.main()
