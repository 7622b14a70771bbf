"""What is there for systemd: it takes the unit, and finds little that it leaves open; and it takes libvirtd's drop-in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import TIMEOUT

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "fluidvm.service"
DROP_IN = SYSTEMD / "libvirtd.service.d" / "files.conf"


class UnitTests(SynchronousTestCase):
    def analyze(self, *arguments: str, units: str = "") -> subprocess.CompletedProcess[str]:
        """@param units: a directory that units come from before all others."""
        environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"} if units else None
        command = ["systemd-analyze", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment)

    def test_systemd_takes_it(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        here = directory / UNIT.name
        twistd = str(Path(sys.executable).with_name("twistd"))
        here.write_text(UNIT.read_text().replace("/opt/fluidvm/bin/twistd", twistd))
        done = self.analyze("verify", "--man=no", str(here))
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_little_is_left_open(self) -> None:
        done = self.analyze("security", "--no-pager", "--offline=true", "--threshold=15", str(UNIT))
        self.assertEqual(done.returncode, 0, done.stdout[-500:])

    def test_systemd_takes_the_drop_in(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / "libvirtd.service").write_text("[Service]\nExecStart=/bin/true\n")
        there = shutil.copytree(DROP_IN.parent, directory / DROP_IN.parent.name) / DROP_IN.name
        paths = [
            word for line in DROP_IN.read_text().splitlines() for word in line.partition("InaccessiblePaths=")[2].split()
        ]
        self.assertIn("-/proc/kmsg", paths)
        self.assertEqual(
            [path for path in paths if not path.startswith("-/")], [], "one that isn't there would stop libvirtd"
        )
        done = self.analyze("verify", "--man=no", str(directory / "libvirtd.service"), units=str(directory))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        there.write_text(there.read_text().replace("InaccessiblePaths", "InaccesiblePaths"))
        done = self.analyze("verify", "--man=no", str(directory / "libvirtd.service"), units=str(directory))
        self.assertIn("InaccesiblePaths", done.stderr, "systemd has read it")
