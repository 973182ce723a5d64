"""A disk that several threads use, or several processes."""

import errno
import os
import pathlib
import random
import shutil
import threading
import unittest

import cdi
from support import SECTOR, Case, make_image, mapfile


class Together(Case):
    def test_many_threads_read_one_disk(self):
        wrong = []

        def work(seed):
            chance = random.Random(seed)
            try:
                for _ in range(300):
                    at = chance.randrange(1002 * SECTOR, len(self.truth))
                    size = chance.randrange(1, 50_000)
                    if disk.pread(at, size) != self.truth[at : at + size]:
                        wrong.append((at, size))
            except BaseException as error:
                wrong.append(error)

        with cdi.open(self.image) as disk:
            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual(wrong, [])

    def test_closing_while_others_read(self):
        for _ in range(20):
            disk, ended = cdi.open(self.image), []

            def work():
                try:
                    while True:
                        disk.pread(0, 50_000)
                except ValueError as error:
                    ended.append(error)

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            disk.close()
            for thread in threads:
                thread.join(10)
            self.assertEqual(len(ended), 3)

    def test_a_forked_process_reads_on(self):
        os.chdir(self.dir)
        self.addCleanup(os.chdir, "/")
        with cdi.open("disk.cdimg") as disk:
            disk.seek(200 * SECTOR)
            self.assertEqual(disk.read(10), self.truth[200 * SECTOR :][:10])
            child = os.fork()
            if child == 0:
                # No exception may get out: the child would run the rest of the tests.
                code = 1
                try:
                    os.chdir("/")
                    good = disk.read(5000) == self.truth[200 * SECTOR + 10 :][:5000]
                    good = good and disk.pread(1002 * SECTOR, 1 << 20) == self.truth[1002 * SECTOR :]
                    disk.close()
                    code = 0 if good and disk.closed else 2
                finally:
                    os._exit(code)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            self.assertEqual(disk.read(10), self.truth[200 * SECTOR + 10 :][:10])

    def test_a_forked_process_does_not_take_another_image_for_this_one(self):
        image = make_image(self.dir, self.truth, self.BAD, "replaced.cdimg")
        with cdi.open(image) as disk:
            os.replace(make_image(self.dir, bytes(len(self.truth)), [], "other.cdimg"), image)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    disk.pread(0, 5)
                except cdi.Error as error:
                    code = 0 if error.errno == errno.ESTALE else 2
                finally:
                    os._exit(code)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            self.assertEqual(disk.pread(0, 5), self.truth[:5])

    def assert_refused_after_fork(self, disk, offset):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                disk.pread(offset, 5)
                code = 3
            except cdi.Error as error:
                code = 0 if error.errno == errno.ESTALE and error.kind == "changed" else 2
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_a_forked_process_does_not_read_by_another_map(self):
        raw = pathlib.Path(str(self.image) + ".raw")
        image, lists = self.dir / "mapped.raw", self.dir / "mapped.raw.map"
        shutil.copy(raw, image)
        with self.subTest("moved"):
            shutil.copy(str(raw) + ".map", lists)
            with cdi.open(image) as disk:
                os.rename(lists, self.dir / "moved")
                self.assert_refused_after_fork(disk, 100 * SECTOR)
                self.assertRaises(cdi.ReadError, disk.pread, 100 * SECTOR, 5)
        for given in ({}, {"mapfile": lists}):
            with self.subTest("replaced", **given):
                shutil.copy(str(raw) + ".map", lists)
                with cdi.open(image, **given) as disk:
                    (self.dir / "new").write_text(mapfile(2048, [(3, 1)]))
                    os.replace(self.dir / "new", lists)
                    self.assert_refused_after_fork(disk, 100 * SECTOR)

    def test_a_forked_process_does_not_take_another_segment_for_this_one(self):
        half = len(self.truth) // 2
        first, second = self.dir / "halves.001", self.dir / "halves.002"
        first.write_bytes(self.truth[:half])
        second.write_bytes(self.truth[half:])
        with cdi.open(first) as disk:
            self.assertEqual((len(disk.files), disk.pread(half, 5)), (2, self.truth[half:][:5]))
            # Nothing changed.
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = 0 if disk.pread(half, 5) == self.truth[half:][:5] else 2
                finally:
                    os._exit(code)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            new = self.dir / "new"
            new.write_bytes(bytes(half))
            # Of the same length and time.
            when = second.stat().st_mtime_ns
            os.utime(new, ns=(when, when))
            os.replace(new, second)
            self.assert_refused_after_fork(disk, half)
            self.assertEqual(disk.pread(half, 5), self.truth[half:][:5])


if __name__ == "__main__":
    unittest.main()
