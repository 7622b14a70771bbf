"""QEMU's guest agent on the real host: what it does, and what becomes of those who wait for one that doesn't."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults

from fluidvm.driver import DomainSpec, DriverError, GuestOutput, Unsupported, WrongState
from fluidvm.drivers.libvirt.guest import AT_ONCE, MOST_INPUT, MOST_OUTPUT
from tests.real.agent_guest import listening, obedient
from tests.real.real_host import HostCase, until

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA7cUXVEPbjTQ9a9zHYwBh3VfQ5T4hBZ0b3l3X0m2Fqk alice"
SECONDS = 30.0
LIAR = (
    'lie() { while :; do read -r l || sleep 0.1; case "$l" in *guest-sync*) n=${l##*:}; echo "{\\"return\\":${n%%\\}*}}";; '
    '*-status*) printf \'{"return":\'; . /tmp/answer; echo "}";; *exec*) echo \'{"return":{"pid":7}}\';; '
    "*ping*) echo '{\"return\":{}}';; esac; done; }"
)
"""
A line for the guest's shell: something that answers as an agent does, with what the script /tmp/answer prints. Until libvirt
has opened its end, reading gives nothing.
"""


class AgentTests(HostCase):
    async def obeys(self, name: str = "web1") -> DomainSpec:
        """A running domain with an agent that listens."""
        spec = obedient(name)
        await self.connection.define_domain(spec)
        await self.connection.start(spec.uuid)
        await self.up(spec.uuid)
        await listening(self.lab, spec.uuid)
        return spec

    async def do(self, spec: DomainSpec, *argv: str, timeout: float = SECONDS, stdin: bytes = b"") -> GuestOutput:
        """Run a command."""
        return await self.connection.run_in_guest(spec.uuid, argv, stdin, timeout)

    async def runs(self, spec: DomainSpec, word: str) -> bool:
        """Whether a process has a word in its command line; the look's own has it in halves."""
        look = f"for p in /proc/[0-9]*/cmdline; do grep -q {word[0]}''{word[1:]} $p && exit 0; done; exit 1"
        return "RC=0" in await self.tell(spec.uuid, f"sh -c {shlex.quote(look)}")


class ObedientTests(AgentTests):
    async def test_how_commands_end(self) -> None:
        spec = await self.obeys()
        done = await self.do(spec, "sh", "-c", "echo out; echo err >&2; exit 7")
        self.assertEqual(done, GuestOutput(7, "out\n", "err\n"))
        self.assertEqual((await self.do(spec, "sh", "-c", "kill -9 $$")).code, -9)
        self.assertEqual((await self.do(spec, "sh", "-c", "exit 255")).code, 255)
        missing = await self.do(spec, "no-such-command")
        self.assertEqual((missing.code, "not found" in missing.stderr), (127, True), missing)
        # A command's name that is a builtin of shells reaches the program.
        self.assertEqual((await self.do(spec, "echo", "-n", r"a\tb")).stdout, r"a\tb")
        self.assertEqual((await self.do(spec, "cat")).stdout, "", "nothing to read")

    async def test_big_outputs_are_cut_in_the_guest(self) -> None:
        spec = await self.obeys()
        script = "head -c 12000000 /dev/zero; head -c 12000000 /dev/zero >&2; exit 3"
        done = await self.do(spec, "sh", "-c", script)
        self.assertEqual((done.code, len(done.stdout), len(done.stderr)), (3, MOST_OUTPUT, MOST_OUTPUT))
        done = await self.do(spec, "sh", "-c", "[ $(cat | grep -c quince) = 9000 ]", stdin=b"quince\n" * 9000)
        self.assertEqual(done.code, 0)
        call = self.connection.run_in_guest(spec.uuid, ["cat"], b"x" * (MOST_INPUT + 1), SECONDS)
        await self.assertFailure(call, DriverError)
        self.assertEqual((await self.do(spec, "true")).code, 0, "the agent is heard still")

    async def test_passwords_and_keys_arrive(self) -> None:
        spec = await self.obeys()
        secret = "it's $ecret: ü"
        await self.connection.set_password(spec.uuid, "root", secret)
        kept = (await self.do(spec, "cat", "/etc/shadow")).stdout.split(":")[1]
        salt = kept.split("$")[2]
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-salt", salt, "-stdin"], input=secret, text=True, capture_output=True, check=True
        ).stdout.strip()
        self.assertEqual(kept, hashed)
        failure = await self.assertFailure(self.connection.set_password(spec.uuid, "nobody-here", secret), DriverError)
        self.assertNotIn("ecret", str(failure))
        after = (await self.do(spec, "cat", "/etc/shadow")).stdout.split(":")[1]
        self.assertEqual(after, kept, "after failure the old one counts")

        await self.do(spec, "sh", "-c", "mkdir -p /root/.ssh; printf 'ssh-rsa AAAA bob' >/root/.ssh/authorized_keys")
        for _ in range(2):
            await self.connection.add_ssh_key(spec.uuid, KEY)
        keys = (await self.do(spec, "cat", "/root/.ssh/authorized_keys")).stdout
        self.assertEqual(keys.splitlines(), ["ssh-rsa AAAA bob", KEY])

    async def test_a_command_that_does_not_end(self) -> None:
        spec = await self.obeys()
        command = "(while :; do sleep 1; done) & while :; do sleep 1; : quince; done"
        running = self.do(spec, "sh", "-c", command, timeout=4)
        waiting = Deferred.fromCoroutine(running)
        self.assertTrue(await until("command", lambda: self.runs(spec, "quince")))
        failure = await self.assertFailure(waiting, DriverError)
        self.assertIn("within 4 s, and was killed", str(failure))
        await until("its end", lambda: self.gone(spec, "quince"))
        self.assertEqual((await self.do(spec, "true")).code, 0)
        self.assertIsNone(self.connection._lost_reason)

    async def gone(self, spec: DomainSpec, word: str) -> bool:
        return not await self.runs(spec, word)

    async def test_one_that_is_cancelled(self) -> None:
        spec = await self.obeys()
        running = self.connection.run_in_guest(spec.uuid, ["sh", "-c", "while :; do sleep 1; : quince; done"], b"", 60.0)
        await until("command", lambda: self.runs(spec, "quince"))
        running.cancel()
        await self.assertFailure(running, CancelledError)
        await until("its end", lambda: self.gone(spec, "quince"))


class DeafTests(AgentTests):
    """Agents that aren't there, or don't answer."""

    async def fails(self, spec: DomainSpec, error: type[DriverError]) -> set[str]:
        """All verbs fail; gives their words. The connection stays."""
        calls: Any = (
            self.connection.run_in_guest(spec.uuid, ["true"], b"", SECONDS),
            self.connection.set_password(spec.uuid, "root", "hidden"),
            self.connection.add_ssh_key(spec.uuid, KEY),
        )
        done = await DeferredList(calls, consumeErrors=True)
        self.assertEqual([failure.type for _, failure in done], [error] * 3, [str(failure.value) for _, failure in done])
        words = {str(failure.value) for _, failure in done}
        self.assertFalse([text for text in words if "hidden" in text])
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state.value, "running")
        self.assertIsNone(self.connection._lost_reason)
        return words

    async def test_no_agent(self) -> None:
        spec = await self.booted()
        for words in await self.fails(spec, WrongState):
            self.assertIn("QEMU's guest agent must be running in it", words)

    async def test_no_channel(self) -> None:
        text = """<domain type='qemu'><name>bare</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>
            <devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
        domain = self.outside.defineXML(text)
        domain.create()
        await self.fails(self.spec(uuid=domain.UUIDString()), Unsupported)

    async def test_an_agent_that_stops(self) -> None:
        one, two = await gatherResults([self.started("web1"), self.started("web2")])
        running = self.connection.run_in_guest(one.uuid, ["sh", "-c", "while :; do sleep 1; : quince; done"], b"", 60.0)
        await until("command", lambda: self.runs(one, "quince"))
        await self.tell(one.uuid, "kill -STOP $(pidof qemu-ga)")
        failure = await self.assertFailure(running, WrongState)
        self.assertIn("agent", str(failure))
        # More who wait for it than the node has turns: its other calls go on meanwhile, and so do others' agents.
        waiting = [self.connection.set_password(one.uuid, "root", f"hidden{n}") for n in range(2 * AT_ONCE)]
        for _ in range(100):
            self.assertEqual((await self.connection.get_domain(two.uuid)).state.value, "running")
        self.assertFalse(any(call.called for call in waiting))
        failed: Any
        for _, failed in await DeferredList(waiting, consumeErrors=True):
            self.assertTrue(failed.check(DriverError), failed)
            self.assertNotIn("hidden", str(failed.value))
        self.assertEqual((await self.do(two, "true")).code, 0)
        # It goes on, and is heard again.
        await self.tell(one.uuid, "kill -CONT $(pidof qemu-ga)")
        self.assertEqual((await self.do(one, "echo", "back")).stdout, "back\n")

    async def test_an_agent_that_lies(self) -> None:
        """A guest's owner chooses what answers there: nothing of it may harm the node."""
        spec = await self.obeys()
        await self.silenced(spec)
        answers = {
            "'[]'": "invalid answer",
            "'{\"exited\":true}'": "has no valid exitcode",
            "'7'": "invalid answer",
            '\'{"exited":true,"exitcode":"0"}\'': "has no valid exitcode",
            '\'{"exited":true,"exitcode":0,"out-data":[1]}\'': "invalid out-data",
            '\'{"exited":true,"exitcode":0,"out-data":"a"}\'': "invalid out-data",
            # Longer than libvirt hands on, and than it reads.
            '\'{"exited":true,"exitcode":0,"out-data":"%04500000d"}\' 0': "",
            '\'{"exited":true,"exitcode":0,"out-data":"%011000000d"}\' 0': "",
        }
        await self.tell(spec.uuid, LIAR)
        await self.tell(spec.uuid, "port=$(echo /dev/vport*p1); lie <>$port >&0 &")
        await listening(self.lab, spec.uuid)
        for answer, words in answers.items():
            await self.tell(spec.uuid, f"echo {shlex.quote('printf ' + answer)} >/tmp/answer")
            failure = await self.assertFailure(Deferred.fromCoroutine(self.do(spec, "true")), DriverError)
            self.assertIn(words, str(failure))
            self.assertEqual((await self.connection.get_domain(spec.uuid)).state.value, "running")
            self.assertIsNone(self.connection._lost_reason)

    async def silenced(self, spec: DomainSpec) -> None:
        """End a guest's agent, and wait until libvirt has noticed."""
        await self.tell(spec.uuid, "kill -9 $(pidof qemu-ga)")
        domain = self.outside.lookupByUUIDString(spec.uuid)
        await until("end of the agent", lambda: "state='connected'" not in domain.XMLDesc(0))

    def started(self, name: str) -> Any:
        return Deferred.fromCoroutine(self.obeys(name))

    async def test_an_agent_that_ends(self) -> None:
        spec = await self.obeys()
        running = self.connection.run_in_guest(spec.uuid, ["sleep", "1000"], b"", 60.0)
        await until("command", lambda: self.runs(spec, "1000"))
        await self.silenced(spec)
        await self.assertFailure(running, DriverError)
        await self.fails(spec, WrongState)
        await self.tell(spec.uuid, "qemu-ga -m virtio-serial -p /dev/vport*p1 -t /run >/dev/null 2>&1 &")
        await listening(self.lab, spec.uuid)
        self.assertEqual((await self.do(spec, "true")).code, 0)
