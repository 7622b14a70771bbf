"""The systemd unit: systemd takes it, and finds little that it leaves open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import PATIENCE

UNIT = Path(__file__).parents[2] / "systemd" / "fluidvm.service"


class UnitTests(SynchronousTestCase):
    def analyze(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=PATIENCE)

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
