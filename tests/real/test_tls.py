"""TLS and the process's own safety, on real sockets and real processes."""

from __future__ import annotations

import http.client
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.wire.tls import TLSError, TLSFiles, advice, server_options
from tests import TIMEOUT
from tests.authority import Authority
from tests.real.test_service import ProcessCase
from tests.support import PASSWORD


class FilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.authority = Authority(self.directory)

    def refused(self, words: str, files: TLSFiles, now: datetime | None = None) -> None:
        self.assertIn(words, str(self.assertRaises(TLSError, server_options, files, now)))

    def test_times(self) -> None:
        self.refused("expired on", TLSFiles(*self.authority.issue("old", ends=-1)))
        self.refused("is not valid before", TLSFiles(*self.authority.issue("new", begins=1)))

    def test_the_chain_in_its_order(self) -> None:
        between = Authority(self.directory, "between", self.authority)
        certificate, key = between.issue("server")
        links = [path.read_bytes() for path in (certificate, between.certificate, self.authority.certificate)]
        certificate.write_bytes(b"".join(links))
        server_options(TLSFiles(certificate, key))
        certificate.write_bytes(links[0] + links[2] + links[1])
        self.refused("did not issue", TLSFiles(certificate, key))

    def test_a_key_that_others_write_or_read(self) -> None:
        files = TLSFiles(*self.authority.issue("server", ends=400))
        self.assertEqual(advice(files), [])
        files.key.chmod(0o644)
        self.assertIn("can read it", advice(files)[0])
        files.key.chmod(0o602)
        self.refused("everyone can write it", files)

    def test_what_ends_soon(self) -> None:
        files = TLSFiles(*self.authority.issue("server", ends=30))
        self.assertEqual(advice(files), [])
        self.assertIn("renew it", advice(files, datetime.now(UTC) + timedelta(days=20))[0])

    def test_authorities(self) -> None:
        certificate, key = self.authority.issue("server")
        self.refused("client authority", TLSFiles(certificate, key, Path("/no/such/file")))
        self.refused("contains no PEM", TLSFiles(certificate, key, key))


class TLSCase(ProcessCase):
    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority(self.directory)
        self.certificate, self.key = self.authority.issue("server")
        self.environment["FLUIDVM_ADMIN_PASSWORD"] = PASSWORD

    def serve(self, *options: str) -> subprocess.Popen[bytes]:
        tls = [
            "--https",
            f"tcp:{self.port}:interface=127.0.0.1",
            "--tls-cert",
            str(self.certificate),
            "--tls-key",
            str(self.key),
        ]
        return self.start(*tls, *options, http=False)

    def context(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        if client is not None:
            context.load_cert_chain(*map(str, client))
        return context

    def client(self, client: tuple[Path, Path] | None = None) -> Any:
        proxy: Any = xmlrpc.client.ServerProxy(f"https://127.0.0.1:{self.port}/RPC2", context=self.context(client))
        self.addCleanup(proxy("close"))
        return proxy

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if time.monotonic() > deadline:
                self.fail(self.output())
            time.sleep(0.05)


class OfferTests(TLSCase):
    def try_with(self, *options: str) -> bool:
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", *options], input=b"", capture_output=True
        )
        return done.returncode == 0

    def test_versions_and_ciphers(self) -> None:
        self.serve()
        for version, good in (("-tls1", False), ("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
            self.assertEqual(self.try_with(version, "-cipher", "ALL:@SECLEVEL=0"), good, version)
        for cipher, good in (
            ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
            ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
            ("ECDHE-ECDSA-AES256-SHA384", False),
            ("ECDHE-ECDSA-AES128-SHA", False),
            ("AES128-GCM-SHA256", False),
            ("eNULL", False),
            ("aNULL", False),
        ):
            self.assertEqual(self.try_with("-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0"), good, cipher)
        with (
            socket.create_connection(("127.0.0.1", self.port)) as plain,
            self.context().wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            self.assertEqual(secure.version(), "TLSv1.3")

    def test_headers(self) -> None:
        self.serve()
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context())
        self.addCleanup(connection.close)
        for method, path, headers in (
            ("GET", "/health", {}),
            ("GET", "/nothing", {}),
            ("OPTIONS", "/RPC2", {"Origin": "https://evil.example"}),
        ):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            self.assertIn("max-age=", answer.headers["Strict-Transport-Security"])
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(answer.headers["Referrer-Policy"], "no-referrer")
            self.assertIn("default-src 'none'", answer.headers["Content-Security-Policy"])
            self.assertEqual(answer.headers["Cache-Control"], "no-store")
            self.assertFalse([name for name in answer.headers if name.lower().startswith("access-control")])


class ReloadTests(TLSCase):
    def serial(self) -> int:
        with (
            socket.create_connection(("127.0.0.1", self.port)) as plain,
            self.context().wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            shown = secure.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number

    def test_without_dropping_a_connection(self) -> None:
        server = self.serve()
        before = self.serial()
        proxy = self.client()
        cookie = proxy.authenticate("admin", PASSWORD)
        connected = proxy("transport")._connection[1].sock
        self.authority.issue("server")
        server.send_signal(signal.SIGHUP)
        self.until(lambda: self.serial() != before)
        proxy.ping(cookie)
        self.assertIs(proxy("transport")._connection[1].sock, connected)
        self.assertIsNone(server.poll())

    def test_when_the_files_change(self) -> None:
        self.serve()
        before = self.serial()
        self.authority.issue("server")
        self.until(lambda: self.serial() != before)

    def test_what_can_not_be_used_is_not(self) -> None:
        server = self.serve()
        before = self.serial()
        self.certificate.write_text("nonsense")
        server.send_signal(signal.SIGHUP)
        self.until(lambda: "the previous certificate stays in use" in self.output())
        self.assertEqual(self.serial(), before)


class ClientCertificateTests(TLSCase):
    def setUp(self) -> None:
        super().setUp()
        email = (x509.RFC822Name("alice@example.org"),)
        self.clients = Authority(self.directory, "clients")
        self.alice = self.clients.issue("alice", email)
        self.other = self.clients.issue("other", ())
        self.forged = Authority(self.directory, "forger").issue("alice-forged", email)
        self.users = self.directory / "users.toml"
        self.users.write_text('"email:alice@example.org" = "alice"\n"CN=other" = "admin"\n')
        self.ca = ["--tls-client-ca", str(self.clients.certificate)]

    def refused(self, code: int, call: Callable[..., Any], *arguments: Any) -> None:
        fault = self.assertRaises(xmlrpc.client.Fault, call, *arguments)
        self.assertEqual(fault.faultCode, code)

    def test_required(self) -> None:
        self.serve(*self.ca)
        self.assertTrue(self.client(self.alice).authenticate("admin", PASSWORD))
        for certificate in (None, self.forged):
            # With TLS 1.3 the client connects first and is cut after (RFC 8446, section 4.4.2.4).
            self.assertRaises((OSError, http.client.HTTPException), self.client(certificate).authenticate, "admin", PASSWORD)

    def test_optional(self) -> None:
        self.serve(*self.ca, "--tls-clients", "optional")
        self.assertTrue(self.client().authenticate("admin", PASSWORD))
        self.assertTrue(self.client(self.alice).authenticate("admin", PASSWORD))
        self.assertRaises((OSError, http.client.HTTPException), self.client(self.forged).authenticate, "admin", PASSWORD)

    def test_one_stands_for_a_user(self) -> None:
        server = self.serve(*self.ca, "--tls-clients", "optional", "--certificate-users", str(self.users))
        admin = self.client(self.other)
        cookie = admin.authenticate("admin", "")
        admin.create_user(cookie, "alice", PASSWORD)
        self.assertTrue(admin.wait_for_tasks(cookie, admin.commit_tasks(cookie), 20))
        alice = self.client(self.alice)
        self.assertEqual(alice.get_session(alice.authenticate("alice", ""))["name"], "alice")
        self.refused(402, alice.authenticate, "admin", "")
        self.refused(402, alice.authenticate, "alice", "wrong")
        self.refused(402, self.client().authenticate, "alice", "")
        self.users.write_text("")
        server.send_signal(signal.SIGHUP)
        self.until(lambda: "was reloaded" in self.output())
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            try:
                alice.authenticate("alice", "")
            except xmlrpc.client.Fault as fault:
                self.assertEqual(fault.faultCode, 402)
                return
            time.sleep(0.05)
        self.fail("the mapping wasn't read again")

    def test_refused_options(self) -> None:
        tls = ["--https", "tcp:0", "--tls-cert", str(self.certificate), "--tls-key", str(self.key)]
        bad = self.directory / "bad.toml"
        bad.write_text('"CN=x" = 5\n')
        for words, *options in (
            ("requires --tls-client-ca", *tls, "--certificate-users", str(self.users)),
            ("require --https", *self.ca),
            ("must map to a user's name", *tls, *self.ca, "--certificate-users", str(bad)),
            ("give one of required, optional", *tls, *self.ca, "--tls-clients", "perhaps"),
        ):
            done = self.run_to_end(self.command(*options, http=False))
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)


class DevelopmentCertificateTests(ProcessCase):
    def test_made_and_served(self) -> None:
        made = self.directory / "tls"
        command = [sys.executable, "-m", "fluidvm.tools.devcert", str(made), "node.example"]
        words = self.run_to_end(command).stdout.split()
        self.assertEqual((made / "key.pem").stat().st_mode & 0o777, 0o600)
        self.assertIn("exists", self.run_to_end(command).stderr)
        self.start("--https", f"tcp:{self.port}:interface=127.0.0.1", *words, http=False)
        context = ssl.create_default_context(cafile=str(made / "cert.pem"))
        proxy: Any = xmlrpc.client.ServerProxy(f"https://localhost:{self.port}/RPC2", context=context)
        self.addCleanup(proxy("close"))
        self.assertTrue(proxy.authenticate("admin", self.password()))


class SafetyTests(ProcessCase):
    def ask(self, host: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        self.addCleanup(connection.close)
        codes = set()
        for _ in range(2):  # the second one's head is known
            body = xmlrpc.client.dumps((), "system.listMethods")
            connection.request("POST", "/RPC2", body, {"Host": host})
            answer = connection.getresponse()
            answer.read()
            codes.add(answer.status)
        (code,) = codes
        return code

    def test_names_on_loopback(self) -> None:
        self.start("--hosts", "fluidvm.example, Other.example")
        port = self.port
        for host in (
            "localhost",
            f"localhost:{port}",
            f"127.0.0.1:{port}",
            "[::1]:80",
            "fluidvm.example",
            "other.example:1",
            "x.localhost",
            socket.gethostname(),
        ):
            self.assertEqual(self.ask(host), 200, host)
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example"):
            self.assertEqual(self.ask(host), 421, host)

    def test_secrets_are_not_in_argv_log_or_environment(self) -> None:
        self.environment["FLUIDVM_ADMIN_PASSWORD"] = PASSWORD
        server = self.start("--access-log")
        proxy = self.proxy()
        cookie = proxy.authenticate("admin", PASSWORD)
        proxy.create_user(cookie, "alice", PASSWORD + "2")
        self.assertTrue(proxy.wait_for_tasks(cookie, proxy.commit_tasks(cookie), 20))
        self.assertNotIn(PASSWORD, self.output())
        self.assertNotIn(str(cookie), self.output())
        self.assertNotIn(PASSWORD, Path(f"/proc/{server.pid}/cmdline").read_text())

    if os.geteuid() == 0:

        def test_another_user(self) -> None:
            """Started by root with --uid: it opens its port as root, and all that it makes is the other user's alone."""
            nobody = pwd.getpwnam("nobody")
            self.directory = Path(tempfile.mkdtemp(prefix="fluidvm-", dir="/tmp"))
            self.directory.chmod(0o755)
            self.addCleanup(shutil.rmtree, self.directory)
            self.state, self.pid = self.directory / "state", self.directory / "pid"
            self.environment["FLUIDVM_ADMIN_PASSWORD"] = PASSWORD
            command = self.command()
            place = command.index("fluidvm")
            command[place:place] = ["--uid", str(nobody.pw_uid), "--gid", str(nobody.pw_gid)]
            server = self.start_command(command)
            status = Path(f"/proc/{server.pid}/status").read_text()
            self.assertIn(f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}", status)
            proxy = self.proxy()
            cookie = proxy.authenticate("admin", PASSWORD)
            proxy.add_compute_node(cookie, "node1", "simulator", "", {})
            proxy.create_vm(cookie, {"name": "one"})
            ec = proxy.commit_tasks(cookie)
            self.assertTrue(proxy.wait_for_tasks(cookie, ec, 20))
            self.assertEqual(proxy.get_errors(cookie, ec), ["", ""])
            for path in (self.state, *self.state.rglob("*")):
                found = path.stat()
                self.assertEqual((found.st_uid, found.st_mode & 0o077), (nobody.pw_uid, 0), path)
            server.terminate()
            server.wait(TIMEOUT)

    else:

        def test_only_root_becomes_another_user(self) -> None:
            command = self.command()
            command[command.index("fluidvm") : command.index("fluidvm")] = ["--uid", "1"]
            self.assertIn("only root", self.run_to_end(command).stderr)
