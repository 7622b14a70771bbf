"""The stand-in for OpenVZ's tools says what the real vzctl and vzlist 4.11.1 said: recorded sessions, command by command."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.fakes.vz.node import FakeNode

GOLDEN = Path(__file__).parents[1] / "unit/drivers/openvz/golden"
# What scripts of the template and of the host said on the way, which is none of vzctl's.
NOISE = re.compile(r"vps-net_(add|del) |/bin/sh: |/bin/bash: |Failed to set context for ")


@dataclass
class Step:
    """A command of a recorded session, and what came of it. C{after} are lines of configurations that were shown then."""

    command: str
    apart: bool = False
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    code: int | None = None
    after: list[str] = field(default_factory=list)

    def argv(self) -> list[str]:
        """The words; those that follow an option belong to it, for blanks within one were recorded without quotes."""
        head, *options = re.split(r" (?=--?[a-zA-Z])", self.command)
        words = head.split()
        for option in options:
            name, blank, value = option.partition(" ")
            several = name in ("--quiet", "--skiplock", "-H", "-a", "-j", "-S") or self.command.startswith("vzlist")
            words += [name, value] if blank and not several else option.split()
        return words


def steps(name: str) -> list[Step]:
    """Read a recorded session."""
    made: list[Step] = []
    for line in (GOLDEN / f"openvz-{name}.txt").read_text().splitlines():
        if line.startswith("$ "):
            made.append(Step(line[2:]))
        elif line.startswith("[rc="):
            made[-1].code = int(line[4:-1])
        elif made and made[-1].code is not None:
            made[-1].after += [line] if re.fullmatch(r'[A-Z]+=".*"', line) else []
        elif line.startswith(("  out| ", "  err| ")):
            made[-1].apart = True
            (made[-1].out if line.startswith("  out") else made[-1].err).append(line[7:])
        else:
            made[-1].out.append(line)
    return made


def clean(text: str) -> list[str]:
    """Lines without noise, and with processes' numbers left out."""
    return [re.sub(r"pid \d+", "pid N", line) for line in text.splitlines() if not NOISE.match(line)]


class TranscriptTests(TestCase):
    def setUp(self) -> None:
        self.node = FakeNode(Path(self.mktemp()), SHORT=1, ZERO_UPTIME=1, PLOOP=0)
        self.busy: list[subprocess.Popen[bytes]] = []
        self.addCleanup(self.free)

    def free(self) -> None:
        for process in self.busy:
            process.kill()
            process.wait()
        self.busy.clear()

    def call(self, *argv: str) -> None:
        """Run a command that isn't in the record; the sessions weren't recorded whole."""
        subprocess.run([self.node.bin / argv[0], *argv[1:]], capture_output=True, check=True)

    def replay(self, name: str, hooks: dict[int, Callable[[], None]], skip: dict[int, str], last: int | None = None) -> None:
        """
        Run a session and compare.

        @param hooks: what happened before a step.
        @param skip: why a step isn't comparable.
        @param last: no step from here on.
        """
        session = steps(name)[:last]
        compared = 0
        for number, step in enumerate(session):
            hooks.get(number, lambda: None)()
            if number in skip:
                continue
            argv = step.argv()
            error = subprocess.PIPE if step.apart else subprocess.STDOUT
            done = subprocess.run(
                [self.node.bin / argv[0], *argv[1:]],
                stdout=subprocess.PIPE,
                stderr=error,
                check=False,
                text=True,
                errors="surrogateescape",
            )
            label = f"{name}, step {number}: {step.command}"
            self.assertEqual(clean(done.stdout), clean("\n".join(step.out)), label)
            if step.apart:
                self.assertEqual(clean(done.stderr), clean("\n".join(step.err)), label)
            self.assertEqual(done.returncode, step.code, label)
            for line in step.after:
                self.assertIn(line, self.node.conf("101").splitlines(), label)
            compared += 1
        self.assertEqual(compared, len(session) - len(skip))

    def addresses(self) -> None:
        """What the kernel had when the sessions were recorded."""
        (self.node.root / "run/101/addresses").write_text("10.0.0.5 10.0.0.6")

    def hold(self, *argv: str) -> int:
        """Leave a process running."""
        self.busy.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, cwd=self.node.root))
        return self.busy[-1].pid

    def wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():  # as long as trial's time-out
            os.sched_yield()

    def stop_slowly(self) -> None:
        """A C{vzctl stop} that waits for a guest that doesn't obey."""
        self.node.deafen("101")
        self.node.set(STOP_TIMEOUT=600)
        self.hold(str(self.node.bin / "vzctl"), "stop", "101")
        self.wait_for((self.node.root / "vz/lock/101.lck").exists)

    def test_lifecycle(self) -> None:
        self.node.set(NOTICE=1, WARN_DIST=1)

        def shown_as_mounted() -> None:
            self.node.set(IMMORTAL=1)

        self.replay("lifecycle", {11: shown_as_mounted}, {6: "processes of a real guest"})

    def test_names(self) -> None:
        self.node.set(NOTICE=1)

        def blind_and_without_an_area() -> None:
            self.node.set(VEINFO=0, VZQUOTA=1)
            (self.node.root / "vz/private/102").rename(self.node.root / "lost")

        hooks = {6: self.addresses, 16: self.stop_slowly, 35: blind_and_without_an_area}
        self.replay("names-options", hooks, {})

    def test_set_and_locks(self) -> None:
        self.node.set(VSWAP=0)

        def hold() -> None:
            (self.node.root / "holder.sh").write_text("read forever\n")
            process = subprocess.Popen(["bash", "holder.sh"], stdin=subprocess.PIPE, cwd=self.node.root)
            self.busy.append(process)
            self.wait_for(lambda: "holder.sh" in Path(f"/proc/{process.pid}/cmdline").read_text())
            (self.node.root / "vz/lock").mkdir(exist_ok=True)
            (self.node.root / "vz/lock/101.lck").write_text(f"{process.pid}\n\n")

        def let_go() -> None:
            (process,) = self.busy
            assert process.stdin is not None
            process.stdin.close()
            self.free()

        self.replay("set-locks", {54: hold, 58: let_go}, {45: "CRIU's own words"})

    def test_swap_and_addresses(self) -> None:
        def blind() -> None:
            self.node.set(VEINFO=0)

        skip = {11: "the guest's own words", 14: "the guest's own words", 15: "CRIU's own words"}
        self.replay("errors", {17: blind}, skip)

    def test_corners(self) -> None:
        def running() -> None:
            self.call("vzctl", "start", "101")
            self.node.deafen("101")
            self.node.set(STOP_TIMEOUT=0.1, VZQUOTA=1)

        hooks = {19: running, 24: lambda: self.call("vzctl", "stop", "101", "--fast")}
        self.replay("misc", hooks, {})

    def test_restart(self) -> None:
        self.call("vzctl", "create", "101", "--hostname", "ct101", "--name", "web1")
        self.node.set(WARN_DIST=1, NPROC=0)

        def deaf() -> None:
            self.node.deafen("101")
            self.node.set(STOP_TIMEOUT=0.1, VZQUOTA=1)

        def stat_line() -> None:
            self.node.set(STAT_LINE=1)

        hooks = {2: self.addresses, 14: deaf, 30: stat_line}
        self.replay("restart-exec", hooks, {33: "the usage, which the stand-in doesn't have"})

    def test_unknown_command_lines_fail_loudly(self) -> None:
        self.call("vzctl", "create", "101")
        for argv in (
            ["vzctl", "--verbose", "status", "101"],
            ["vzctl", "create", "102", "--local_uid", "0"],
            ["vzctl", "suspend", "101", "--dumpfile", "/x"],
            ["vzlist", "-a", "-o", "nameserver"],
            ["vzmigrate", "--new", "a", "101"],
        ):
            done = subprocess.run([self.node.bin / argv[0], *argv[1:]], capture_output=True, check=False, text=True)
            with contextlib.suppress(AssertionError):
                self.assertEqual((done.returncode, argv), (31, argv))  # suspend of what doesn't run
                continue
            self.assertEqual((done.returncode, "isn't in the contract" in done.stderr), (250, True), argv)
