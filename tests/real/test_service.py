"""The real program: twistd as a process of its own, started, refused, killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import xmlrpc.client
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests import TIMEOUT

TWISTD = Path(sys.executable).with_name("twistd")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ProcessCase(SynchronousTestCase):
    """Tests with server processes. They block: each is a client of its own, with no reactor of its own to disturb."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.state = self.directory / "state"
        self.pid = self.directory / "pid"
        self.port = free_port()
        self.environment = {
            name: value for name, value in os.environ.items() if name not in ("FLUIDVM_ADMIN_PASSWORD", "XDG_STATE_HOME")
        }

    def command(self, *options: str, daemon: bool = False, http: bool = True) -> list[str]:
        head = [str(TWISTD), f"--pidfile={self.pid}"]
        head += [f"--logfile={self.directory}/log"] if daemon else ["--nodaemon"]
        listen = ["--http", f"tcp:{self.port}:interface=127.0.0.1"] if http else []
        return [*head, "fluidvm", "--state", str(self.state), *listen, *options]

    def run_to_end(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, cwd=self.directory, env=self.environment
        )

    def start(self, *options: str, scheme: str = "http", http: bool = True) -> subprocess.Popen[bytes]:
        return self.start_command(self.command(*options, http=http))

    def start_command(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.directory / "output").open("ab") as log:
            said = log.tell()
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory, env=self.environment)
        self.addCleanup(self.end, server)
        self.wait_until_it_answers(server, said)
        return server

    def wait_until_it_answers(self, server: subprocess.Popen[bytes], said: int = 0) -> None:
        """@param said: bytes of output from before this server, which may be one's that had the port before."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            self.assertIsNone(server.poll(), self.output())
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                if b"FluidVM answers" in (self.directory / "output").read_bytes()[said:]:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        self.fail(f"the server doesn't answer: {self.output()}")

    def end(self, server: subprocess.Popen[bytes]) -> None:
        if server.poll() is None:
            server.kill()
        server.wait()

    def output(self) -> str:
        return (self.directory / "output").read_text()

    def health(self) -> tuple[int, dict[str, Any]]:
        """What the server says of itself, and by which HTTP status."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=TIMEOUT) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def proxy(self) -> Any:
        proxy = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{self.port}/RPC2", use_builtin_types=True)
        self.addCleanup(proxy("close"))
        return proxy

    def password(self) -> str:
        return (self.state / "admin-password").read_text().strip()


class StartTests(ProcessCase):
    def test_first_start_makes_the_admin(self) -> None:
        self.start()
        path = self.state / "admin-password"
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.state.stat().st_mode & 0o777, 0o700)
        self.assertIn(str(path), self.output())
        self.assertNotIn(self.password(), self.output())
        proxy = self.proxy()
        self.assertEqual(proxy.get_session(proxy.authenticate("admin", self.password()))["role"], "admin")
        for made in self.state.rglob("*"):
            self.assertEqual(made.stat().st_mode & 0o077, 0, made)

    def test_password_from_the_environment_or_a_file(self) -> None:
        self.environment["FLUIDVM_ADMIN_PASSWORD"] = "from the environment"
        server = self.start()
        proxy = self.proxy()
        proxy.authenticate("admin", "from the environment")
        self.assertFalse((self.state / "admin-password").exists())
        server.terminate()
        self.assertEqual(server.wait(TIMEOUT), -signal.SIGTERM)  # twistd ends by the signal that ended it
        self.state = self.directory / "other"
        (self.directory / "secret").write_text("from a file\n")
        self.start("--admin-password-file", str(self.directory / "secret"))
        proxy.authenticate("admin", "from a file")

    def test_daemon(self) -> None:
        done = self.run_to_end(self.command(daemon=True))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        pid = int(self.pid.read_text())
        try:
            deadline = time.monotonic() + TIMEOUT
            while time.monotonic() < deadline:
                try:
                    self.proxy().authenticate("admin", self.password())
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                self.fail("no answer")
        finally:
            os.kill(pid, signal.SIGTERM)
            while self.pid.exists() and time.monotonic() < deadline:
                time.sleep(0.05)

    def test_health_and_help(self) -> None:
        self.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=TIMEOUT) as answer:
            self.assertEqual(json.load(answer)["status"], "ok")
        shown = self.run_to_end([str(TWISTD), "fluidvm", "--help"]).stdout
        for option in ("--state", "--http", "--https", "--tls-cert", "--config", "--keepalive", "--admin-password-file"):
            self.assertIn(option, shown)

    def test_a_reload_without_tls_ends_nothing(self) -> None:
        server = self.start()
        server.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + TIMEOUT
        while "nothing to reload" not in self.output() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertIn("nothing to reload", self.output())
        self.assertIsNone(server.poll())
        self.wait_until_it_answers(server)

    def test_config_file(self) -> None:
        config = self.directory / "fluidvm.toml"
        config.write_text(f'http = ["tcp:{self.port}:interface=127.0.0.1"]\nstate = "{self.state}"\nsession-timeout = 7\n')
        command = self.command("--config", str(config), http=False)
        del command[command.index("--state") : command.index("--state") + 2]
        self.start_command(command)
        proxy = self.proxy()
        session = proxy.get_session(proxy.authenticate("admin", self.password()))
        self.assertEqual((session["expires"] - session["created"]).total_seconds(), 7)


class RefusalTests(ProcessCase):
    """One of each kind; L{tests.unit.server.test_refusals} has them all."""

    def refused(self, words: str, *options: str) -> None:
        """One line that says why, and a failing exit: in the foreground and as a daemon."""
        for daemon in (False, True):
            done = self.run_to_end(self.command(*options, daemon=daemon))
            self.assertNotEqual(done.returncode, 0)
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line]
            self.assertEqual(len(lines), 1, lines)
            self.assertTrue(lines[0].startswith("fluidvm: "), lines)
            self.assertIn(words, lines[0])
            self.assertFalse(self.pid.exists())

    def test_a_wrong_option(self) -> None:
        self.refused("--wings", "--wings", "2")

    def test_an_endpoint_in_use(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            self.refused("in use", "--http", f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1")

    def test_an_unusable_database(self) -> None:
        self.refused("127.0.0.1", "--database", "postgresql://x:hunter2@127.0.0.1:1/x")

    def test_a_directory_of_another_database(self) -> None:
        """An empty one is another one: the files of all images would be nobody's."""
        server = self.start()
        server.terminate()
        server.wait(TIMEOUT)
        image = self.state / "images" / "1.img"
        image.write_text("an image")
        database = self.state / "fluidvm.db"
        database.rename(self.directory / "the-right-one.db")
        self.refused("belongs to another database")
        database.unlink()
        self.refused("belongs to another database", "--database", f"sqlite:///{self.directory}/new.db")
        self.assertEqual(image.read_text(), "an image")
        (self.directory / "the-right-one.db").rename(database)
        self.start().terminate()

    def test_a_state_directory_in_use(self) -> None:
        self.start()
        self.port = free_port()
        self.pid = self.directory / "another-pid"
        self.refused("another server")


def make_certificate(directory: Path, name: str) -> tuple[str, str]:
    """Make a self-signed certificate for 127.0.0.1 with openssl; gives the paths of key and certificate."""
    key, certificate = str(directory / f"{name}.key"), str(directory / f"{name}.pem")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-keyout",
            key,
            "-out",
            certificate,
            "-subj",
            f"/CN={name}",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


class TLSTests(ProcessCase):
    def test_tls_only(self) -> None:
        key, certificate = make_certificate(self.directory, "server")
        tls = ["--https", f"tcp:{self.port}:interface=127.0.0.1", "--tls-cert", certificate, "--tls-key", key]
        self.start(*tls, http=False)
        context = ssl.create_default_context(cafile=certificate)
        proxy: Any = xmlrpc.client.ServerProxy(f"https://127.0.0.1:{self.port}/RPC2", context=context)
        self.assertEqual(proxy.get_session(proxy.authenticate("admin", self.password()))["role"], "admin")
        proxy("close")()
        listening = subprocess.run(["ss", "-Htlnp"], capture_output=True, text=True, check=True).stdout
        mine = [line for line in listening.splitlines() if f"127.0.0.1:{self.port} " in line or ":8000 " in line]
        self.assertEqual(len(mine), 1, "something listens in clear text")

    def test_old_versions_are_refused(self) -> None:
        key, certificate = make_certificate(self.directory, "server")
        tls = ["--https", f"tcp:{self.port}:interface=127.0.0.1", "--tls-cert", certificate, "--tls-key", key]
        self.start(*tls, http=False)
        for version, good in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
            done = subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", version, "-cipher", "ALL:@SECLEVEL=0"],
                input=b"",
                capture_output=True,
            )
            self.assertEqual(done.returncode == 0, good, (version, done.stderr))


class KillTests(ProcessCase):
    def test_kill_loses_nothing_committed(self) -> None:
        """SIGKILL at an instant of its own choosing; the next start has every record."""
        self.environment["FLUIDVM_ADMIN_PASSWORD"] = "x"
        server = self.start()
        proxy = self.proxy()
        cookie = proxy.authenticate("admin", "x")
        node = proxy.add_compute_node(cookie, "node1", "simulator", "", {})
        user = proxy.create_user(cookie, "alice", "another password", {})
        vm = proxy.create_vm(cookie, {"name": "web", "compute_node": node, "disks": [{"size": 5}]})
        disk = proxy.create_disk(cookie, {"name": "data", "size": 5, "compute_node": node})
        proxy.start_vm(cookie, vm)
        first = proxy.commit_tasks(cookie)
        self.assertTrue(proxy.wait_for_tasks(cookie, first, 25))
        self.assertEqual(proxy.get_errors(cookie, first), [""] * 5)
        before = [proxy.get_vm(cookie, vm), proxy.get_disk(cookie, disk), proxy.get_user(cookie, user)]
        for _ in range(20):
            proxy.create_disk(cookie, {"name": f"more{_}", "size": 5, "compute_node": node})
        second = proxy.commit_tasks(cookie)
        server.kill()
        server.wait()

        self.start()
        proxy = self.proxy()
        cookie = proxy.authenticate("admin", "x")
        self.assertTrue(proxy.wait_for_tasks(cookie, second, 25))
        self.assertEqual(proxy.get_errors(cookie, second), [""] * 20)
        self.assertEqual(proxy.get_errors(cookie, first), [""] * 5)
        self.assertEqual([proxy.get_vm(cookie, vm), proxy.get_disk(cookie, disk), proxy.get_user(cookie, user)], before)
        self.assertEqual(proxy.get_compute_node(cookie, node)["name"], "node1")
        self.assertEqual(len(proxy.list_disks(cookie)), 22)
        proxy.authenticate("alice", "another password")
