"""Containers whose creation or move goes on when who asked for it is gone: the server killed, or its connection cut."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from fluidvm.driver import DomainSpec, DomainState, DriverError, NoSuchThing
from fluidvm.drivers.openvz.driver import OpenVzConnection
from fluidvm.drivers.openvz.identity import foreign_uuid, own_id
from tests import TIMEOUT
from tests.fakes.vz.node import SAMPLE, FakeNode
from tests.real.test_service import ProcessCase
from tests.real.vz_case import VzCase, in_both_dialects
from tests.real.vz_factory import container_spec, node_options, shared_sshd

OPTIONS: dict[str, Any] = {"swap": 128, "disk_size": 3072}
PASSWORD = "killed while a container is made"


def creations(node: FakeNode) -> int:
    """How often C{vzctl create} was called."""
    return len([call for call in node.calls() if call[:2] == ["vzctl", "create"]])


class KilledServerTests(ProcessCase):
    """C{kill -9} of the real program while C{vzctl create} runs, which goes on until the next start has met it."""

    def setUp(self) -> None:
        super().setUp()
        self.environment["FLUIDVM_ADMIN_PASSWORD"] = PASSWORD
        self.node = FakeNode(self.directory / "node")

    def test_on_this_machine(self) -> None:
        self.check("", {})

    def test_over_ssh(self) -> None:
        sshd = shared_sshd()
        self.check(sshd.address, sshd.options)

    def wait_for(self, what: str, condition: Any) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            self.assertLess(time.monotonic(), deadline, f"{what}; the server said:\n{self.output()}")
            time.sleep(0.05)

    def log_in(self) -> tuple[Any, int]:
        proxy = self.proxy()
        return proxy, proxy.authenticate("admin", PASSWORD)

    def check(self, address: str, more: dict[str, Any]) -> None:
        server = self.start("--session-timeout", "86400")
        proxy, cookie = self.log_in()
        node = proxy.add_compute_node(cookie, "vz1", "openvz", address, node_options(self.node) | OPTIONS | more)
        self.assertTrue(proxy.wait_for_tasks(cookie, proxy.commit_tasks(cookie), 25))
        held = self.node.hold("create-halfway")
        vm = proxy.create_vm(cookie, {"name": "web", "memory": 128, "compute_node": node})
        ec = proxy.commit_tasks(cookie)
        self.wait_for("nothing is made", lambda: not (self.node.root / "faults/create-halfway").exists())
        server.kill()
        server.wait()
        self.start("--session-timeout", "86400")
        self.wait_for("it isn't tried again", lambda: creations(self.node) > 1)
        proxy, cookie = self.log_in()
        self.assertEqual(proxy.list_foreign_vms(cookie, node), [], "what is being made is nobody else's")
        self.assertEqual(proxy.get_vm(cookie, vm)["state"], "creating")
        held.unlink()
        while not proxy.wait_for_tasks(cookie, ec, 25):
            pass
        self.assertEqual(proxy.get_errors(cookie, ec), [""])
        told = proxy.get_vm(cookie, vm)
        self.assertEqual((told["state"], told["memory"]), ("stopped", 128))
        self.assertEqual(proxy.list_foreign_vms(cookie, node), [])
        conf = self.node.conf(self.node.ctid(told["uuid"]))
        for line in ('SWAPPAGES="0:32768"', 'DISKSPACE="3145728:3145728"', 'PHYSPAGES="0:32768"'):
            self.assertIn(line, conf)
        proxy.delete_vm(cookie, vm)
        self.assertTrue(proxy.wait_for_tasks(cookie, proxy.commit_tasks(cookie), 25))
        self.assertEqual(self.node.leftovers(), [], "one was made, not two")


class InterruptedCreationTests(VzCase):
    """In each dialect, as far as they are alike."""

    async def cut_off(self, spec: DomainSpec, stage: str = "create-halfway") -> Path:
        """Begin to make a container and wait for it no longer. Gives the file that holds it up."""
        held = self.node.hold(stage)
        self.addCleanup(held.unlink, missing_ok=True)
        first = self.connection.define_domain(spec)
        await self.until(lambda: not (self.node.root / f"faults/{stage}").exists())
        first.addErrback(lambda failure: None)
        first.cancel()
        return held

    async def killed(self, spec: DomainSpec, stage: str) -> None:
        """Begin to make a container, and kill vzctl at a stage of it."""
        self.node.fault(stage, hang=1)
        first = self.connection.define_domain(spec)
        await self.until(lambda: not (self.node.root / f"faults/{stage}").exists())
        (lock,) = (self.node.root / "vz/lock").glob("*.lck")
        first.addErrback(lambda failure: None)
        first.cancel()
        os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)

    async def check(self, connection: OpenVzConnection, spec: DomainSpec) -> None:
        """There is this container alone, and it has what the spec and the node's options say."""
        (info,) = await connection.list_domains()
        self.assertEqual((info.uuid, info.name, info.memory, info.vcpus), (spec.uuid, spec.name, spec.memory, spec.vcpus))
        listed = (await connection._container(spec.uuid)).listed
        self.assertEqual((listed.swap, listed.disk), (128, 3072))
        self.assertNotIn(":new", self.conf(spec.uuid))
        self.assertEqual(len(list((self.node.root / "vz/private").iterdir())), 1)
        await connection.undefine_domain(spec.uuid)
        self.assertEqual(self.node.leftovers(), [])

    async def test_one_that_goes_on_is_waited_for(self) -> None:
        spec = container_spec("web1")
        held = await self.cut_off(spec)
        another = await self.connect(**OPTIONS)
        self.assertEqual(await another.list_domains(), [], "it is no container yet")
        for uuid in (spec.uuid, foreign_uuid("node1", own_id(spec.uuid))):
            await self.assertFailure(another.get_domain(uuid), NoSuchThing)
        defining = another.define_domain(spec)
        await self.until(lambda: creations(self.node) > 1)
        held.unlink()
        await defining
        await self.check(another, spec)

    async def test_one_that_ends_meanwhile_is_gone_on_with(self) -> None:
        spec = container_spec("web1")
        held = await self.cut_off(spec, "create-late")
        held.unlink()
        await self.until(lambda: not any((self.node.root / "vz/lock").iterdir()))
        another = await self.connect(**OPTIONS)
        await another.define_domain(spec)
        self.assertEqual(creations(self.node), 1)
        await self.check(another, spec)

    async def test_one_that_was_killed_is_made_again(self) -> None:
        if self.dialect == 7:
            return  # what is left there is for an administrator: see the next class of tests
        for stage in ("create-halfway", "create-late"):
            for sample in (OPTIONS, OPTIONS | {"sample": "vswap-256m"}):
                spec = container_spec("web1")
                await self.killed(spec, stage)
                another = await self.connect(**sample)
                self.assertEqual(await another.list_domains(), [])
                await another.define_domain(spec)
                await self.check(another, spec)

    async def test_one_that_was_killed_is_removed(self) -> None:
        if self.dialect == 7:
            return
        for stage in ("create-halfway", "create-late"):
            spec = container_spec("web1")
            await self.killed(spec, stage)
            await self.connection.undefine_domain(spec.uuid)
            self.assertEqual(self.node.leftovers(), [])

    async def test_one_that_goes_on_is_removed_when_it_has_ended(self) -> None:
        spec = container_spec("web1")
        held = await self.cut_off(spec)
        another = await self.connect()
        removing = another.undefine_domain(spec.uuid)
        if self.dialect == 4:
            await self.until(lambda: any(call[1] == "umount" for call in self.node.calls()))
            held.unlink()
        await removing
        if self.dialect == 4:
            self.assertEqual(self.node.leftovers(), [])

    async def test_one_that_fails_leaves_nothing(self) -> None:
        """vzctl itself leaves the link of the name."""
        self.node.fault("create-halfway", rc=46)
        await self.assertFailure(self.connection.define_domain(container_spec("web1")), DriverError)
        if self.dialect == 4:
            self.assertEqual(self.node.leftovers(), [])

    async def test_one_that_was_killed_at_once(self) -> None:
        """It has left a copy of the sample."""
        if self.dialect == 7:
            return
        spec = container_spec("web1")
        (self.node.conf_dir / f"{own_id(spec.uuid)}.conf").write_text(SAMPLE)
        self.assertEqual(await self.connection.list_domains(), [])
        await self.connection.define_domain(spec)
        self.assertEqual(self.node.ctid(spec.uuid), own_id(spec.uuid))

    async def test_somebody_else_has_the_id(self) -> None:
        if self.dialect == 7:
            return
        spec = container_spec("web1")
        argv = [str(self.node.bin / "vzctl"), "create", own_id(spec.uuid), "--ostemplate", "busybox-1-x86_64"]
        subprocess.run(argv, check=True, capture_output=True, timeout=TIMEOUT)
        await self.connection.define_domain(spec)
        self.assertEqual(len(await self.connection.list_domains()), 2)
        self.assertEqual(self.node.ctid(spec.uuid), str(int(own_id(spec.uuid)) + 1))


class InterruptedWorkTests(VzCase):
    """What else copies or removes a file system, and so goes on for long."""

    async def twice(self, stage: str, verb: Any, *args: Any) -> None:
        """Begin something, wait for it no longer, and do it again while it goes on."""
        held = self.node.hold(stage)
        self.addCleanup(held.unlink, missing_ok=True)
        first = verb(self.connection)(*args)
        await self.until(lambda: not (self.node.root / f"faults/{stage}").exists())
        first.addErrback(lambda failure: None)
        first.cancel()
        before = len(self.node.calls())
        again = verb(await self.connect())(*args)
        # One of them met the lock.
        await self.until(lambda: len(self.node.calls()) > before + 2)
        held.unlink()
        await again

    async def test_a_removal(self) -> None:
        spec = await self.defined()
        await self.twice("destroy-halfway", lambda connection: connection.undefine_domain, spec.uuid)
        self.assertEqual(self.node.leftovers(), [])

    async def test_a_snapshot(self) -> None:
        self.node.set(LAYOUT="ploop")
        spec = await self.defined()
        await self.twice("snapshot-halfway", lambda connection: connection.create_snapshot, spec.uuid, "one")
        self.assertEqual([one.name for one in await self.connection.list_snapshots(spec.uuid)], ["one"])
        await self.twice("snapshot-delete-halfway", lambda connection: connection.delete_snapshot, spec.uuid, "one")
        self.assertEqual(await self.connection.list_snapshots(spec.uuid), [])


class InterruptedMoveTests(VzCase):
    """vzmigrate doesn't wait for a container's lock, and doesn't see that who had it is gone."""

    async def setUp(self) -> None:
        await super().setUp()
        self.other = self.new_node("other")
        self.there = await self.connect(self.other, peer_name="other.example")
        (self.node.root / "nodes").write_text(f"other.example={self.other.root}\n")
        self.spec = await self.started()
        self.lock = self.node.root / "vz/lock" / f"{self.node.ctid(self.spec.uuid)}.lck"

    def move(self, connection: OpenVzConnection) -> Any:
        return connection.migrate(self.spec, self.there, True, False, lambda part: None)

    async def check(self) -> None:
        self.assertIs((await self.there.get_domain(self.spec.uuid)).state, DomainState.RUNNING)
        self.assertEqual(self.node.leftovers(), [])

    async def test_a_lock_of_one_that_was_killed(self) -> None:
        gone = subprocess.Popen(["true"])
        gone.wait()
        self.lock.write_text(f"{gone.pid}\n")
        await self.move(self.connection)
        await self.check()

    async def test_a_lock_of_one_that_lives(self) -> None:
        holder = subprocess.Popen(["sleep", "600"])
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        self.lock.write_text(f"{holder.pid}\n\n")
        moving = self.move(self.connection)
        await self.until(lambda: len([call for call in self.node.calls() if call[1] == "umount"]) > 1)
        holder.kill()
        holder.wait()
        await moving
        await self.check()

    async def test_a_move_that_goes_on(self) -> None:
        """In the middle of it the container is told on both nodes."""
        held = self.node.hold("vzmigrate-halfway")
        self.addCleanup(held.unlink, missing_ok=True)
        first = self.move(self.connection)
        await self.until(lambda: not (self.node.root / "faults/vzmigrate-halfway").exists())
        first.addErrback(lambda failure: None)
        first.cancel()
        moving = self.move(await self.connect())
        await self.until(lambda: len([call for call in self.node.calls() if call[1] == "umount"]) > 1)
        held.unlink()
        await moving
        await self.check()


for _case in (InterruptedCreationTests, InterruptedWorkTests, InterruptedMoveTests):
    in_both_dialects(_case, globals())
del _case
