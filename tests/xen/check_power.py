"""How guests end and come back, on a real Xen: told apart from events, and seen when asked."""

from __future__ import annotations

from typing import Any

import libvirt
from twisted.internet import reactor
from twisted.internet.task import deferLater

from fluidvm.driver import Boot, DomainState, DriverError, WrongState
from fluidvm.drivers.xen import driver
from tests.real.real_host import until

from .real_xen import PVGRUB, UP, XenCase, bootable

RUNNING, STOPPED, CRASHED = DomainState.RUNNING, DomainState.STOPPED, DomainState.CRASHED


class EndTests(XenCase):
    async def setUp(self) -> None:
        await super().setUp()
        self.told: list[DomainState | None] = []
        self.spec = bootable("web1")
        self.connection.subscribe(self.tell)

    def tell(self, uuid: str, state: DomainState | None) -> None:
        """Note an event of the test's domain."""
        if uuid == self.spec.uuid:
            self.told.append(state)

    def number(self, uuid: str) -> int:
        """A domain's number on the host, another one after each boot; -1 while it has none."""
        return int(self.outside.lookupByUUIDString(uuid).ID())

    async def rebooted(self, uuid: str, before: int) -> set[DomainState]:
        """Ask for the state until the domain has another number, and half a second longer; give all states there were."""
        seen = set()

        async def look() -> bool:
            seen.add((await self.connection.get_domain(uuid)).state)
            (listed,) = await self.connection.list_domains()
            seen.add(listed.state)
            return self.number(uuid) not in (before, -1)

        await until("reboot", look, UP)
        await deferLater(reactor, 0.5, lambda: None)
        await look()
        return seen

    async def test_a_reboot_that_was_asked_for_ends_nothing(self) -> None:
        spec = await self.started(uuid=self.spec.uuid)
        await self.up(spec)
        before = self.number(spec.uuid)
        self.told.clear()
        await self.connection.reboot(spec.uuid)
        self.assertEqual(await self.rebooted(spec.uuid, before), {RUNNING})
        self.assertEqual(set(self.told), {RUNNING})
        console = await self.up(spec)
        # And one that the guest does by itself.
        before = self.number(spec.uuid)
        self.told.clear()
        console.write("/bin/reboot")
        self.assertEqual(await self.rebooted(spec.uuid, before), {RUNNING})
        self.assertEqual(set(self.told), {RUNNING})

    async def test_a_stop_during_a_reboot_is_one(self) -> None:
        spec = await self.started(uuid=self.spec.uuid)
        await self.up(spec)
        await self.connection.reboot(spec.uuid)
        domain = self.outside.lookupByUUIDString(spec.uuid)
        await until("end of the old domain", lambda: domain.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF, UP)
        await self.connection.stop(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state, STOPPED)
        await until("the end told", lambda: self.told[-1] is STOPPED, UP)
        await deferLater(reactor, 1.0, lambda: None)
        self.assertFalse(domain.isActive())
        self.assertIs(self.told[-1], STOPPED)

    async def test_a_shutdown(self) -> None:
        spec = await self.started(uuid=self.spec.uuid)
        await self.up(spec)
        self.told.clear()  # it was stopped when it was defined, too
        await self.connection.shutdown(spec.uuid)
        await until("the end told", lambda: STOPPED in self.told, UP)
        self.assertNotIn(CRASHED, self.told)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state, STOPPED)

    async def test_a_crash(self) -> None:
        spec = await self.started(uuid=self.spec.uuid)
        console = await self.up(spec)
        console.write("echo c >/proc/sysrq-trigger")
        await until("the crash told", lambda: CRASHED in self.told, UP)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state, CRASHED)
        await self.connection.start(spec.uuid)
        await self.up(spec)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state, RUNNING)

    async def test_a_guest_that_doesnt_answer_keeps_nobody_waiting(self) -> None:
        """A GRUB at its prompt doesn't even take notice; libxl waits a minute for it."""
        spec = await self.started(uuid=self.spec.uuid, boot=Boot(PVGRUB["pv"]))
        other = await self.started("web2")
        ended: list[Any] = []
        self.connection.shutdown(spec.uuid).addBoth(ended.append)
        await self.connection.stop(other.uuid)
        await self.connection.start(other.uuid)
        self.assertEqual((await self.connection.get_domain(other.uuid)).state, RUNNING)
        self.assertEqual(ended, [])
        await until("libxl's giving up", lambda: ended, UP)
        self.assertIsInstance(ended[0].value, DriverError)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state, RUNNING)

    async def test_a_guest_that_doesnt_obey_runs_on(self) -> None:
        spec = await self.started(uuid=self.spec.uuid, cmdline="console=hvc0 quiet deaf")
        await self.up(spec)
        await self.connection.shutdown(spec.uuid)
        await deferLater(reactor, 3.0, lambda: None)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state, RUNNING)
        await self.connection.stop(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state, STOPPED)


class NameTests(XenCase):
    """libvirt's Xen driver has no renaming."""

    async def test_another_name(self) -> None:
        spec = bootable("web1", autostart=True)
        await self.connection.define_domain(spec)
        other = bootable("web2", uuid=spec.uuid, autostart=True, memory=192)
        await self.connection.define_domain(other)
        (info,) = await self.connection.list_domains()
        self.assertEqual((info.uuid, info.name, info.memory, info.autostart), (spec.uuid, "web2", 192, True))

    async def test_a_refused_definition_changes_nothing(self) -> None:
        spec = bootable("web1", autostart=True)
        await self.connection.define_domain(spec)
        before = self.outside.lookupByUUIDString(spec.uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        # libvirt takes no domain without a CPU.
        with self.assertRaises(DriverError):
            await self.connection.define_domain(bootable("web2", uuid=spec.uuid, vcpus=0, max_vcpus=0))
        domain = self.outside.lookupByUUIDString(spec.uuid)
        self.assertEqual(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), before)
        self.assertTrue(domain.autostart())


class ResizeTests(XenCase):
    """That the guest itself has what it was given."""

    async def test_memory(self) -> None:
        spec = await self.started()
        console = await self.up(spec)
        ask = "awk '/MemTotal/ {print \"has\", int($2 / 1024)}' /proc/meminfo"

        async def has() -> int:
            return int((await console.tell(ask)).split("has ")[-1].split()[0])

        before = await has()
        await self.connection.resize_memory(spec.uuid, 192)
        self.assertAlmostEqual(await has(), before + 64, delta=2)
        await self.connection.resize_memory(spec.uuid, 144)
        self.assertAlmostEqual(await has(), before + 16, delta=2)

    async def test_vcpus(self) -> None:
        spec = await self.started()
        console = await self.up(spec)
        for vcpus in (2, 1, 2):
            await self.connection.resize_vcpus(spec.uuid, vcpus)

            async def has(vcpus: int = vcpus) -> bool:
                return f"{vcpus}\r\nRC=0" in await console.tell("nproc")

            await until(f"{vcpus} CPUs in the guest", has, UP)

    async def test_a_guest_without_a_balloon_keeps_its_memory(self) -> None:
        # A GRUB that has found no disk waits at its prompt.
        spec = await self.started(boot=Boot(PVGRUB["pv"]))
        before = await self.connection.get_domain(spec.uuid)
        with self.assertRaises(WrongState) as caught:
            await self.connection.resize_memory(spec.uuid, 192)
        self.assertIn("stop", str(caught.exception))
        self.assertEqual(await self.connection.get_domain(spec.uuid), before)

    async def test_a_guest_that_doesnt_let_cpus_go_keeps_them(self) -> None:
        """No guest could be made that stubborn: Xen's count of its CPUs is held, all else is real."""
        spec = await self.started(vcpus=2)
        console = await self.up(spec)
        running = self.connection._do_running

        class Stubborn:
            def __init__(self, domain: libvirt.virDomain) -> None:
                self._domain = domain

            def __getattr__(self, name: str) -> Any:
                return getattr(self._domain, name)

            def info(self) -> list[int]:
                return [*self._domain.info()[:3], 2, 0]

        self.patch(self.connection, "_do_running", lambda uuid: Stubborn(running(uuid)))
        self.patch(driver, "FOLLOW", 2.0)
        with self.assertRaises(WrongState) as caught:
            await self.connection.resize_vcpus(spec.uuid, 1)
        self.assertIn("stop", str(caught.exception))
        self.assertEqual((await self.connection.get_domain(spec.uuid)).vcpus, 2)

        async def has() -> bool:
            return "2\r\nRC=0" in await console.tell("nproc")

        await until("both CPUs in the guest", has, UP)
        await self.connection.stop(spec.uuid)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).vcpus, 2)

    async def test_more_cpus_than_the_host_has(self) -> None:
        spec = bootable("web1")
        await self.connection.define_domain(spec)
        await self.connection.set_vcpus(spec.uuid, 5)
        info = await self.connection.get_domain(spec.uuid)
        self.assertEqual((info.vcpus, info.max_vcpus), (5, 5))
        await self.connection.start(spec.uuid)
        console = await self.up(spec)
        self.assertIn("cpus=5", console.text)
