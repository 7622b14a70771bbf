"""The server finds the driver by its entry point, and can use it: a test with the real server, over XML-RPC."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from fluidvm_driver_namespaces import processes

from .factory import TEMPLATE

TWISTD = Path(sys.executable).with_name("twistd")
PATIENCE = 300.0


class ServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        subprocess.run([TEMPLATE, self.directory / "template"], check=True)
        self.guests = self.directory / "guests"
        self.addCleanup(self.end_guests)
        self.start()

    def end_guests(self) -> None:
        """Stop what a failed test has left running."""
        for lock in self.guests.glob("*-*.lock"):
            if supervisor := processes.holder(lock):
                os.kill(supervisor, signal.SIGKILL)

    def start(self) -> None:
        """Start the server, and log in."""
        output = self.directory / f"output-{time.monotonic_ns()}"
        command = [TWISTD, "--nodaemon", f"--pidfile={self.directory}/pid", "fluidvm", "--state", self.directory / "state"]
        with output.open("wb") as sink:
            self.server = subprocess.Popen(
                [*command, "--http", "tcp:0:interface=127.0.0.1"], stdout=sink, stderr=sink, cwd=self.directory
            )
        self.addCleanup(self.end, self.server)
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"answers on .*port=(\d+)", output.read_text())):
            self.assertIsNone(self.server.poll(), output.read_text())
            self.assertLess(time.monotonic(), deadline, output.read_text())
            time.sleep(0.05)
        proxy = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{found[1]}/RPC2", use_builtin_types=True)
        self.addCleanup(proxy("close"))
        self.proxy: Any = proxy
        password = (self.directory / "state" / "admin-password").read_text().strip()
        self.cookie = self.proxy.authenticate("admin", password)

    def end(self, server: subprocess.Popen[bytes]) -> None:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.proxy, method)(self.cookie, *arguments)

    def do(self, method: str, *arguments: Any) -> Any:
        """Run one task, which must succeed."""
        answer = self.call(method, *arguments)
        ec = self.call("commit_tasks")
        deadline = time.monotonic() + PATIENCE
        while not self.call("wait_for_tasks", ec, 5):
            self.assertLess(time.monotonic(), deadline, method)
        self.assertEqual(self.call("get_errors", ec), [""], method)
        return answer

    def state(self, vm: int) -> str:
        state: str = self.call("get_vm", vm)["state"]
        return state

    def test_a_guest_s_life(self) -> None:
        listed = {driver["name"]: driver for driver in self.call("list_drivers")}
        self.assertIn("simulator", listed)
        told = self.call("get_driver", "namespaces")
        self.assertEqual(listed["namespaces"], {key: told[key] for key in listed["namespaces"]})
        self.assertEqual((told["distribution"], told["version"]), ("fluidvm-driver-namespaces", "1.0"))
        self.assertNotIn("error", told)
        self.assertEqual(list(told["options"]), ["template"])
        self.assertIn("set_vm_memory", told["methods"])
        self.assertNotIn("attach_disk", told["methods"])
        self.assertEqual(told["abilities"], ["Connection", "LiveResize", "Events"])

        options = {"template": str(self.directory / "template")}
        node = self.do("add_compute_node", "here", "namespaces", str(self.guests), options)
        found = self.call("get_compute_node", node)
        self.assertEqual(found["state"], "online", found)
        vm = self.do("create_vm", {"name": "web", "memory": 32, "max_memory": 64, "vcpus": 1, "compute_node": node})
        uuid = self.call("get_vm", vm)["uuid"]
        self.assertTrue((self.guests / f"{uuid}.json").exists())
        self.do("start_vm", vm)
        self.assertEqual(self.state(vm), "running")
        self.do("set_vm_memory", vm, 48)
        self.do("pause_vm", vm)
        self.assertEqual(self.state(vm), "paused")
        self.do("resume_vm", vm)

        # The guest survives the server, and the next server finds it.
        self.end(self.server)
        self.start()
        deadline = time.monotonic() + PATIENCE
        while self.call("get_compute_node", node)["state"] != "online":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        found = self.call("get_vm", vm)
        self.assertEqual((found["state"], found["memory"]), ("running", 48))

        self.do("stop_vm", vm)
        self.assertEqual(self.state(vm), "stopped")
        self.do("delete_vm", vm)
        self.assertEqual([path.name for path in self.guests.iterdir()], ["directory.lock"])

    def test_what_it_can_not_do_is_refused(self) -> None:
        options = {"template": str(self.directory / "template")}
        for address, given, words in (
            ("nowhere", options, "absolute path"),
            (str(self.guests), {}, "options.template: is missing"),
        ):
            with self.assertRaises(xmlrpc.client.Fault) as caught:
                self.call("add_compute_node", "here", "namespaces", address, given)
            self.assertIn(words, caught.exception.faultString)
