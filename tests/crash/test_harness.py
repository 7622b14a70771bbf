"""What the harness says at its end to who runs it from a script."""

from __future__ import annotations

import sys

from twisted.trial.unittest import SynchronousTestCase

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
