"""The stand-ins' commands are as processes of their own: streams, signals, and nothing that outlives them or the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.fakes.vz.node import FakeNode
from tests.fakes.vz.server import IDLE, tool_server

OWNER = """
import subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from tests.fakes.vz.node import FakeNode
from tests.fakes.vz.server import IDLE, tool_server
from pathlib import Path
node = FakeNode(Path(sys.argv[2]))
node.fault("vzlist", hang=1)
command = subprocess.Popen([node.bin / "vzlist"], start_new_session=True)
print(command.pid, tool_server()._process.pid, tool_server().launcher, flush=True)
time.sleep(600)
"""


class ServerTests(TestCase):
    def setUp(self) -> None:
        self.node = FakeNode(Path(self.mktemp()))
        self.call("vzctl", "create", "101")
        self.call("vzctl", "start", "101")

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self.node.bin / argv[0], *argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def call(self, *argv: str, **options: Any) -> str:
        argv = (str(self.node.bin / argv[0]), *argv[1:])
        return subprocess.run(argv, check=True, capture_output=True, text=True, **options).stdout

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():  # as long as trial's time-out
            await deferLater(reactor, 0.01, lambda: None)

    async def hanging(self, verb: str, *argv: str) -> subprocess.Popen[str]:
        """A command that hangs, with its lock in its hands if it takes one."""
        self.node.fault(verb, hang=1)
        process = self.start(*argv)
        await self.until(lambda: not (self.node.root / "faults" / verb).exists())
        return process

    def commands(self) -> list[int]:
        """The processes that are commands now."""
        server = tool_server()._process.pid
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        return [int(pid) for pid in children if runs(pid)]

    async def command(self) -> int:
        """The process that is the only command."""
        await self.until(lambda: len(self.commands()) == 1)
        return self.commands()[0]

    async def test_streams_words_and_codes(self) -> None:
        process = self.start("vzctl", "exec2", "101", 'cat; echo "it\'s" >&2; exit 7')
        assert process.stdin is not None
        assert process.stdout is not None
        for line in ("one\n", "two\n"):
            process.stdin.write(line)
            process.stdin.flush()
            self.assertEqual(process.stdout.readline(), line, "while standard input is still open")
        self.assertEqual(process.communicate("x" * 300_000), ("x" * 300_000, "it's\n"))
        self.assertEqual(process.returncode, 7)
        words = ["", "it's", "x" * 100_000]
        self.start("vzlist", "-1", *words).communicate()
        self.assertEqual(self.node.calls()[-1], ["vzlist", "-1", *words])

    async def test_directory_and_environment(self) -> None:
        here = Path(self.mktemp()).absolute()
        here.mkdir()
        self.node.fault("vzlist", hang=1)
        self.start("vzlist", cwd=here)
        await self.until(lambda: not (self.node.root / "faults/vzlist").exists())
        pid = await self.command()
        self.assertEqual(Path(f"/proc/{pid}/cwd").readlink(), here.resolve())
        # Local time is what can be seen of the environment.
        self.node.set(LAYOUT="ploop")
        self.call("vzctl", "create", "102")
        for zone in ("EAST-12", "WEST+12"):
            self.call("vzctl", "snapshot", "102", "--id", str(uuid.uuid4()), env={"TZ": zone})
        east, west = map(datetime.fromisoformat, self.call("vzctl", "snapshot-list", "102", "-H", "-o", "date").splitlines())
        self.assertGreater(east - west, timedelta(hours=20))

    async def test_a_command_dies_with_its_process(self) -> None:
        process = await self.hanging("set-live", "vzctl", "set", "101", "--cpus", "1", "--save")
        lock = self.node.root / "vz/lock/101.lck"
        self.assertEqual(lock.read_text().split()[0], str(process.pid))
        await self.command()
        process.kill()
        self.assertEqual(process.wait(), -signal.SIGKILL)
        await self.until(lambda: not self.commands())
        self.assertIn("Removing stale lock file", self.call("vzctl", "set", "101", "--cpus", "1", "--save"))

    async def test_what_runs_in_the_guest_dies_with_it(self) -> None:
        pid_file = self.node.root / "pid"
        process = self.start("vzctl", "exec2", "101", f"echo $$ >{pid_file}; sleep 600")
        await self.until(lambda: pid_file.exists() and pid_file.read_text())
        process.kill()
        await self.until(lambda: not Path(f"/proc/{pid_file.read_text().strip()}").exists())

    async def test_a_process_is_used_again_until_it_has_had_children(self) -> None:
        def processes() -> set[str]:
            server = tool_server()._process.pid
            return set(Path(f"/proc/{server}/task/{server}/children").read_text().split())

        for _ in range(3):
            self.call("vzlist", "-a")
        await self.until(lambda: not self.commands())
        before = processes()
        for _ in range(3):
            self.call("vzctl", "status", "101")
            await self.until(lambda: not self.commands())
        self.assertEqual(processes(), before)
        self.call("vzctl", "exec2", "101", "true")
        await self.until(lambda: len(processes()) == len(before) - 1)

    async def test_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process = await self.hanging("vzlist", "vzlist")
            process.send_signal(number)
            self.assertEqual(process.wait(), -number)
        # One that holds its lock isn't to be cancelled.
        process = await self.hanging("set-live", "vzctl", "set", "101", "--cpus", "1", "--save")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        while process.stdout.readline() != "Cancelling...\n":
            self.assertIsNone(process.poll())
        self.assertIsNone(process.poll())

    async def test_a_command_that_is_killed_itself(self) -> None:
        process = await self.hanging("vzlist", "vzlist")
        os.kill(await self.command(), signal.SIGKILL)
        self.assertEqual(process.wait(), -signal.SIGKILL)

    async def test_who_holds_a_lock_is_told_as_by_the_real_tools(self) -> None:
        process = await self.hanging("set-live", "vzctl", "set", "101", "--cpus", "1", "--save")
        other = self.start("vzctl", "stop", "101")
        self.assertIn(f"Locked by: pid {process.pid}, cmdline vzctl set 101 --cpus 1 --save", other.communicate()[1])
        self.assertEqual(other.returncode, 9)

    async def test_nothing_is_left_when_the_tests_are_killed(self) -> None:
        argv = [sys.executable, "-c", OWNER, str(Path(__file__).parents[2]), str(Path(self.mktemp()).absolute())]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
            self.addCleanup(owner.kill)
            assert owner.stdout is not None
            command, server, launcher = owner.stdout.readline().split()
            fault = Path(argv[-1]) / "faults/vzlist"
            await self.until(lambda: not fault.exists())
            owner.kill()
        await self.until(lambda: not Path(launcher).parent.exists())
        for pid in (command, server):
            await self.until(lambda pid=pid: not runs(pid))  # type: ignore[misc]


def runs(pid: str) -> bool:
    """Whether a process is there, and neither idle nor a zombie that nobody has waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return f"({IDLE})" not in stat and stat.rpartition(")")[2].split()[0] != "Z"
