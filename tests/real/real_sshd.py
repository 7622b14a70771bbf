"""A real sshd on loopback, with keys and a configuration of its own."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests import TIMEOUT

# SHLVL keeps bash from reading the user's ~/.bashrc, which may do anything.
CONFIG = """\
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PermitUserRC no
PrintMotd no
SetEnv SHLVL=2
{more}
"""


class Sshd:
    """
    One sshd, for the user who runs the tests.

    @param more: further lines of its configuration.
    @ivar address: as the driver wants it.
    @ivar key: the private key that it lets in.
    """

    def __init__(self, directory: Path, more: str = "") -> None:
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.key = self.make_key("key")
        self.make_key("host_key")
        (self.directory / "authorized_keys").write_text((self.directory / "key.pub").read_text())
        (self.directory / "sshd_config").write_text(CONFIG.format(directory=self.directory, more=more))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def make_key(self, name: str, *options: str) -> Path:
        """Make a key pair. Gives the private one."""
        path = self.directory / name
        if not path.exists():
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", *options, "-f", str(path)]
            subprocess.run(keygen, check=True)
        return path

    @property
    def address(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def host_key(self) -> str:
        return (self.directory / "host_key.pub").read_text().strip()

    @property
    def options(self) -> dict[str, str]:
        """The driver's options for this sshd."""
        return {"key_file": str(self.key), "host_key": self.host_key}

    def start(self) -> None:
        """Start it, on the port that it had or a free one."""
        if self._process is not None and self._process.poll() is None:
            return
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as Debian's unit does; root's sshd insists on it
        for _ in range(10):
            port = self.port or free_port()
            # setpriv: it ends with the process that started it, however that ends.
            argv = [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "/usr/sbin/sshd",
                "-D",
                "-e",
                "-f",
                str(self.directory / "sshd_config"),
                "-p",
                str(port),
            ]
            with (self.directory / "log").open("ab") as log:
                self._process = subprocess.Popen(argv, stderr=log, stdin=subprocess.DEVNULL)
            if self._answers(port):
                self.port = port
                return
            self.stop()
        raise AssertionError(f"sshd doesn't start:\n{(self.directory / 'log').read_text()}")

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as connection:
                    return connection.recv(4) == b"SSH-"
            except OSError:
                time.sleep(0.02)
        return False

    def sessions(self) -> list[int]:
        """The processes that serve connections."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(word) for word in children.read_text().split()]

    def cut(self, number: int = signal.SIGKILL) -> None:
        """Kill (or stop, by SIGSTOP) whoever serves connections now."""
        for pid in self.sessions():
            os.kill(pid, number)

    def stop(self) -> None:
        """End it, with its connections."""
        if self._process is None:
            return
        self.cut()
        self._process.kill()
        self._process.wait()
        self._process = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
