"""The tests' own PostgreSQL leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import TestCase

from .real_host import until

PROGRAM = """
from tests.postgres import shared_cluster
cluster = shared_cluster()
cluster.create_database()
if {suspended}:
    cluster.suspend()
print(cluster.directory, flush=True)
input()
"""


class LeftoverTests(TestCase):
    timeout = 300

    async def test_of_a_process_that_ends(self) -> None:
        user = self.start(suspended=False)
        user.communicate(b"\n")
        self.assertEqual(user.returncode, 0)
        self.assertFalse(self.directory.exists())
        self.assertEqual(self.processes(), [])

    async def test_of_a_process_that_is_killed(self) -> None:
        user = self.start(suspended=False)
        user.kill()
        await self.gone()

    async def test_of_a_process_that_is_killed_after_it_suspended_it(self) -> None:
        user = self.start(suspended=True)
        user.kill()
        await self.gone()

    async def test_of_a_process_that_is_interrupted(self) -> None:
        user = self.start(suspended=False)
        user.send_signal(signal.SIGINT)
        await self.gone()

    def start(self, suspended: bool) -> subprocess.Popen[bytes]:
        """Start a process that uses one, and find out where it is."""
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(suspended=suspended)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.directory = Path(process.stdout.readline().decode().strip())
        self.assertTrue((self.directory / "data").is_dir())
        self.assertNotEqual(self.processes(), [])
        return process

    def processes(self) -> list[Path]:
        """Those that run in its directory, PostgreSQL's are among them."""
        return [link.parent for link in Path("/proc").glob("[0-9]*/cwd") if self.runs_there(link)]

    def runs_there(self, link: Path) -> bool:
        try:
            return link.readlink().is_relative_to(self.directory)
        except OSError:  # ended meanwhile, or not ours
            return False

    async def gone(self) -> None:
        await until("end of it", lambda: not self.directory.exists() and not self.processes(), 60)
