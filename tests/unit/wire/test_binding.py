"""Whether the server can listen is found out before it does, and no client notices."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from twisted.python.lockfile import FilesystemLock
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.wire.listening import try_to_bind


def _never(self: socket.socket, backlog: int = 0) -> None:
    raise AssertionError("it would answer clients")


class TryToBindTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(os.path.relpath(self.mktemp()))  # the path of a socket is short

    def taken(self, family: socket.AddressFamily, address: object) -> socket.socket:
        """A socket that listens."""
        taken = socket.socket(family)
        self.addCleanup(taken.close)
        taken.bind(address)  # type: ignore[arg-type]
        taken.listen()
        return taken

    def refused(self, description: str) -> None:
        error = self.assertRaises(OSError, try_to_bind, description)
        self.assertIn("in use", str(error.strerror))

    def test_nothing_listens_meanwhile(self) -> None:
        self.patch(socket.socket, "listen", _never)
        try_to_bind("tcp:0:interface=127.0.0.1")
        try_to_bind("haproxy:tcp:0:interface=127.0.0.1")
        try_to_bind(f"unix:{self.path}")
        self.assertFalse(self.path.exists())
        self.assertFalse(os.path.lexists(f"{self.path}.lock"))

    def test_a_port_in_use(self) -> None:
        port = self.taken(socket.AF_INET, ("127.0.0.1", 0)).getsockname()[1]
        self.refused(f"tcp:{port}:interface=127.0.0.1")
        self.refused(f"haproxy:tcp:{port}")
        self.assertRaises(OverflowError, try_to_bind, "tcp:65536")

    def test_a_port_of_ipv6_in_use(self) -> None:
        try:
            port = self.taken(socket.AF_INET6, ("::1", 0)).getsockname()[1]
        except OSError:
            self.skipTest("there is no IPv6 here")
        self.refused(f"tcp6:{port}:interface=\\:\\:1")
        try_to_bind("tcp6:0:interface=\\:\\:1")

    def test_a_socket_in_use(self) -> None:
        self.taken(socket.AF_UNIX, str(self.path))
        self.refused(f"unix:{self.path}")
        self.refused(f"unix:{self.path}:lockfile=0")
        self.assertTrue(self.path.exists())

    def test_a_socket_that_another_server_has_locked(self) -> None:
        lock = FilesystemLock(f"{self.path}.lock")
        self.assertTrue(lock.lock())
        self.refused(f"unix:{self.path}")
        lock.unlock()

    def test_what_a_killed_server_left_is_removed(self) -> None:
        self.taken(socket.AF_UNIX, str(self.path)).close()
        Path(f"{self.path}.lock").symlink_to(str(2**22 + 1))  # no process has such a number
        try_to_bind(f"unix:{self.path}")
        self.assertFalse(self.path.exists())

    def test_a_file_that_is_no_socket_stays(self) -> None:
        self.path.write_text("not ours")
        Path(f"{self.path}.lock").symlink_to(str(2**22 + 1))
        self.refused(f"unix:{self.path}")
        self.assertEqual(self.path.read_text(), "not ours")

    def test_other_kinds_are_not_tried(self) -> None:
        try_to_bind("systemd:domain=INET:index=0")
