"""Errors at the start are reported in one line, before the server becomes a daemon."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fluidvm.model.kinds import Choice, Int
from fluidvm.server.option_kinds import DatabaseUrl, DirectoryPath, Endpoints, FilePath, Switch, Words
from fluidvm.server.options import OPTIONS, Options
from fluidvm.server.preflight import Lock, StartError, check_hashing, claim
from fluidvm.server.service import makeService
from tests.authority import Authority

WRONG: dict[type, tuple[object, ...]] = {
    Int: ("soon", "1.5", "-1", "99999999999999", True, "", "two\nlines"),
    Choice: ("never", "", 1, "x" * 300),
    Switch: ("yes", 1),
    FilePath: ("", 1),
    DirectoryPath: ("", 1),
    DatabaseUrl: (1,),
    Endpoints: (1,),
    Words: (1,),
}
"""Values that are not valid for any option of a kind."""


class RefusalTests(SynchronousTestCase):
    """The program as C{twistd} runs it, in this process."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.state = self.directory / "state"
        # Restore what makeService sets for its process.
        self.addCleanup(os.umask, os.umask(0o077))
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        self.patch(os, "environ", {**os.environ, "FLUIDVM_ADMIN_PASSWORD": "x"})

    def options(self, *given: str) -> Options:
        options = Options()
        options.parseOptions(["--state", str(self.state), "--http", "tcp:0:interface=127.0.0.1", *given])
        return options

    def refused(self, words: str, *given: str) -> None:
        """Check that C{twistd} ends with one line that says why."""
        self.one_line(words, lambda: makeService(self.options(*given)))

    def one_line(self, words: str, start: Callable[[], object]) -> None:
        line = str(self.assertRaises(SystemExit, start).code)
        self.assertTrue(line.startswith("fluidvm: "), line)
        self.assertEqual(len(line.splitlines()), 1, line)
        self.assertIn(words, line)

    def test_wrong_options(self) -> None:
        self.refused("option --wings not recognized", "--wings", "2")
        self.refused("wings is not an option", "--config", self.file("c.toml", "wings = 2"))
        self.refused("config is not an option", "--config", self.file("c.toml", "config = 'c.toml'"))
        self.refused("c.toml", "--config", self.file("c.toml", "= ="))
        self.refused("No such file", "--config", "/no/such/file")
        self.refused("--config: an empty value is not valid: give a path", "--config", "")

    def test_wrong_values(self) -> None:
        """Each error names the option and the allowed values, from both sources."""
        for option in OPTIONS:
            for value in WRONG[type(option.kind)]:
                shown = {"True": "true", "": "an empty value", "two\nlines": "two lines", "x" * 300: "x" * 200 + "..."}
                words = f"--{option.name}: {shown.get(str(value), value)} is not valid: give {option.kind.bounds()} ("
                given = ["--config", self.file("c.toml", f"{option.name} = {json.dumps(value)}")]
                self.one_line(words, partial(Options().parseOptions, given))
                if isinstance(value, str) and not isinstance(option.kind, Switch):
                    self.one_line(words, partial(Options().parseOptions, [f"--{option.name}={value}"]))

    def test_options_that_require_others(self) -> None:
        https = ["--https", "tcp:0"]
        self.refused("--https requires --tls-cert and --tls-key", *https)
        self.refused("--https requires --tls-cert and --tls-key", *https, "--tls-cert", "c.pem")
        tls = [*https, "--tls-cert", "c.pem", "--tls-key", "k.pem"]
        words = "--tls-client-ca and --certificate-users require --https"
        self.refused(words, "--tls-client-ca", "c.pem")
        self.refused(words, "--certificate-users", "c.toml")
        self.refused("--certificate-users requires --tls-client-ca", *tls, "--certificate-users", "c.toml")

    def test_too_little_memory_for_passwords(self) -> None:
        self.refused("give at least 32", "--password-memory", "8")
        self.refused("give at least 128", "--password-memory", "127", "--password-lanes", "16")
        settings = self.options("--password-memory", "8", "--password-lanes", "1").settings
        check_hashing(settings)
        # Whatever else the library refuses, too.
        self.assertRaises(StartError, check_hashing, replace(settings, password_lanes=4))

    def test_unusable_endpoints(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.refused("in use", "--http", f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1")
        self.refused("--http: pigeon:5 is not a valid endpoint", "--http", "pigeon:5")
        self.refused("--http: tcp:x is not a valid endpoint", "--http", "tcp:x")
        unknown = "tcp:5:interface=192.0.2.77"
        self.refused(f"--http: the server can't listen on {unknown}", "--http", unknown)

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
        self.refused("do not match", *tls, "--tls-cert", certificate, "--tls-key", other)
        self.refused("no PEM", *tls, "--tls-cert", self.file("text", "x"), "--tls-key", key)
        self.refused("no PEM", *tls, "--tls-cert", certificate, "--tls-key", self.file("text", "x"))

    def test_an_unusable_password_file(self) -> None:
        self.refused("password file", "--admin-password-file", "/no/such/file")
        self.refused("empty", "--admin-password-file", self.file("empty", "\n"))

    def test_state_in_use_by_another_server(self) -> None:
        lock = Lock()
        self.addCleanup(lock.close)
        claim(lock, self.options().settings)
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
