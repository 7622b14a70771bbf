"""Consoles on the real host: what comes in floods, who types much, and many at once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from twisted.internet.defer import gatherResults

from fluidvm.conformance.console import Viewer
from fluidvm.driver import Unsupported
from fluidvm.drivers.libvirt.stream import MOST_HELD
from tests import TIMEOUT
from tests.real.real_host import HostCase, reactor, until

FLOOD = b"while :; do cat /proc/kallsyms; done\n"


def sockets() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add(str(link.readlink()))
    return {name for name in found if name.startswith("socket:")}


class ConsoleTests(HostCase):
    async def open(self, uuid: str) -> Any:
        viewer: Any = Viewer()
        await self.connection.open_serial(uuid, viewer)
        self.addCleanup(viewer.transport.loseConnection)
        return viewer

    async def test_a_viewer_that_does_not_keep_up_is_cut(self) -> None:
        spec = await self.booted()
        viewer = await self.open(spec.uuid)
        viewer.transport.write(FLOOD)
        await until("flood", lambda: len(viewer.seen) > 2 * MOST_HELD)
        viewer.transport.pauseProducing()
        before = len(viewer.seen)
        await until("end", lambda: viewer.losses)
        self.assertLess(len(viewer.seen) - before, 2 * MOST_HELD)
        # The guest isn't the worse for it, nor is the node.
        other = await self.open(spec.uuid)
        await until("flood", lambda: len(other.seen) > 1000)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state.value, "running")

    async def test_much_is_typed(self) -> None:
        spec = await self.booted()
        viewer = await self.open(spec.uuid)
        lines = [b"echo %06d-$((6*7))" % number for number in range(1000)]
        viewer.transport.write(b"\n".join(lines) + b"\n")
        await until("last answer", lambda: b"000999-42" in viewer.seen)
        self.assertEqual([n for n in range(1000) if b"%06d-42" % n not in viewer.seen], [])

    async def test_many_at_once(self) -> None:
        """libvirtd serves a client's calls a few at a time: consoles mustn't count among them."""
        spec = await self.booted()
        viewers: list[Any] = []
        for _ in range(20):
            viewer: Any = Viewer()
            await self.connection.open_vnc(spec.uuid, viewer)
            self.addCleanup(viewer.transport.loseConnection)
            viewers.append(viewer)
        serial = await self.open(spec.uuid)
        serial.transport.write(b"echo $((6*7))\n")
        await until("answers", lambda: b"42" in serial.seen and all(one.seen == b"RFB 003.008\n" for one in viewers))
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state.value, "running")

    def bare(self, name: str, devices: str = "") -> str:
        """Start a domain that boots nothing. Gives its UUID."""
        text = f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>
            <devices><controller type='usb' model='none'/><memballoon model='none'/>{devices}</devices></domain>"""
        domain = self.outside.defineXML(text)
        domain.create()
        return str(domain.UUIDString())

    async def test_many_serial_ones(self) -> None:
        viewers = []
        for number in range(8):
            uuid = self.bare(f"bare{number}", "<serial type='pty'/>")
            viewers.append(await self.open(uuid))
        self.assertEqual((await self.connection.get_domain(uuid)).state.value, "running")
        await self.connection.stop(uuid)
        await until("end", lambda: viewers[-1].losses)
        self.assertEqual([viewer.losses for viewer in viewers], [0] * 7 + [1])

    async def test_a_guest_that_takes_nothing(self) -> None:
        """libvirtd reads nothing more from a client whose stream's bytes nobody takes: nothing else may go that way."""
        viewers = []
        for number in range(6):  # more than a node has threads for long calls, and libvirtd requests for a client
            viewers.append(await self.open(self.bare(f"bare{number}", "<serial type='pty'/>")))
            viewers[-1].transport.write(b"x" * 2**20)
        sent: list[list[int]] = []

        def stuck() -> bool:
            """Whether something is left of each, and nothing has gone for a while."""
            sent.append([len(viewer.transport._going) for viewer in viewers])
            return min(sent[-1]) > 0 and sent[-20:] == 20 * sent[-1:]

        await until("end of what is taken", stuck)
        uuid = self.bare("other", "<serial type='pty'/>")
        asked: list[Any] = [self.connection.domain_stats(uuid), self.connection.list_domains()]
        others: Any = gatherResults(asked, consumeErrors=True)
        await others.addTimeout(TIMEOUT, reactor)
        await self.open(uuid)
        self.assertTrue(stuck(), "it was over before")
        for viewer in viewers:
            viewer.transport.loseConnection()
            self.assertEqual(viewer.losses, 0)
            viewer.transport.abortConnection()
            self.assertEqual(viewer.losses, 1)

    async def test_each_connection_is_closed(self) -> None:
        """However the console ends; also one whose guest takes nothing, once the guest is gone."""
        uuids = [self.bare(f"bare{number}", "<serial type='pty'/>") for number in range(4)]
        before = sockets()
        taken = await self.open(uuids[0])
        gone, aborted, stopped, stuck = [await self.open(uuid) for uuid in uuids]
        await until("end of the one that was taken", lambda: taken.losses)
        await until("end of its connection", lambda: len(sockets() - before) <= 4)
        self.assertEqual(len(sockets() - before), 4)
        gone.transport.loseConnection()
        aborted.transport.abortConnection()
        await self.connection.stop(uuids[2])
        stuck.transport.write(b"x" * 2**20)
        await until("flood", lambda: len(stuck.transport._going) < 2**20)
        stuck.transport.abortConnection()
        await self.connection.stop(uuids[3])
        await until("end of the connections", lambda: not sockets() - before)
        self.assertEqual([viewer.losses for viewer in (gone, aborted, stopped, stuck)], [1] * 4)
        last = await self.open(uuids[0])
        await self.connection.close()
        await until("end of the last one", lambda: last.losses and not self.connection._sides)

    async def test_what_has_none(self) -> None:
        uuid = self.bare("bare")
        for open_console in (self.connection.open_vnc, self.connection.open_serial):
            viewer: Any = Viewer()
            await self.assertFailure(open_console(uuid, viewer), Unsupported)
            self.assertEqual(viewer.connections, 0)
