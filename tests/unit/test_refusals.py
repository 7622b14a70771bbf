"""What keeps a server from starting is said in one line, before it becomes a daemon."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fluidvm.options import Options
from fluidvm.preflight import check
from fluidvm.service import makeService
from tests.authority import Authority


class RefusalTests(SynchronousTestCase):
    """The program as C{twistd} runs it, in this process."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.state = self.directory / "state"
        # What makeService sets for its process, this one gets back.
        self.addCleanup(os.umask, os.umask(0o077))
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        self.patch(os, "environ", {**os.environ, "FLUIDVM_ADMIN_PASSWORD": "x"})

    def options(self, *given: str) -> Options:
        options = Options()
        options.parseOptions(["--state", str(self.state), "--http", "tcp:0:interface=127.0.0.1", *given])
        return options

    def refused(self, words: str, *given: str) -> None:
        """One line that says why, for C{twistd} to end with."""
        ended = self.assertRaises(SystemExit, lambda: makeService(self.options(*given)))
        line = str(ended.code)
        self.assertTrue(line.startswith("fluidvm: "), line)
        self.assertEqual(len(line.splitlines()), 1, line)
        self.assertIn(words, line)

    def test_wrong_options(self) -> None:
        self.refused("--wings", "--wings", "2")
        self.refused("keepalive", "--keepalive", "never")
        self.refused("session-timeout", "--session-timeout", "soon")
        self.refused("--tls-cert", "--https", "tcp:0")
        self.refused("no option", "--config", self.file("c.toml", "wings = 2"))
        self.refused("c.toml", "--config", self.file("c.toml", "= ="))
        self.refused("No such file", "--config", "/no/such/file")
        self.refused("session-timeout", "--config", self.file("c.toml", "session-timeout = true"))

    def test_unusable_endpoints(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.refused("in use", "--http", f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1")
        self.refused("endpoint", "--http", "pigeon:5")
        self.refused("endpoint", "--http", "tcp:http-is-no-number")
        self.refused("endpoint", "--http", "tcp:5:interface=192.0.2.77")

    def test_unusable_state(self) -> None:
        self.state = Path(self.file("occupied", "")) / "state"
        self.refused("state directory")

    def test_unusable_database(self) -> None:
        self.refused("database", "--database", "sqlite:////no/such/directory/x.db")
        self.refused("database", "--database", f"sqlite:///{self.file('text', 'not a database' * 1000)}")
        self.refused("only sqlite and postgresql", "--database", "mysql://a/b")
        self.refused("127.0.0.1", "--database", "postgresql://x:hunter2@127.0.0.1:1/x")

    def test_unusable_certificates(self) -> None:
        key, certificate = self.certificate("one")
        other, _ = self.certificate("two")
        tls = ["--https", "tcp:0:interface=127.0.0.1"]
        self.refused("No such file", *tls, "--tls-cert", "/no/such/file", "--tls-key", key)
        self.refused("don't belong together", *tls, "--tls-cert", certificate, "--tls-key", other)
        self.refused("no PEM", *tls, "--tls-cert", self.file("text", "x"), "--tls-key", key)
        self.refused("no PEM", *tls, "--tls-cert", certificate, "--tls-key", self.file("text", "x"))

    def test_an_unusable_password_file(self) -> None:
        self.refused("password file", "--admin-password-file", "/no/such/file")
        self.refused("empty", "--admin-password-file", self.file("empty", "\n"))

    def test_what_another_server_uses(self) -> None:
        lock = check(self.options().settings)
        self.addCleanup(lock.close)
        self.refused("another server")
        database = f"sqlite:///{self.state}/fluidvm.db"
        self.state = self.directory / "another-state"
        self.refused("another server", "--database", database)

    def file(self, name: str, content: str) -> str:
        path = self.directory / name
        path.write_text(content)
        return str(path)

    def certificate(self, name: str) -> tuple[str, str]:
        certificate, key = Authority(self.directory, f"{name}-authority").issue(name)
        return str(key), str(certificate)
