"""examples/python/report.py, the program that documents the package."""

import hashlib
import os
import subprocess
import sys
import unittest

from support import SECTOR, Case

REPORT = os.path.join(os.environ["CDI_EXAMPLES"], "report.py")


class Report(Case):
    def report(self, *words):
        return subprocess.run([sys.executable, REPORT, *words], capture_output=True, text=True)

    def test_the_good_parts_have_hashes_and_the_bad_ones_are_listed(self):
        ran = self.report(self.image)
        self.assertEqual((ran.returncode, ran.stderr), (2, ""))
        lines = ran.stdout.splitlines()
        self.assertEqual(lines[0], f"cdimg: {len(self.truth)} bytes in sectors of 512 bytes")
        for first, end in ((0, 100), (101, 1000), (1002, 2048)):
            at, stop = first * SECTOR, end * SECTOR
            self.assertIn(f"good {at}+{stop - at} sha256 {hashlib.sha256(self.truth[at:stop]).hexdigest()}", lines)
        self.assertEqual(lines[-2:], ["bad 51200+512", "bad 512000+1024"])

    def test_nothing_of_an_image_controls_the_terminal(self):
        odd = self.dir / "od\x1b[31md.cdimg"
        ran = self.report(odd)
        self.assertEqual((ran.returncode, ran.stdout), (1, ""))
        self.assertNotIn("\x1b", ran.stderr)
        self.assertIn("\\x1b[31m", ran.stderr)

    def test_what_cannot_be_opened(self):
        ran = self.report(self.dir / "none.cdimg")
        self.assertEqual((ran.returncode, ran.stdout), (1, ""))
        self.assertIn("none.cdimg", ran.stderr)
        self.assertEqual(self.report().returncode, 1)


if __name__ == "__main__":
    unittest.main()
