"""Started by root with --uid: what is root's alone, and what becomes the other user's."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.server import preflight
from tests import TIMEOUT
from tests.authority import Authority
from tests.postgres import shared_cluster
from tests.real.test_service import ProcessCase
from tests.support import PASSWORD


class HomeTests(SynchronousTestCase):
    def test_the_password_file_of_libpq_is_looked_for_in_the_users_home(self) -> None:
        cluster = shared_cluster()
        cluster.execute("CREATE ROLE keeper LOGIN PASSWORD 'of the keeper'")
        self.addCleanup(cluster.execute, "DROP ROLE keeper")
        rules = cluster.directory / "data" / "pg_hba.conf"
        rules.write_text("local all keeper scram-sha-256\n" + rules.read_text())
        cluster.execute("SELECT pg_reload_conf()")
        home = Path(self.mktemp()).absolute()
        home.mkdir()
        password = home / ".pgpass"
        password.touch(0o600)
        password.write_text("*:*:*:keeper:of the keeper\n")
        user = pwd.struct_passwd(("keeper", "x", os.geteuid(), os.getegid(), "", str(home), "/bin/sh"))
        url = cluster.url("postgres").replace("fluidvm@", "keeper@")
        with patch.dict(os.environ, {"HOME": "/nonexistent"}), patch("pwd.getpwuid", lambda uid: user):
            deadline = time.monotonic() + TIMEOUT
            while True:  # it takes the new rules on in its own time
                try:
                    psycopg.connect(url).close()
                except psycopg.OperationalError:
                    break
                self.assertLess(time.monotonic(), deadline)
            preflight.become(None)
            self.assertRaises(psycopg.OperationalError, psycopg.connect, url)
            preflight.become(os.geteuid())
            psycopg.connect(url).close()
            self.assertEqual(os.environ["USER"], "keeper")

    def test_a_user_without_an_entry(self) -> None:
        with patch.dict(os.environ, {"HOME": "/somewhere"}):
            preflight.become(2**31 - 3)
            self.assertEqual(os.environ["HOME"], "/somewhere")


class LogTests(SynchronousTestCase):
    def test_links_are_not_followed(self) -> None:
        target, link = Path(self.mktemp()), Path(self.mktemp())
        target.write_text("root's")
        link.symlink_to(target.absolute())
        self.assertRaises(preflight.StartError, preflight.hand_over_log, link, os.geteuid(), os.getegid())

    def test_without_another_user_nothing_is_made(self) -> None:
        path = Path(self.mktemp())
        preflight.hand_over_log(path, None, None)
        self.assertFalse(path.exists())


if os.geteuid() == 0:

    class OtherUserTests(ProcessCase):
        def setUp(self) -> None:
            super().setUp()
            # Where the other user can go.
            self.directory = Path(tempfile.mkdtemp(prefix="fluidvm-test-"))
            self.addCleanup(shutil.rmtree, self.directory)
            self.directory.chmod(0o755)
            self.state, self.pid = self.directory / "state", self.directory / "pid"
            self.nobody = pwd.getpwnam("nobody")
            self.authority = Authority(self.directory)
            self.certificate, self.key = self.authority.issue("server")
            self.secret = self.directory / "secret"
            self.secret.write_text(PASSWORD)
            self.users = self.directory / "users.toml"
            self.users.write_text('"CN=other" = "admin"\n')
            for path in (self.key, self.secret, self.users):
                path.chmod(0o600)
            for path in (self.certificate, self.authority.certificate):
                path.chmod(0o644)

        def serve(self, *options: str) -> Any:
            log = self.directory / "output"
            command = self.command(
                "--https",
                f"tcp:{self.port}:interface=127.0.0.1",
                "--tls-cert",
                str(self.certificate),
                "--tls-key",
                str(self.key),
                "--admin-password-file",
                str(self.secret),
                *options,
                http=False,
            )
            command[1:1] = ["--uid", str(self.nobody.pw_uid), "--gid", str(self.nobody.pw_gid), f"--logfile={log}"]
            # It must be the server that makes the log.
            server = subprocess.Popen(command, cwd=self.directory, env=self.environment)
            self.addCleanup(self.end, server)
            deadline = time.monotonic() + TIMEOUT
            while not log.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            self.wait_until_it_answers(server)
            return server

        def health(self) -> Any:
            context = ssl.create_default_context(cafile=str(self.authority.certificate))
            with urllib.request.urlopen(f"https://127.0.0.1:{self.port}/health", timeout=TIMEOUT, context=context) as answer:
                return json.load(answer)

        def until_told(self, words: str) -> list[str]:
            deadline = time.monotonic() + TIMEOUT
            while True:
                warnings: list[str] = self.health()["warnings"]
                if any(words in warning for warning in warnings):
                    return warnings
                self.assertLess(time.monotonic(), deadline, warnings)
                time.sleep(0.1)

        def test_files_that_are_roots_alone(self) -> None:
            """They are read once, before root is left; that they can't be again is told at once, and what to do."""
            clients = ("--tls-client-ca", str(self.authority.certificate), "--tls-clients", "optional")
            self.serve(*clients, "--certificate-users", str(self.users))
            health = self.health()
            self.assertEqual(health["status"], "ok")
            told = "\n".join(health["warnings"])
            self.assertIn(f"key {self.key}: Permission denied: make it readable for user {self.nobody.pw_uid}", told)
            self.assertIn("restart the server after each renewal", told)
            self.assertIn(f"certificate users {self.users}: Permission denied", told)
            self.assertIn("a renewed certificate can't be loaded", self.output())

        def test_a_renewed_certificate_that_can_not_be_read(self) -> None:
            os.chown(self.key, self.nobody.pw_uid, -1)
            server = self.serve()
            self.assertEqual(self.health()["warnings"], [])
            self.authority.issue("server")
            self.certificate.chmod(0o644)
            os.chown(self.key, 0, 0)
            self.key.chmod(0o600)
            server.send_signal(1)
            self.until_told("the previous certificate stays in use: key")
            os.chown(self.key, self.nobody.pw_uid, -1)
            server.send_signal(1)
            deadline = time.monotonic() + TIMEOUT
            while self.health()["warnings"]:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.1)

        def test_the_log_is_the_other_users(self) -> None:
            self.serve()
            found = (self.directory / "output").stat()
            self.assertEqual((found.st_uid, found.st_gid, found.st_mode & 0o077), (*self.nobody[2:4], 0))
