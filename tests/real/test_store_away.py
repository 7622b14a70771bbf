"""The real program, while its PostgreSQL is away, hangs, or is another server's."""

from __future__ import annotations

import signal
import time
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Callable
from typing import Any

from tests import TIMEOUT
from tests.postgres import shared_cluster
from tests.real.test_service import ProcessCase, free_port


class StoreAwayTests(ProcessCase):
    def setUp(self) -> None:
        super().setUp()
        self.cluster = shared_cluster()
        self.addCleanup(self.cluster.start)
        self.name = self.cluster.create_database()
        self.environment["FLUIDVM_ADMIN_PASSWORD"] = "x"
        self.options = ("--database", self.cluster.url(self.name), "--store-timeout", "3")
        self.server = self.start(*self.options)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 4 * TIMEOUT
        while not condition():
            self.assertLess(time.monotonic(), deadline, self.output())
            time.sleep(0.05)

    def refused(self, call: Callable[..., Any], *arguments: Any) -> None:
        fault = self.assertRaises(xmlrpc.client.Fault, call, *arguments)
        self.assertEqual(fault.faultCode, 503, fault.faultString)

    def queued(self, proxy: Any, cookie: int, name: str) -> None:
        proxy.create_user(cookie, name, "a good password")

    def test_away_and_back(self) -> None:
        proxy = self.proxy()
        cookie = proxy.authenticate("admin", "x")
        self.queued(proxy, cookie, "alice")
        self.cluster.stop()
        self.refused(proxy.commit_tasks, cookie)
        self.assertEqual(self.health()[0], 503)
        self.assertIn("store", self.health()[1]["reasons"][0])
        self.assertEqual(len(proxy.get_pending_tasks(cookie)), 1)
        self.cluster.start()
        self.until(lambda: self.health()[0] == 200)
        ec = proxy.commit_tasks(cookie)
        self.assertTrue(proxy.wait_for_tasks(cookie, ec, 25))
        self.assertEqual(proxy.get_errors(cookie, ec), [""])
        proxy.authenticate("alice", "a good password")

    def test_hanging_and_stopped(self) -> None:
        proxy = self.proxy()
        cookie = proxy.authenticate("admin", "x")
        self.queued(proxy, cookie, "alice")
        self.cluster.suspend()
        self.addCleanup(self.cluster.resume)
        self.refused(proxy.commit_tasks, cookie)
        code, told = self.health()
        self.assertEqual((code, told["status"]), (503, "failing"))
        self.assertIn("no answer within 3 s", " ".join(told["reasons"]))
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(2 * TIMEOUT)

    def test_a_server_that_another_one_has_displaced_stops_itself(self) -> None:
        self.cluster.stop()
        self.server.send_signal(signal.SIGSTOP)
        self.cluster.start()
        own, self.port, self.state = self.port, free_port(), self.directory / "another"
        (self.directory / "output").rename(self.directory / "first")
        self.pid = self.directory / "another-pid"
        self.start(*self.options)
        self.server.send_signal(signal.SIGCONT)
        self.assertEqual(self.server.wait(4 * TIMEOUT), 1)
        first = (self.directory / "first").read_text()
        self.assertIn("The server stops", first)
        self.assertIn("another server has taken over the database", first)
        self.assertNotIn("Traceback", first)
        self.assertRaises(OSError, urllib.request.urlopen, f"http://127.0.0.1:{own}/health", timeout=TIMEOUT)
        self.assertEqual(self.health()[0], 200)
