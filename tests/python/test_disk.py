"""cdi.Disk, as a file object and beyond."""

import copy
import errno
import gc
import hashlib
import io
import json
import os
import pathlib
import pickle
import random
import shutil
import subprocess
import unittest

import cdi
from support import SECTOR, Case, make_image


class Opening(Case):
    def test_paths_of_all_kinds(self):
        for path in (self.image, str(self.image), os.fsencode(self.image)):
            with cdi.open(path) as disk:
                self.assertEqual((disk.size, disk.name), (len(self.truth), path))
        odd = self.dir / os.fsdecode(b"n\xffme.cdimg")
        os.link(self.image, odd)
        with cdi.open(odd) as disk:
            self.assertEqual(disk.files, [str(odd)])

    def test_errors_name_the_file_and_the_reason(self):
        with self.assertRaises(FileNotFoundError) as raised:
            cdi.open(self.dir / "none.cdimg")
        self.assertEqual((raised.exception.errno, raised.exception.filename), (errno.ENOENT, str(self.dir / "none.cdimg")))
        with self.assertRaises(FileNotFoundError):
            cdi.open("")
        text = self.dir / "text.cdimg"
        text.write_text("no image\n" * 1000)
        with self.assertRaises(cdi.Error) as raised:
            cdi.open(text)
        self.assertIsInstance(raised.exception, OSError)
        self.assertEqual((raised.exception.kind, raised.exception.filename), ("bad_image", str(text)))
        with self.assertRaises(cdi.Error) as raised:
            cdi.open(self.image, format="floppy")
        self.assertIn("floppy", str(raised.exception))
        with self.assertRaises(FileNotFoundError) as raised:
            cdi.open(str(self.image) + ".raw", mapfile=self.dir / "lost.map")
        self.assertIn("lost.map", str(raised.exception))
        for wrong in (5, None, object()):
            self.assertRaises(TypeError, cdi.open, wrong)
        self.assertRaises(ValueError, cdi.open, "a\0b")

    def test_options(self):
        raw = str(self.image) + ".raw"
        with cdi.open(raw) as disk:
            self.assertEqual(len(disk.bad), 2)
            self.assertIn(".map", disk.warnings[0])
        with cdi.open(raw, mapfile=False, sector_size=4096, allow_parent=[self.dir, "/"], cache=0) as disk:
            self.assertEqual((len(disk.bad), disk.sector_size, disk.warnings), (0, 4096, []))
            self.assertEqual(disk.read(), self.truth)
        with cdi.open(raw, mapfile=raw + ".map", format="raw", allow_parent=self.dir) as disk:
            self.assertEqual((len(disk.bad), disk.format), (2, "raw"))
        blocks = self.dir / "list"
        blocks.write_text("3\n")
        with cdi.open(raw, mapfile=False, badblocks=blocks, block_size=1024) as disk:
            self.assertEqual(list(disk.bad), [(3072, 1024)])
        with cdi.open(self.image, part=(99 * SECTOR, 3 * SECTOR)) as disk:
            self.assertEqual((disk.size, list(disk.bad)), (3 * SECTOR, [(SECTOR, SECTOR)]))
        for wrong in ({"sector_size": 1000}, {"badblocks": blocks}, {"block_size": 512}, {"cache": -1}, {"part": (-1, 5)},
                      {"mapfile": raw + ".map", "badblocks": blocks, "block_size": 512}):
            with self.subTest(wrong), self.assertRaises(ValueError):
                cdi.open(raw, **wrong)
        for wrong in ({"cache": "much"}, {"format": 5}, {"passphrase": 5.5}, {"passphrase": 1234},
                      {"passphrase": [1, 2]}, {"part": 7}):
            with self.subTest(wrong), self.assertRaises(TypeError):
                cdi.open(raw, **wrong)
        with self.assertRaises(cdi.Error) as raised:
            cdi.open(self.image, part=(0, 2**62))
        self.assertEqual(raised.exception.kind, "usage")


class Reading(Case):
    def setUp(self):
        self.disk = cdi.open(self.image)
        self.addCleanup(self.disk.close)

    def assert_bad(self, sector, read, *args):
        with self.assertRaises(OSError) as raised:
            read(*args)
        error = raised.exception
        self.assertIsInstance(error, cdi.ReadError)
        self.assertEqual((error.errno, error.filename, error.offset, error.kind),
                         (errno.EIO, str(self.image), sector * SECTOR, "bad"))
        self.assertIn(f"bad sector {sector}", str(error))

    def test_every_sector_by_itself(self):
        bad = {100, 1000, 1001}
        for sector in range(self.disk.size // SECTOR):
            if sector in bad:
                self.assert_bad(sector, self.disk.pread, sector * SECTOR, SECTOR)
            else:
                at = sector * SECTOR
                self.assertEqual(self.disk.pread(at, SECTOR), self.truth[at : at + SECTOR])

    def test_a_read_stops_before_a_bad_sector_and_the_next_one_raises(self):
        self.assertEqual(self.disk.read(1 << 20), self.truth[: 100 * SECTOR])
        self.assertEqual(self.disk.tell(), 100 * SECTOR)
        for _ in range(2):
            self.assert_bad(100, self.disk.read, 1)
            self.assertEqual(self.disk.tell(), 100 * SECTOR)
        self.assertEqual(self.disk.seek(SECTOR, os.SEEK_CUR), 101 * SECTOR)
        self.assertEqual(self.disk.read(1 << 20), self.truth[101 * SECTOR : 1000 * SECTOR])
        self.disk.seek(1001 * SECTOR + 5)
        with self.assertRaises(cdi.ReadError) as raised:
            self.disk.read(600)
        self.assertEqual(raised.exception.offset, 1001 * SECTOR + 5)
        self.disk.seek(-3, os.SEEK_END)
        self.assertEqual([self.disk.read(9), self.disk.read(9)], [self.truth[-3:], b""])
        # Not the end of the disk: the position is what it was.
        self.disk.seek(7)
        self.assert_bad(100, self.disk.read)
        self.assertEqual(self.disk.tell(), 7)
        self.disk.seek(1002 * SECTOR)
        self.assertEqual(self.disk.readall(), self.truth[1002 * SECTOR :])

    def test_readinto_any_buffer(self):
        import array
        buffers = [bytearray(1000), memoryview(bytearray(1000)), array.array("I", [0] * 250)]
        for buffer in buffers:
            self.disk.seek(99 * SECTOR - 100)
            self.assertEqual(self.disk.readinto(buffer), 612)
            self.assertEqual(bytes(memoryview(buffer).cast("B"))[:612], self.truth[99 * SECTOR - 100 : 100 * SECTOR])
            self.assert_bad(100, self.disk.readinto, buffer)
        self.assertEqual(self.disk.readinto(bytearray()), 0)
        self.assertRaises(TypeError, self.disk.readinto, b"constant")
        self.assertRaises(TypeError, self.disk.readinto, 5)

    def test_a_buffered_reader_returns_what_was_asked_for_or_raises(self):
        with io.BufferedReader(self.disk, 4096) as reader:
            # Up to the bad sector, in sizes that fit nothing.
            got = b"".join(reader.read(77) for _ in range(100 * SECTOR // 77))
            rest = 100 * SECTOR - len(got)
            got += reader.read(rest)
            self.assertEqual(got, self.truth[: 100 * SECTOR])
            self.assertRaises(OSError, reader.read, 1)
            # A read across it raises, and what is before it can still be read.
            reader.seek(98 * SECTOR)
            self.assertRaises(OSError, reader.read, 4 * SECTOR)
            reader.seek(98 * SECTOR)
            self.assertEqual(reader.read(2 * SECTOR), self.truth[98 * SECTOR : 100 * SECTOR])
            self.assertRaises(OSError, reader.read, 1)
            reader.seek(101 * SECTOR)
            self.assertEqual(reader.read(899 * SECTOR), self.truth[101 * SECTOR : 1000 * SECTOR])
            reader.seek(0)
            self.assertRaises(OSError, reader.read)
            with self.assertRaises(OSError):
                shutil.copyfileobj(reader, io.BytesIO())
            reader.seek(1002 * SECTOR)
            target = io.BytesIO()
            shutil.copyfileobj(reader, target)
            self.assertEqual(target.getvalue(), self.truth[1002 * SECTOR :])

    def test_random_reads_through_a_buffer_are_right_or_raise(self):
        chance, bad = random.Random(2), [range(100 * SECTOR, 101 * SECTOR), range(1000 * SECTOR, 1002 * SECTOR)]
        reader = io.BufferedReader(self.disk, 1 << 13)
        for _ in range(2000):
            at, size = chance.randrange(self.disk.size), chance.choice((1, 100, 512, 5000, 100_000))
            touches = any(at < r.stop and at + size > r.start for r in bad)
            try:
                reader.seek(at)
                self.assertEqual(reader.read(size), self.truth[at : at + size])
                self.assertFalse(touches)
            except OSError as error:
                self.assertEqual((error.errno, touches), (errno.EIO, True))

    def test_partial_reads(self):
        data, failures = self.disk.read_partial(99 * SECTOR, 1 << 30)
        expected = bytearray(self.truth[99 * SECTOR :])
        for first, count in self.BAD:
            expected[(first - 99) * SECTOR : (first - 99 + count) * SECTOR] = bytes(count * SECTOR)
        self.assertEqual(data, bytes(expected))
        self.assertEqual([(f.offset, f.length, f.kind) for f in failures],
                         [(100 * SECTOR, SECTOR, "bad"), (1000 * SECTOR, 2 * SECTOR, "bad")])
        self.assertEqual(failures[0].reason, "bad sector 100")
        self.assertEqual(self.disk.read_partial(1000 * SECTOR + 1, 5), (bytes(5), [(1000 * SECTOR + 1, 5, "bad", "bad sector 1000")]))
        self.assertEqual(self.disk.read_partial(self.disk.size, 5), (b"", []))

    def test_what_makes_no_sense(self):
        for wrong in ((-1, 5), (0, -5)):
            self.assertRaises(ValueError, self.disk.pread, *wrong)
            self.assertRaises(ValueError, self.disk.read_partial, *wrong)
        for wrong in ((0.5, 5), (0, "5"), (None, 1)):
            self.assertRaises(TypeError, self.disk.pread, *wrong)
        self.assertRaises(ValueError, self.disk.seek, -1)
        self.assertRaises(ValueError, self.disk.seek, -self.disk.size - 1, os.SEEK_END)
        self.assertRaises(ValueError, self.disk.seek, 0, 9)
        self.assertRaises(OverflowError, self.disk.seek, 2**70)
        self.assertRaises(OverflowError, self.disk.pread, 2**64, 1)
        self.assertEqual(self.disk.tell(), 0)
        self.assertEqual(self.disk.seek(2**63 - 1), 2**63 - 1)
        self.assertEqual(self.disk.read(5), b"")
        self.assertEqual(self.disk.pread(2**62, 2**62), b"")
        # Memory is what is there, not what is asked for.
        self.assertEqual(self.disk.pread(1002 * SECTOR, 2**80), self.truth[1002 * SECTOR :])
        self.assertEqual(self.disk.pread(self.disk.size, 5), b"")
        self.assertEqual(self.disk.pread(100 * SECTOR, 0), b"")
        for method in (self.disk.fileno, self.disk.truncate):
            self.assertRaises(OSError, method)
        self.assertFalse(self.disk.writable())
        self.assertFalse(self.disk.isatty())
        self.assertTrue(self.disk.readable() and self.disk.seekable())

    def test_there_are_no_copies(self):
        for copy_of in (copy.copy, copy.deepcopy, pickle.dumps):
            self.assertRaises(TypeError, copy_of, self.disk)
        gc.collect()
        self.assertEqual(self.disk.pread(0, 5), self.truth[:5])

    def test_large_reads_of_an_image_that_became_shorter(self):
        path = self.dir / "long.raw"
        path.write_bytes(self.truth * 4)
        with cdi.open(path) as disk:
            for size in (3 * len(self.truth) + SECTOR, len(self.truth) // 2, 0):
                os.truncate(path, size)
                if size:
                    self.assertEqual(disk.pread(0, 1 << 30), (self.truth * 4)[:size])
                self.assertRaises(cdi.ReadError, disk.pread, size, 1 << 30)
                self.assertRaises(cdi.ReadError, disk.read)

    def test_a_closed_disk(self):
        bad = self.disk.bad
        self.disk.close()
        self.disk.close()
        self.assertTrue(self.disk.closed)
        for call in (self.disk.read, self.disk.tell, self.disk.readall, self.disk.readable, lambda: self.disk.seek(0),
                     lambda: self.disk.pread(0, 1), lambda: self.disk.readinto(bytearray(5)), lambda: self.disk.format,
                     lambda: self.disk.metadata, lambda: list(bad), self.disk.__enter__):
            self.assertRaises(ValueError, call)
        self.assertIn("closed", repr(self.disk))
        self.assertEqual(repr(bad), "<BadRanges: closed>")
        self.assertEqual(self.disk.size, len(self.truth))


class Describing(Case):
    def test_bad_ranges(self):
        with cdi.open(self.image) as disk:
            expected = [(first * SECTOR, count * SECTOR) for first, count in self.BAD]
            self.assertEqual(list(disk.bad), expected)
            self.assertEqual((disk.bad[0], disk.bad[-1], disk.bad[1:], disk.bad[::-1]),
                             (expected[0], expected[1], expected[1:], expected[::-1]))
            self.assertIn(expected[1], disk.bad)
            self.assertRaises(IndexError, lambda: disk.bad[2])
            self.assertEqual(list(disk.bad.from_offset(100 * SECTOR + 1)), expected)
            self.assertEqual(list(disk.bad.from_offset(101 * SECTOR)), expected[1:])
            self.assertEqual(disk.blocks[0], (100 * SECTOR, SECTOR, "bad-sector"))
            self.assertEqual(disk.blocks[1].status, "bad-sector")
            self.assertEqual(len(disk.bad), len(disk.blocks))

    def test_many_ranges_are_fetched_as_they_are_wanted(self):
        bad = [(n, 1) for n in range(0, 20000, 2)]
        image = make_image(self.dir, bytes(20001 * SECTOR), bad, "many.cdimg")
        with cdi.open(image) as disk:
            self.assertEqual(list(disk.bad), [(n * SECTOR, SECTOR) for n, _ in bad])
            self.assertEqual(disk.bad[9999], (19998 * SECTOR, SECTOR))
            self.assertEqual(next(iter(disk.bad.from_offset(7000 * SECTOR + 512))), (7002 * SECTOR, SECTOR))

    def test_metadata_is_that_of_the_program(self):
        words = [os.environ["CDI_PROGRAM"], "info", "--json", self.image]
        said = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
        with cdi.open(self.image) as disk:
            self.assertEqual(disk.metadata, said["metadata"])
            self.assertTrue(set(disk.info) <= set(said))
            for key in disk.info:
                self.assertEqual(disk.info[key], said[key])
            zeros = bytearray(self.truth)
            for first, count in self.BAD:
                zeros[first * SECTOR : (first + count) * SECTOR] = bytes(count * SECTOR)
            self.assertEqual(disk.metadata["sha256_zero_filled"], hashlib.sha256(zeros).hexdigest())
            for stored in disk.hashes:
                self.assertEqual(len(stored), 3)
            self.assertIn(str(self.image), repr(disk))

    def test_documentation_and_types(self):
        for name in cdi.__all__:
            self.assertTrue(getattr(cdi, name).__doc__, name)
        for name in vars(cdi.Disk):
            if not name.startswith("_") and name != "closed":
                self.assertTrue(getattr(cdi.Disk, name).__doc__, name)
        package = pathlib.Path(cdi.__file__).parent
        self.assertTrue((package / "py.typed").exists())
        stub = (package / "__init__.pyi").read_text()
        for name in [*cdi.__all__, *(n for n in vars(cdi.Disk) if not n.startswith("_"))]:
            if name not in ("readable", "seekable", "tell", "seek", "close"):
                self.assertIn(name, stub)
        compile(stub, "cdi.pyi", "exec")
        self.assertIn("cdimg", [format.name for format in cdi.formats()])


class Damage(Case):
    def test_a_damaged_chunk_is_an_error_and_its_neighbours_are_not(self):
        image = self.dir / "damaged.cdimg"
        data = bytearray(self.image.read_bytes())
        # In the middle of the chunks, which random data does not compress.
        for at in range(len(data) // 2, len(data) // 2 + 64):
            data[at] ^= 0xFF
        image.write_bytes(data)
        with cdi.open(image) as disk:
            read, failures = disk.read_partial(0, disk.size)
            kinds = [f.kind for f in failures]
            self.assertIn("damaged", kinds)
            lost = set()
            for f in failures:
                self.assertEqual(f.offset % SECTOR, 0)
                lost.update(range(f.offset // SECTOR, (f.offset + f.length) // SECTOR))
            # A chunk or two of 32 KiB, and the bad sectors.
            self.assertLess(len(lost), 2 * 64 + 4)
            for sector in set(range(disk.size // SECTOR)) - lost:
                at = sector * SECTOR
                self.assertEqual(read[at : at + SECTOR], self.truth[at : at + SECTOR])
            first = next(f for f in failures if f.kind == "damaged")
            with self.assertRaises(cdi.ReadError) as raised:
                disk.pread(first.offset, 1)
            self.assertEqual((raised.exception.errno, raised.exception.kind), (errno.EIO, "damaged"))
            before = max((f.offset + f.length for f in failures if f.offset < first.offset), default=0)
            # A read stops there, too.
            self.assertEqual(len(disk.pread(before, 1 << 30)), first.offset - before)


if __name__ == "__main__":
    unittest.main()
