"""The README's script, run as it stands against the server that `make serve` starts."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from lab.host import CACHE, guest
from tests import TIMEOUT

ROOT = Path(__file__).parents[2]


class ReadmeTests(SynchronousTestCase):
    def test_script(self) -> None:
        (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        guest(CACHE)
        state = Path(tempfile.mkdtemp(prefix="fluidvm-readme-"))
        self.addCleanup(subprocess.run, ["rm", "-rf", str(state)])
        (state / "guest").symlink_to(CACHE)
        said = self.serve(state)
        password = re.search(r"password in (\S+)", said)
        url = re.search(r"answers on (\S+)", said)
        kernel = re.search(r"kernel (\S+)/vmlinuz", said)
        assert password and url and kernel
        for written, real in (
            ("http://127.0.0.1:8000/RPC2", url[1]),
            (".state/serve/admin-password", password[1]),
            ("/tmp/fluidvm-XXXX/guest", kernel[1]),
        ):
            self.assertIn(written, script)
            script = script.replace(written, real)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(script, "README.md", "exec"), {})
        lines = printed.getvalue().splitlines()
        self.assertIn("['', '', '', '']", lines)
        self.assertIn("running", lines)
        self.assertEqual(lines[-1], "['', '']")

    def serve(self, state: Path) -> str:
        """
        Start the server as C{make serve} does; gives what it says.

        As a script's background command is started: with SIGINT and SIGHUP ignored.
        """
        output = state / "output"
        command = ["sh", "-c", 'trap "" INT HUP; exec "$@"', "sh", sys.executable, str(ROOT / "lab" / "demo.py")]
        command += ["serve", str(state), "--port", "0"]
        with output.open("wb") as sink:
            server = subprocess.Popen(
                command,
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": str(state)},
            )
        self.addCleanup(self.end, server, state)
        deadline = time.monotonic() + TIMEOUT
        while "serial consoles" not in output.read_text():
            self.assertIsNone(server.poll(), output.read_text())
            self.assertLess(time.monotonic(), deadline, output.read_text())
            time.sleep(0.1)
        return output.read_text()

    def end(self, server: subprocess.Popen[bytes], state: Path) -> None:
        """Ctrl-C: it ends well, and takes all down. If it doesn't end, it is killed, and what it started ends with it."""
        server.send_signal(signal.SIGINT)
        try:
            self.assertEqual(server.wait(TIMEOUT), 0, (state / "output").read_text())
        finally:
            server.kill()
            server.wait()
        self.assertEqual([path.name for path in state.glob("fluidvm-*")], [], "the host's directory is gone")
