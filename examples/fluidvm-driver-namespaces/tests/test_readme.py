"""The README's commands work unchanged, and its excerpts are in the code."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
ALL_TESTS = "python -m twisted.trial tests\n"
"""The only command that isn't run, as it would run this test."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ReadmeTests(SynchronousTestCase):
    def end(self, pid_file: Path) -> None:
        """Stop the server that a failed command has left running."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)

    def test_commands(self) -> None:
        # A short path outside the repository: only the distribution itself is copied.
        place = Path(tempfile.mkdtemp(prefix="fluidvm-readme-")) / "copy"
        self.addCleanup(shutil.rmtree, place.parent, ignore_errors=True)
        shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns("build", "*.egg-info", "_trial_temp*", "__pycache__"))
        self.addCleanup(self.end, place / "server.pid")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        port = str(free_port())
        said, commands = "", 0
        for kind, text in BLOCKS:
            if kind == "sh" and text != ALL_TESTS:
                script = text.replace("8000", port)
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", script],
                    cwd=place,
                    env=environment,
                    text=True,
                    timeout=600,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )
                said, commands = done.stdout, commands + 1
                self.assertEqual(done.returncode, 0, f"{text}\n{said}")
            elif kind == "text":
                for line in text.splitlines():
                    self.assertIn(line.strip(), said)
        self.assertEqual(commands, len([text for kind, text in BLOCKS if kind == "sh"]) - 1)

    def test_excerpts(self) -> None:
        files = [path.read_text() for part in ("src", "tests") for path in (ROOT / part).rglob("*.py")]
        excerpts = [text for kind, text in BLOCKS if kind == "python"]
        self.assertGreater(len(excerpts), 4)
        for text in excerpts:
            self.assertTrue(any(lines(text) in lines(code) for code in files), f"not in the code:\n{text}")


def lines(text: str) -> str:
    """A text without indentation and empty lines, which differ between excerpts and the code."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())
