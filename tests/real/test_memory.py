"""The memory of a server process whose clients ask for much and read nothing."""

from __future__ import annotations

import socket
import ssl
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from tests import TIMEOUT
from tests.real.test_tls import TLSCase
from tests.support import PASSWORD

MIB = 2**20
VMS = 250
PING = b"\x89\xfd\x00\x00\x00\x00" + b"x" * 125


class MemoryCase(TLSCase):
    def setUp(self) -> None:
        super().setUp()
        self.sockets: list[socket.socket] = []

    def tearDown(self) -> None:
        for one in self.sockets:
            one.close()

    def peak(self) -> int:
        """The most memory that the process has had, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def begin(self, secure: bool, vms: int = VMS) -> Any:
        """Start a server with VMs. Gives a client that is logged in, and its cookie."""
        if secure:
            self.process = self.serve("--keepalive", "any-call", "--session-timeout", "3600")
            proxy = self.client()
        else:
            self.process = self.start("--keepalive", "any-call", "--session-timeout", "3600")
            proxy = self.proxy()
        cookie = proxy.authenticate("admin", PASSWORD)
        node = proxy.add_compute_node(cookie, "node1", "simulator", "", {})
        for number in range(vms):
            spec = {"name": f"vm{number}", "compute_node": node, "description": "x" * 2000, "memory": 16}
            proxy.create_vm(cookie, spec)
        ec = proxy.commit_tasks(cookie)
        while not proxy.wait_for_tasks(cookie, ec, 20):
            pass
        self.assertEqual(set(proxy.get_errors(cookie, ec)), {""})
        return proxy, cookie

    def send(self, secure: bool, data: bytes) -> socket.socket:
        """Connect and send, and read nothing."""
        one = socket.create_connection(("127.0.0.1", self.port), TIMEOUT)
        if secure:
            one = self.context().wrap_socket(one, server_hostname="localhost")
        self.sockets.append(one)
        one.sendall(data)
        return one


class AnswersTests(MemoryCase):
    def unread_boxcars(self, secure: bool) -> None:
        proxy, cookie = self.begin(secure)
        call = {"methodName": "list_vms", "params": [cookie]}
        body = xmlrpc.client.dumps(([call] * 1000,), "system.multicall").encode()
        size = len(proxy.list_vms(cookie)) * 2000
        self.assertGreater(1000 * size, 400 * MIB)
        before = self.peak()
        request = b"POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%s"
        for _ in range(8):
            self.send(secure, request % (len(body), body))
        # Until it grows no more: what it is to be has no bound from below.
        seen, still = before, 0
        while still < 20:
            time.sleep(0.1)
            still = still + 1 if self.peak() == seen else 0
            seen = self.peak()
        for _ in range(20):
            proxy.get_vm(cookie, 1)  # small answers go out meanwhile
            time.sleep(0.1)
        self.assertLess(self.peak() - before, 400 * MIB)

    def test_boxcars(self) -> None:
        self.unread_boxcars(False)

    def test_boxcars_over_tls(self) -> None:
        self.unread_boxcars(True)


class ConsoleTests(MemoryCase):
    def pings(self, secure: bool) -> None:
        proxy, cookie = self.begin(secure, 1)
        proxy.start_vm(cookie, 1)
        proxy.wait_for_tasks(cookie, proxy.commit_tasks(cookie), 20)
        path = proxy.get_vm_console(cookie, 1)["path"]
        one = self.send(
            secure,
            b"GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" % path.encode()
            + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n",
        )
        self.assertIn(b" 101 ", one.recv(100))
        before = self.peak()
        one.settimeout(3)
        sent = 0
        with self.assertRaises((TimeoutError, ssl.SSLWantWriteError)):
            while sent < 200 * MIB:
                one.sendall(PING * 1000)
                sent += 1000 * len(PING)
        self.assertLess(self.peak() - before, 50 * MIB)

    def test_pings(self) -> None:
        self.pings(False)

    def test_pings_over_tls(self) -> None:
        self.pings(True)
