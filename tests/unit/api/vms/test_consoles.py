"""Consoles: who can open one, and what is sent over its WebSocket."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from wsproto.events import CloseConnection, TextMessage

from fluidvm.access import consoles
from fluidvm.access.consoles import LIFE, MOST_TICKETS
from fluidvm.driver import ISerialConsole
from tests.support import Client, ServerCase, port_of
from tests.websocket_client import Looker, Refused, look


class ConsoleCase(ServerCase):
    """A server with a running VM."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        self.there = self.serve()
        # From the address of the WebSocket's client.
        self.admin = await self.there.login()
        self.node = await self.admin.node()
        self.vm = await self.admin.do("create_vm", {"name": "web1", "compute_node": self.node})
        await self.admin.do("start_vm", self.vm)

    async def open(self, path: str, **fields: Any) -> Looker:
        """Open a WebSocket, which is closed when the test ends."""
        looker = await look(port_of(self.there.server), path, **fields)
        self.addCleanup(self.close, looker)
        return looker

    async def close(self, looker: Looker) -> None:
        looker.transport.loseConnection()
        await self.until(lambda: looker.lost)

    async def look(self, client: Client | None = None, *kind: str) -> Looker:
        """Request a console."""
        return await self.open((await (client or self.admin).call("get_vm_console", self.vm, *kind))["path"])

    async def turn(self, condition: Callable[[], Any]) -> None:
        """Let the simulator deliver until a condition is true."""
        while not condition():
            self.there.clock.advance(0)
            await deferLater(reactor, 0.002, lambda: None)

    async def answers(self, looker: Looker) -> None:
        """Check that the console works."""
        before = len(looker.seen)
        looker.type(b"hello\n")
        await self.turn(lambda: b"heard: hello\r\n" in looker.seen[before:] or looker.lost)
        self.assertEqual((looker.lost, looker.closed), (0, None))

    async def ends(self, looker: Looker, code: int, words: str) -> None:
        """Check how the server has closed the WebSocket."""
        await self.turn(lambda: looker.lost)
        self.assertEqual(looker.closed, (code, words))

    async def is_refused(self, status: int, path: str) -> str:
        """Check that the server refuses to open a WebSocket."""
        try:
            await self.open(path)
        except Refused as refused:
            self.assertEqual(refused.args[0], status)
            return str(refused.args[1])
        self.fail("opened")
        raise AssertionError


class BytesTests(ConsoleCase):
    async def test_both_ways(self) -> None:
        told = await self.admin.call("get_vm_console", self.vm)
        self.assertEqual((told["kind"], set(told)), ("serial", {"kind", "path", "expires"}))
        now = self.there.now + self.there.clock.seconds()
        self.assertEqual(told["expires"].replace(tzinfo=UTC).timestamp(), int(now + LIFE))
        looker = await self.open(told["path"])
        looker.type(b"a\xff\n")
        await self.turn(lambda: b" heard: a\xff\r\n" in looker.seen)
        looker.send(TextMessage("ü\n"))
        await self.turn(lambda: b" heard: \xc3\xbc\r\n" in looker.seen)
        looker.send(CloseConnection(1000))
        await self.ends(looker, 1000, "")

    async def test_much(self) -> None:
        looker = await self.look()
        for _ in range(20):
            looker.type(b"x" * 9999 + b"\n")
        await self.turn(lambda: looker.seen.count(b"heard: " + b"x" * 9999 + b"\r\n") == 20)

    async def test_vnc(self) -> None:
        looker = await self.look(None, "vnc")
        await self.turn(lambda: looker.seen == b"RFB 003.008\n")
        looker.type(b"RFB 003.008\n")
        await self.turn(lambda: looker.seen == b"RFB 003.008\n\x01\x01")

    async def test_the_subprotocol_of_older_viewers(self) -> None:
        path = (await self.admin.call("get_vm_console", self.vm))["path"]
        looker = await self.open(path, subprotocols=["other", "binary"])
        self.assertEqual(looker.subprotocol, "binary")
        await self.answers(looker)

    async def test_another_viewer_takes_it_over(self) -> None:
        first = await self.look()
        second = await self.look()
        await self.ends(first, 1000, "The console has ended.")
        await self.answers(second)


class TicketTests(ConsoleCase):
    async def test_valid_once(self) -> None:
        path = (await self.admin.call("get_vm_console", self.vm))["path"]
        await self.open(path)
        self.assertIn("get_vm_console", await self.is_refused(404, path))

    async def test_expires(self) -> None:
        path = (await self.admin.call("get_vm_console", self.vm))["path"]
        await self.there.pass_time(LIFE)
        await self.is_refused(404, path)

    async def test_guessing_is_throttled(self) -> None:
        for path in (
            "/console",
            "/console?ticket=",
            "/console?ticket=x",
            "/console?ticket=a&ticket=b",
            "/console?ticket=%ff",
        ):
            await self.is_refused(404, path)

    async def test_not_valid_after_the_session_ended(self) -> None:
        path = (await self.admin.call("get_vm_console", self.vm))["path"]
        await self.admin.call("logout")
        await self.is_refused(404, path)

    async def test_number_of_tickets_is_limited(self) -> None:
        for _ in range(MOST_TICKETS):
            await self.admin.call("get_vm_console", self.vm)
        words = await self.refused(413, self.admin.call("get_vm_console", self.vm))
        self.assertIn(str(MOST_TICKETS), words)
        await self.there.pass_time(LIFE)
        await self.admin.call("get_vm_console", self.vm)

    async def test_who_gets_one(self) -> None:
        ann = await self.admin.user("ann")
        eve = await self.admin.user("eve", "auditor")
        await self.refused(404, ann.call("get_vm_console", self.vm))
        await self.refused(403, eve.call("get_vm_console", self.vm))
        await self.admin.do("set_vm_owner", self.vm, (await self.admin.call("list_users", {"name": "ann"}))[0]["id"])
        await self.answers(await self.look(ann))

    async def test_vms_without_a_console(self) -> None:
        await self.refused(-32602, self.admin.call("get_vm_console", self.vm, "spice"))
        await self.refused(404, self.admin.call("get_vm_console", 999))
        path = (await self.admin.call("get_vm_console", self.vm))["path"]
        await self.admin.do("stop_vm", self.vm)
        self.assertIn("it has a console", await self.refused(409, self.admin.call("get_vm_console", self.vm)))
        self.assertIn("it has a console", await self.is_refused(409, path))

    async def test_a_node_that_fails(self) -> None:
        node = await self.admin.node("node2", fail=["open_serial"])
        self.vm = await self.admin.do("create_vm", {"name": "web2", "compute_node": node})
        await self.admin.do("start_vm", self.vm)
        path = (await self.admin.call("get_vm_console", self.vm))["path"]
        self.assertIn("configured to fail", await self.is_refused(503, path))

    async def test_what_is_logged(self) -> None:
        told = await self.admin.call("get_vm_console", self.vm)
        await self.open(told["path"])
        (line,) = await self.admin.call("list_audit", {"event": "console"})
        self.assertEqual(
            (line["name"], line["address"], line["target"], line["arguments"]), ("admin", "127.0.0.1", self.vm, "serial")
        )
        everything = str(await self.admin.call("list_audit"))
        self.assertIn("get_vm_console", everything)
        self.assertNotIn(told["path"].partition("=")[2], everything)


class BoundTests(ConsoleCase):
    async def test_number_of_consoles_per_user_is_limited(self) -> None:
        self.patch(consoles, "MOST_OPEN", 2)
        again = await self.there.login()
        first = await self.look(None, "vnc")
        await self.look(again, "vnc")
        path = (await again.call("get_vm_console", self.vm, "vnc"))["path"]
        self.assertIn("You already have 2 consoles open", await self.is_refused(503, path))
        ann = await self.admin.user("ann", "admin")
        await self.look(ann, "vnc")
        first.send(CloseConnection(1000))
        await self.ends(first, 1000, "")
        under_way = self.there.server.dispatcher._services.consoles._open
        await self.turn(lambda: len(under_way) == 2)
        await self.look(again, "vnc")

    async def test_consoles_that_failed_to_open_do_not_count(self) -> None:
        self.patch(consoles, "MOST_OPEN", 1)
        ours, self.vm = (
            self.vm,
            await self.admin.do(
                "create_vm", {"name": "web2", "compute_node": await self.admin.node("node2", fail=["open_vnc"])}
            ),
        )
        await self.admin.do("start_vm", self.vm)
        for _ in range(2):
            path = (await self.admin.call("get_vm_console", self.vm, "vnc"))["path"]
            self.assertIn("configured to fail", await self.is_refused(503, path))
        self.vm = ours
        await self.look(None, "vnc")


class EndTests(ConsoleCase):
    async def test_the_vm_stops(self) -> None:
        looker = await self.look()
        await self.admin.do("stop_vm", self.vm)
        await self.ends(looker, 1000, "The console has ended.")

    async def test_the_client_leaves(self) -> None:
        looker = await self.look()
        looker.transport.abortConnection()
        await self.until(lambda: looker.lost)
        connection: Any = await self.there.server.dispatcher._services.resources.nodes.connection(self.node, ISerialConsole)
        await self.turn(lambda: not connection._serial)

    async def test_the_server_stops(self) -> None:
        looker = await self.look()
        await self.there.stop()
        self.running.remove(self.there)
        await self.until(lambda: looker.lost)
        self.assertEqual(looker.closed, (1001, "The server is stopping."))
