"""Commands on this machine and over a real sshd: streams, exit codes, quoting, time-outs, and connections that break."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fluidvm.driver import DriverError, Unreachable
from fluidvm.drivers.openvz.runner import GRACE, STDOUT_LIMIT, SYSTEM_PATH, LocalRunner, Outcome
from fluidvm.drivers.openvz.ssh import PING, UNANSWERED, SshAddress, SshRunner, parse_address, read_credentials
from tests.real.real_sshd import Sshd
from tests.real.vz_factory import VzThreadHost, shared_sshd

reactor: Any = _reactor

WORDS = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
    | st.sampled_from(["", "-n", "'"]),
    min_size=1,
    max_size=6,
)


class AddressTests(SynchronousTestCase):
    def test_read(self) -> None:
        self.assertIsNone(parse_address(""))
        self.assertEqual(parse_address("ssh://node1.example"), SshAddress("root", "node1.example", 22))
        self.assertEqual(parse_address("ssh://vz@192.0.2.1:2222/"), SshAddress("vz", "192.0.2.1", 2222))

    def test_refused(self) -> None:
        for address in (
            "node1",
            "http://node1",
            "ssh://",
            "ssh://a:b@node1",
            "ssh://node1/path",
            "ssh://node1:99999",
            "ssh://-oProxyCommand=x",
            "ssh://-l@node1",
            "ssh://node1?x=1",
        ):
            self.assertRaises(ValueError, parse_address, address)


async def until(condition: Callable[[], Any]) -> None:
    """Wait, as long as trial's time-out."""
    while not condition():
        await deferLater(reactor, 0.01, lambda: None)


def kill_group(group: int) -> None:
    """End all processes of a group, if there are any: a shell's command outlives it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class RunnerTests(TestCase):
    """Both ways; each test's time is a clock that it turns."""

    async def setUp(self) -> None:
        self.host = VzThreadHost(Path(self.mktemp()))
        self.addCleanup(self.host.stop)
        self.clock = Clock()
        self.host.clock = self.clock
        self.sshd = shared_sshd()
        self.ssh = await self.opened(self.sshd)
        self.local = LocalRunner(self.host, "")
        self.both = (self.local, self.ssh)

    async def pid_in(self, path: Path) -> int:
        """The number that a command writes into a file, when it is there."""
        await until(lambda: path.exists() and path.read_text().endswith("\n"))
        return int(path.read_text())

    async def opened(self, sshd: Sshd, **changes: str) -> SshRunner:
        address = parse_address(sshd.address)
        assert address is not None
        runner = SshRunner(self.host, address, "")
        self.addCleanup(runner.close)
        given = {"key_file": str(sshd.key), "agent": "", "host_key": sshd.host_key, "known_hosts": "/nonexistent"} | changes
        await runner.open(read_credentials(**given))
        return runner

    async def refused(self, **changes: str) -> str:
        return str(await self.assertFailure(Deferred.fromCoroutine(self.opened(self.sshd, **changes)), Unreachable))

    # commands

    async def test_streams_and_codes(self) -> None:
        for runner in self.both:
            outcome = await runner.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 10.0)
            self.assertEqual(outcome, Outcome(3, "out\n", "err\n"))
            outcome = await runner.run(["no-such-command"], 10.0)
            self.assertEqual((outcome.code, outcome.stdout), (127, ""))
            outcome = await runner.run(["sh", "-c", "kill -9 $$"], 10.0)
            self.assertEqual(outcome.code, -9)

    async def test_a_command_on_this_machine_keeps_nothing_of_the_server_s(self) -> None:
        def fork() -> int:
            raise AssertionError("fork() copies the memory map of a server")

        self.patch(os, "fork", fork)
        told = "pwd; echo $LC_ALL:$HOME:$PATH; echo $$; cut -d ' ' -f 6 /proc/$$/stat"
        runner = LocalRunner(self.host, "/some where/bin")
        directory, variables, pid, session = (await runner.run(["sh", "-c", told], 10.0)).stdout.splitlines()
        self.assertEqual((directory, variables), ("/", f"C:/root:/some where/bin:{SYSTEM_PATH}"))
        self.assertEqual(session, pid)

    async def test_standard_input(self) -> None:
        for runner in self.both:
            self.assertEqual(await runner.run(["cat"], 10.0), Outcome(0, "", ""))
            # More than a channel's window at its opening.
            much = b"0123456789abcdef" * 200_000
            outcome = await runner.run(["cksum"], 10.0, stdin=much)
            expected = subprocess.run(["cksum"], input=much, capture_output=True, check=True).stdout.decode()
            self.assertEqual(outcome.stdout, expected)

    async def test_words_arrive_as_they_are(self) -> None:
        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(words=WORDS)
        def check(words: list[str]) -> None:
            for runner in self.both:
                outcome: Outcome = blockingCallFromThread(reactor, runner.run, ["printf", "%s\\0", *words], 10.0)  # type: ignore[arg-type]
                self.assertEqual(outcome.stdout.split("\0")[:-1], words)

        await deferToThread(check)

    async def test_many_at_once_on_one_connection(self) -> None:
        before = self.sshd.sessions()
        running = gatherResults([self.ssh.run(["echo", str(number)], 600.0) for number in range(40)])
        while not running.called:
            # sshd forgets sessions late, and refuses some: they are tried again after a while.
            self.clock.advance(0.05)
            await deferLater(reactor, 0.01, lambda: None)
        self.assertEqual([outcome.stdout for outcome in await running], [f"{number}\n" for number in range(40)])
        self.assertEqual(self.sshd.sessions(), before)

    async def test_too_much_output(self) -> None:
        runner: Any
        for runner in self.both:
            words = str(await self.assertFailure(runner.run(["yes"], 10.0), DriverError))
            self.assertIn(f"{STDOUT_LIMIT // 1024} KiB", words)
            self.assertEqual((await runner.run(["echo", "on"], 10.0)).stdout, "on\n")

    async def test_a_command_that_hangs(self) -> None:
        runner: Any
        for number, runner in enumerate(self.both):
            pid_file = Path(self.mktemp()).absolute()
            # vzctl, too, takes no notice of a mild signal.
            hanging = runner.run(["sh", "-c", f"trap '' TERM HUP; echo $$ >{pid_file}; sleep 600"], 30.0)
            pid = await self.pid_in(pid_file)
            group = os.getpgid(pid)
            self.clock.advance(31.0)
            self.assertIn("30 s", str(await self.assertFailure(hanging, Unreachable)))
            if number == 0:
                await until(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
            else:
                kill_group(group)  # this sshd may or may not have
            self.assertEqual((await runner.run(["echo", "on"], 10.0)).stdout, "on\n")

    async def test_what_a_command_leaves_behind_is_not_waited_for(self) -> None:
        for runner in self.both:
            pid_file = Path(self.mktemp()).absolute()
            left = runner.run(["sh", "-c", f"sleep 600 & echo $! >{pid_file}; echo done"], 30.0)
            while not left.called:
                self.clock.advance(GRACE / 4)
                await deferLater(reactor, 0.05, lambda: None)
            self.assertEqual(await left, Outcome(0, "done\n", ""))
            os.kill(int(pid_file.read_text()), signal.SIGKILL)

    async def test_closed(self) -> None:
        for runner in self.both:
            lost: list[str] = []
            runner.on_lost(lost.append)
            hanging = runner.run(["sh", "-c", "exec sleep 5"], 30.0)
            await runner.run(["true"], 10.0)
            await runner.close()
            await runner.close()
            await self.assertFailure(hanging, Unreachable)
            await self.assertFailure(runner.run(["true"], 10.0), Unreachable)
            self.assertEqual(lost, [])

    # SSH alone

    async def test_only_the_right_host_key(self) -> None:
        other = self.sshd.make_key("other_host_key")
        self.assertIn("host key", await self.refused(host_key=other.with_suffix(".pub").read_text().strip()))
        known = Path(self.mktemp()).absolute()
        known.write_text("")
        self.assertIn("host key", await self.refused(host_key="", known_hosts=str(known)))
        known.write_text(f"127.0.0.1 {other.with_suffix('.pub').read_text()}")
        self.assertIn("host key", await self.refused(host_key="", known_hosts=str(known)))
        for name in ("127.0.0.1", f"[127.0.0.1]:{self.sshd.port}"):
            text = f"{name} {self.sshd.host_key}\n"
            known.write_text(text)
            runner = await self.opened(self.sshd, host_key="", known_hosts=str(known))
            self.assertEqual((await runner.run(["echo", "hi"], 10.0)).stdout, "hi\n")
            self.assertEqual(known.read_text(), text, "nothing is learnt")

    async def test_only_the_right_key(self) -> None:
        self.assertIn("login", await self.refused(key_file=str(self.sshd.make_key("stranger"))))

    async def test_keys_that_cannot_be_used(self) -> None:
        sealed = self.sshd.directory / "sealed"
        if not sealed.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "words", "-f", sealed], check=True)
        for words, options in (
            ("passphrase", {"key_file": str(sealed)}),
            ("can't be read", {"key_file": "/nonexistent/key"}),
            ("no SSH key", {"key_file": str(self.sshd.directory / "sshd_config")}),
            ("There is no SSH key", {"key_file": ""}),
            ("host_key", {"host_key": "ssh-ed25519 AAAA"}),
        ):
            opening = Deferred.fromCoroutine(self.opened(self.sshd, **options))
            self.assertIn(words, str(await self.assertFailure(opening, DriverError)))  # type: ignore[arg-type]

    async def test_an_agent(self) -> None:
        socket = self.sshd.directory / "agent"
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
        self.addCleanup(agent.wait)
        self.addCleanup(agent.kill)
        self.addCleanup(socket.unlink, True)
        await until(socket.exists)
        environment = os.environ | {"SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", self.sshd.key], env=environment, check=True, stderr=subprocess.DEVNULL)
        runner = await self.opened(self.sshd, key_file="", agent=str(socket))
        self.assertEqual((await runner.run(["echo", "hi"], 10.0)).stdout, "hi\n")

    async def test_nobody_listens(self) -> None:
        runner = SshRunner(self.host, SshAddress("root", "127.0.0.1", 1), "")
        opening = runner.open(read_credentials(str(self.sshd.key), "", self.sshd.host_key, ""))
        await self.assertFailure(Deferred.fromCoroutine(opening), Unreachable)

    async def test_commands_wait_for_no_acknowledgements(self) -> None:
        assert self.ssh._connection is not None
        self.assertTrue(self.ssh._connection.tcp.getTcpNoDelay())

    async def test_a_connection_that_breaks(self) -> None:
        lost: list[str] = []
        self.ssh.on_lost(lost.append)
        pid_file = Path(self.mktemp()).absolute()
        hanging = self.ssh.run(["sh", "-c", f"echo $$ >{pid_file}; exec sleep 600"], 30.0)
        # sshd leaves it running.
        self.addCleanup(kill_group, os.getpgid(await self.pid_in(pid_file)))
        self.sshd.cut()
        await self.assertFailure(hanging, Unreachable)
        await until(lambda: lost)
        self.assertEqual(len(lost), 1)
        await self.assertFailure(self.ssh.run(["true"], 10.0), Unreachable)

    async def test_a_node_that_vanishes(self) -> None:
        lost: list[str] = []
        self.ssh.on_lost(lost.append)
        for _ in range(10):
            self.clock.advance(PING)
            await until(lambda: self.ssh._keeper.unanswered == 0)  # type: ignore[union-attr]
        self.assertEqual(lost, [], "as long as it gives signs of life it is there")
        self.sshd.cut(signal.SIGSTOP)
        self.addCleanup(self.sshd.cut)
        hanging = self.ssh.run(["true"], 600.0)
        for _ in range(UNANSWERED + 1):
            self.clock.advance(PING)
        await self.assertFailure(hanging, Unreachable)
        self.assertIn("didn't respond", lost[0])
