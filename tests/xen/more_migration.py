"""Running guests moved between two real Xen hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from fluidvm.driver import DomainSpec, DomainState, DriverError, Unsupported
from fluidvm.drivers.xen.driver import XenDriver
from tests.real.real_host import ThreadHost, until

from .real_xen import Console, XenCase, kill_daemon, options, other_machine


class MigrationTests(XenCase):
    async def setUp(self) -> None:
        await super().setUp()
        self.there = other_machine()
        self.outside_there = self.there.open()
        self.addCleanup(self.clean_up_there)

    def clean_up_there(self) -> None:
        here, self.outside = self.outside, self.outside_there
        self.clean_up()
        self.outside = here

    async def connect_there(self, given: Mapping[str, Any] | None = None) -> Any:
        host = ThreadHost(Path(self.mktemp()))
        self.addCleanup(host.stop)
        connection = await XenDriver().connect(self.there.tcp, given or options(self.there), host)
        self.addCleanup(connection.close)
        return connection

    async def moved(self, **more: Any) -> None:
        """Move a guest, and see that it goes on as the one that it was."""
        self.connection = await self.connect(**more)
        to = await self.connect_there(options(self.there, **more))
        spec = await self.started(autostart=True)
        console = await self.up(spec)
        await console.tell("cookie=$((6*7))")
        told: list[int] = []
        await self.connection.migrate(spec, to, True, False, told.append)
        self.assertEqual(told[-1], 100)
        self.assertEqual([domain.uuid for domain in await self.connection.list_domains()], [])
        (info,) = await to.list_domains()
        self.assertEqual((info.uuid, info.state, info.autostart), (spec.uuid, DomainState.RUNNING, True))
        there = Console(self.outside_there, spec.uuid)
        self.addCleanup(there.close)
        self.assertIn("it is 42", await there.tell("echo it is $cookie"))
        # It is whole there: it can be stopped and started again.
        await to.stop(spec.uuid)
        await to.start(spec.uuid)

    async def test_a_pv_guest(self) -> None:
        await self.moved()

    async def test_a_pvh_guest(self) -> None:
        await self.moved(guests="pvh")

    async def test_a_cancelled_move_goes_on(self) -> None:
        """libxl can't be stopped on its way."""
        to = await self.connect_there()
        spec = await self.started()
        await self.up(spec)
        moving = self.connection.migrate(spec, to, True, False, lambda percentage: None)
        await until("the guest's arrival", lambda: len(self.outside_there.listAllDomains(0)) > 1)
        moving.cancel()
        await moving
        self.assertEqual([domain.uuid for domain in await to.list_domains()], [spec.uuid])
        self.assertEqual(list(await self.connection.list_domains()), [])

    async def test_what_can_not_be_moved(self) -> None:
        to = await self.connect_there()
        disk = await self.volume("data")
        spec = await self.started(disks=(disk,))
        await self.up(spec)
        await self.refused("copies only while it is stopped", spec, to, True)
        elsewhere = replace(spec, disks=(replace(disk, path=f"{disk.path}-there"),))
        await self.refused("different disks", elsewhere, to, False)
        options_there = {name: value for name, value in options(self.there).items() if name != "migration_uri"}
        await self.refused("migration_uri", spec, await self.connect_there(options_there), False)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).state, DomainState.RUNNING)
        self.assertEqual(list(await to.list_domains()), [])

    async def test_an_address_that_is_none(self) -> None:
        """What libvirt leaves behind is told, and gone when libvirtd has been restarted in dom0."""
        to = await self.connect_there(options(self.there, migration_uri="tcp://192.0.2.1"))
        spec = await self.started()
        console = Console(self.outside, spec.uuid)
        await console.says("GUEST-UP")
        console.close()
        error = await self.assertFailure(
            self.connection.migrate(spec, to, True, False, lambda percentage: None), DriverError
        )
        self.assertIn("until libvirtd is restarted", str(error))
        self.assertEqual(list(await to.list_domains()), [])
        await deferToThread(kill_daemon, self.machine)
        await deferToThread(self.machine.wait_ready)
        again = await self.connect()
        self.assertEqual((await again.get_domain(spec.uuid)).state, DomainState.RUNNING)
        await again.stop(spec.uuid)

    async def refused(self, words: str, spec: DomainSpec, to: Any, copy: bool) -> None:
        moving = self.connection.migrate(spec, to, True, copy, lambda percentage: None)
        self.assertIn(words, str(await self.assertFailure(moving, Unsupported)))  # type: ignore[arg-type]
