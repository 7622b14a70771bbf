"""What the harness says at its end to who runs it from a script."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import TIMEOUT
from tests.crash import harness


class ExitTests(SynchronousTestCase):
    def exits(self, wrong: list[str]) -> object:
        findings = harness.Findings()
        findings.wrong += wrong
        self.patch(harness, "run", lambda *arguments: findings)
        self.patch(sys, "argv", ["harness", "--seed", "1"])
        return self.assertRaises(SystemExit, harness.main).code

    def test_nothing_was_found(self) -> None:
        self.assertIn(self.exits([]), (0, None))

    def test_something_was_found(self) -> None:
        self.assertEqual(self.exits(["this", "and that"]), "this\nand that")


class TellingTests(SynchronousTestCase):
    def test_what_waits_for_what(self) -> None:
        program = harness.Program(Path(self.mktemp()).absolute())
        program.directory.mkdir()
        self.addCleanup(program.kill)
        program.start()
        proxy = program.proxy()
        cookie = proxy.authenticate("admin", harness.PASSWORD)
        proxy.add_compute_node(cookie, "node", "simulator", "", {"hang": ["start"]})
        proxy.create_vm(cookie, {"name": "a"})
        proxy.start_vm(cookie, 1)
        hangs = proxy.commit_tasks(cookie)
        deadline = time.monotonic() + TIMEOUT
        while proxy.get_status(cookie, hangs) != "starting a":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        proxy.stop_vm(cookie, 1)
        waits = proxy.commit_tasks(cookie)
        told = program.waits()
        self.assertIn(f"context {hangs} task 3 start_vm 1 runs", told)
        self.assertIn(f"context {waits} task 1 stop_vm 1 waits for its claim", told)
        self.assertIn("lacks 1", told)
        self.assertRegex(told, r"Engine\._run of context \d+ > .*power\.py:\d+ start_vm")
