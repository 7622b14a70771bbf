"""Clients that connect at the same time, before the server accepts the first of them."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SkipTest, TestCase

from fluidvm.wire.listening import BACKLOG, endpoint
from tests import TIMEOUT
from tests.support import ServerCase, port_of

BURST = 500


class BurstTests(ServerCase):
    async def test_all_are_connected_while_the_server_is_busy(self) -> None:
        """The reactor does not run meanwhile: connections wait in the backlog of the port."""
        if int(Path("/proc/sys/net/core/somaxconn").read_text()) < BURST:
            raise SkipTest("this machine's net.core.somaxconn is less than the burst")
        port = port_of(self.serve().server)
        waiting = selectors.DefaultSelector()
        clients = [socket.socket() for _ in range(BURST)]
        try:
            for client in clients:
                client.setblocking(False)
                self.assertIn(client.connect_ex(("127.0.0.1", port)), (0, errno.EINPROGRESS))
                waiting.register(client, selectors.EVENT_WRITE)
            deadline = time.monotonic() + TIMEOUT
            while waiting.get_map() and time.monotonic() < deadline:
                for key, _ in waiting.select(1.0):
                    waiting.unregister(key.fileobj)
            self.assertEqual(len(waiting.get_map()), 0)
        finally:
            waiting.close()
            for client in clients:
                client.close()


class EndpointTests(TestCase):
    def backlog(self, description: str) -> Any:
        asked: list[Any] = []

        class Listening:
            """Records the backlog."""

            def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> None:
                asked.append(backlog)

            def listenUNIX(
                self, address: str, factory: Any, backlog: int = 50, mode: int = 0, wantPID: bool = False
            ) -> None:
                asked.append(backlog)

        endpoint(Listening(), description).listen(Factory())
        return asked[0]

    def test_the_default_backlog(self) -> None:
        for description in (
            "tcp:8000",
            "tcp:8000:interface=127.0.0.1",
            r"tcp:8000:interface=\:\:1",
            "tcp6:8000",
            "unix:/run/x",
            "haproxy:tcp:8000",
            "haproxy:unix:/run/x",
        ):
            self.assertEqual(self.backlog(description), BACKLOG, description)

    def test_a_given_backlog(self) -> None:
        for description in ("tcp:8000:backlog=7", "tcp:8000:backlog=7:interface=127.0.0.1", "haproxy:tcp:8000:backlog=7"):
            self.assertEqual(self.backlog(description), 7, description)

    def test_other_endpoints_are_unchanged(self) -> None:
        with self.assertRaises(ValueError):
            endpoint(reactor, "pigeon:5")
        with self.assertRaises(ValueError) as refused:
            endpoint(reactor, "systemd:domain=INET:index=x")
        self.assertIn("'x'", str(refused.exception))
