"""Faults from outside, on the real program: a full disk, a hypervisor that hangs, a node that goes away."""

from __future__ import annotations

import os
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from tests import TIMEOUT
from tests.real.real_host import shared_host
from tests.real.test_service import TWISTD, ProcessCase


class InjectionTests(ProcessCase):
    def log_in(self) -> tuple[Any, int]:
        proxy = self.proxy()
        return proxy, proxy.authenticate("admin", "x")

    def setUp(self) -> None:
        super().setUp()
        self.environment["FLUIDVM_ADMIN_PASSWORD"] = "x"

    def refused(self, code: int, call: Any, *arguments: Any) -> str:
        fault = self.assertRaises(xmlrpc.client.Fault, call, *arguments)
        self.assertEqual(fault.faultCode, code, fault.faultString)
        return str(fault.faultString)

    def test_full_disk(self) -> None:
        self.state.mkdir()
        mount = f'mount -t tmpfs -o size=6m,mode=700 none "{self.state}" && exec "$@"'
        own = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
        server = self.start_command(["unshare", *own, "sh", "-c", mount, "sh", str(TWISTD), *self.command()[1:]])
        # The server's own view of its file system.
        state = Path(f"/proc/{server.pid}/root{self.state}")
        proxy, cookie = self.log_in()
        node = proxy.add_compute_node(cookie, "node1", "simulator", "", {})
        vm = proxy.create_vm(cookie, {"name": "web", "compute_node": node})
        proxy.wait_for_tasks(cookie, proxy.commit_tasks(cookie), 25)
        self.assertEqual(self.health()[0], 200)
        with (state / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 4096)
            except OSError:
                pass
        # What room the log of the database has left is used up soon.
        for attempt in range(3000):
            proxy.create_user(cookie, f"user{attempt}", "a good password")
            try:
                proxy.commit_tasks(cookie)
            except xmlrpc.client.Fault as fault:
                self.assertEqual(fault.faultCode, 503, fault.faultString)
                self.assertIn("full", fault.faultString)
                break
        else:
            self.fail("the disk doesn't get full")
        self.assertEqual(self.health()[0], 503)
        self.assertIn("store", self.health()[1]["reasons"][0])
        self.assertEqual(proxy.get_vm(cookie, vm)["name"], "web", "queries are answered")
        self.assertEqual(len(proxy.get_pending_tasks(cookie)), 1, "what wasn't committed is pending still")
        (state / "filler").unlink()
        ec = proxy.commit_tasks(cookie)
        self.assertTrue(proxy.wait_for_tasks(cookie, ec, 25))
        self.assertEqual(proxy.get_errors(cookie, ec), [""])
        self.assertEqual(self.health()[0], 200)
        for context in proxy.list_execution_contexts(cookie):
            self.assertTrue(proxy.wait_for_tasks(cookie, context["id"], 25), context)
            self.assertEqual(set(context["errors"]) - {""}, set())
        self.assertEqual(len(proxy.list_users(cookie)), attempt + 2)

    def test_a_hypervisor_that_hangs(self) -> None:
        server = self.start()
        proxy, cookie = self.log_in()
        good = proxy.add_compute_node(cookie, "good", "simulator", "", {})
        bad = proxy.add_compute_node(cookie, "bad", "simulator", "", {"hang": ["start"]})
        vms = [proxy.create_vm(cookie, {"name": f"vm{node}", "compute_node": node}) for node in (good, bad)]
        proxy.wait_for_tasks(cookie, proxy.commit_tasks(cookie), 25)
        for _ in range(2):
            proxy.start_vm(cookie, vms[1])
            hanging = proxy.commit_tasks(cookie)
            proxy.start_vm(cookie, vms[0])
            other = proxy.commit_tasks(cookie)
            self.assertTrue(proxy.wait_for_tasks(cookie, other, 25), "others go on")
            self.assertEqual(proxy.get_task_state(cookie, hanging), [1])
            server.kill()
            server.wait()
            server = self.start()
            proxy, cookie = self.log_in()
        self.assertEqual(proxy.get_task_state(cookie, hanging), [1], "it is taken up again, and hangs again")
        self.assertEqual(proxy.cancel_tasks(cookie, hanging), 1, "the one that waits behind it")
        server.terminate()
        server.wait(TIMEOUT)  # it doesn't keep the server from stopping

    def test_a_node_that_goes_away(self) -> None:
        lab = shared_host()
        self.start()
        proxy, cookie = self.log_in()
        options = {"accelerator": "emulate", "pool": "away", "pool_path": str(lab.directory / "away")}
        node = proxy.add_compute_node(cookie, "real", "kvm", lab.uri, options)
        proxy.wait_for_tasks(cookie, proxy.commit_tasks(cookie), 25)
        disks = [proxy.create_disk(cookie, {"name": f"disk{n}", "size": 1, "pool": "away"}) for n in range(60)]
        ec = proxy.commit_tasks(cookie)
        while sum(proxy.get_task_state(cookie, ec)) > 40:
            time.sleep(0.01)
        lab.signal_daemon()
        while not proxy.wait_for_tasks(cookie, ec, 25):
            pass
        context = proxy.get_execution_context(cookie, ec)
        codes = {task["code"] for task in context["tasks"]}
        self.assertLessEqual(codes, {0, 503}, context["errors"])
        self.assertIn(0, codes)
        deadline = time.monotonic() + TIMEOUT
        while proxy.get_compute_node(cookie, node)["state"] != "online":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.1)
        listed = {disk["id"]: disk for disk in proxy.list_disks(cookie)}
        for disk, task in zip(disks, context["tasks"], strict=True):
            if task["code"] == 0:
                self.assertEqual(listed[disk]["state"], "ready")
        # What failed in the middle can be deleted like all the rest, and then nothing is left.
        for disk in listed:
            proxy.delete_disk(cookie, disk)
        ec = proxy.commit_tasks(cookie)
        while not proxy.wait_for_tasks(cookie, ec, 25):
            pass
        self.assertEqual(set(proxy.get_errors(cookie, ec)), {""})
        self.assertEqual(proxy.list_disks(cookie), [])
        self.assertEqual(list((lab.directory / "away").iterdir()), [])
