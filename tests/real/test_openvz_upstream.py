"""The OpenVZ driver on a kernel that isn't OpenVZ's, where vzctl 4.11.1 makes do with control groups."""

from __future__ import annotations

import re
import subprocess

from fluidvm.driver import DomainState, DomainStats, DriverError, Limits, Shares, Unsupported
from tests.real.vz_case import VzCase
from tests.real.vz_factory import container_spec, upstream_options

RUNNING, STOPPED = DomainState.RUNNING, DomainState.STOPPED


class UpstreamTests(VzCase):
    async def setUp(self) -> None:
        self.node = self.new_node("node")
        self.node.upstream()
        self.connection = await self.connect(**upstream_options(self.node))

    def edit(self, uuid: str, pattern: str, new: str) -> None:
        """Have a line of a container's configuration be another, as if others had written it."""
        path = self.node.conf_dir / f"{self.node.ctid(uuid)}.conf"
        path.write_text(re.sub(pattern, new, path.read_text()))

    def bound(self, uuid: str) -> int:
        return self.node.bound(self.node.ctid(uuid))

    # memory

    async def test_memory_is_bounded(self) -> None:
        spec = await self.started()
        self.assertEqual(self.bound(spec.uuid), 128)
        for memory in (192, 96):
            await self.connection.resize_memory(spec.uuid, memory)
            self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, memory)
            self.assertEqual(self.bound(spec.uuid), memory)
        await self.connection.stop(spec.uuid)
        await self.connection.set_memory(spec.uuid, 160)
        await self.connection.start(spec.uuid)
        self.assertEqual(self.bound(spec.uuid), 160)

    async def test_what_does_not_bound_is_not_told(self) -> None:
        """A sample configuration says C{0:256M}, which bounds nothing here."""
        ctid = "101"
        subprocess.run(
            [self.node.bin / "vzctl", "create", ctid, "--ostemplate", "busybox-1-x86_64"], check=True, capture_output=True
        )
        (info,) = await self.connection.list_domains()
        host = await self.connection.host_info()
        self.assertEqual(info.memory, host.memory)
        await self.connection.set_memory(info.uuid, 256)
        (info,) = await self.connection.list_domains()
        self.assertEqual(info.memory, 256)
        await self.connection.start(info.uuid)
        self.assertEqual(self.node.bound(ctid), 256)

    async def test_what_did_not_bound_does_from_the_next_start_on(self) -> None:
        spec = await self.defined()
        self.edit(spec.uuid, "PHYSPAGES=.*", 'PHYSPAGES="0:32768"')
        await self.connection.start(spec.uuid)
        self.assertEqual(self.bound(spec.uuid), 128)
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 128)

    async def test_a_bound_that_the_kernel_refuses(self) -> None:
        """vzctl succeeds all the same."""
        spec = await self.started()
        self.node.set(MEMORY_IN_USE=100 * 2**20)
        error = await self.assertFailure(self.connection.resize_memory(spec.uuid, 64), DriverError)
        self.assertIn("64 MiB", str(error))
        self.assertEqual((await self.connection.get_domain(spec.uuid)).memory, 128)
        self.assertEqual(self.bound(spec.uuid), 128)

    async def test_memory_in_use(self) -> None:
        spec = await self.started()
        self.assertEqual(await self.connection.domain_stats(spec.uuid), DomainStats(memory=6))

    async def test_control_groups_that_are_elsewhere(self) -> None:
        self.connection = await self.connect(memory_dir="/nowhere")
        spec = await self.started()
        self.assertEqual(await self.connection.domain_stats(spec.uuid), DomainStats(), "what isn't known is absent")
        await self.connection.resize_memory(spec.uuid, 192)
        self.assertEqual(self.bound(spec.uuid), 192)

    # swap

    async def test_swap(self) -> None:
        """C{--swap} would be refused, as C{--ram} is."""
        self.connection = await self.connect(swap=32)
        spec = await self.started()
        self.assertEqual((await self.connection.get_limits(spec.uuid)).swap, 32)
        for swap in (64, 0):
            await self.connection.set_limits(spec.uuid, Limits(swap=swap))
            self.assertEqual((await self.connection.get_limits(spec.uuid)).swap, swap)

    # rates

    async def test_rates_are_not_claimed(self) -> None:
        self.assertEqual(await self.connection.shareable(), ("cpu_shares",))
        spec = await self.started(shares=Shares(cpu_shares=512, disk_iops=100, disk_mbps=10))
        self.assertNotRegex(self.conf(spec.uuid), "IOP?S?LIMIT")
        self.assertEqual(await self.connection.get_shares(spec.uuid), Shares(cpu_shares=512))
        for shares in (Shares(disk_iops=100), Shares(disk_mbps=10)):
            await self.assertFailure(self.connection.set_shares(spec.uuid, shares), Unsupported)

    async def test_rates_of_another_kernel(self) -> None:
        """They come with a container from elsewhere, and keep it from starting."""
        for number, line in enumerate(('IOLIMIT="10485760"', 'IOPSLIMIT="0"')):
            spec = await self.defined(f"web{number}")
            self.edit(spec.uuid, "(?m)^NAME=", f"{line}\nNAME=")
            self.assertEqual(await self.connection.get_shares(spec.uuid), Shares())
            await self.connection.start(spec.uuid)
            self.assertIs((await self.connection.get_domain(spec.uuid)).state, RUNNING)
            self.assertNotRegex(self.conf(spec.uuid), "IOP?S?LIMIT")

    async def test_rates_that_a_plan_gave(self) -> None:
        """As an older FluidVM let them have."""
        spec = await self.defined()
        self.edit(spec.uuid, "(?m)^NAME=", 'IOLIMIT="10485760"\nNAME=')
        await self.connection.set_shares(spec.uuid, Shares())
        subprocess.run([self.node.bin / "vzctl", "start", self.node.ctid(spec.uuid)], check=True, capture_output=True)

    async def test_rates_that_cannot_be_taken_out(self) -> None:
        spec = await self.defined()
        self.edit(spec.uuid, "(?m)^NAME=", 'IOLIMIT="10485760"\nNAME=')
        (self.node.bin / "sed").write_text("#!/bin/sh\nexit 4\n")
        (self.node.bin / "sed").chmod(0o755)
        error = await self.assertFailure(self.connection.start(spec.uuid), DriverError)
        self.assertIn(f"{self.node.ctid(spec.uuid)}.conf", str(error))

    # what else differs

    async def test_a_migrated_container_fits(self) -> None:
        other = self.new_node("other")
        there = await self.connect(other, peer_name="other.example")
        await there.define_domain(spec := container_spec("web1", shares=Shares(disk_mbps=10)))
        here = await self.connect(peer_name="here.example", **upstream_options(self.node))
        (other.root / "nodes").write_text(f"here.example={self.node.root}\n")
        await there.migrate(spec, here, False, False, lambda part: None)
        await here.start(spec.uuid)
        self.assertEqual(self.bound(spec.uuid), 128)

    async def test_memory_words_hold_on_openvz_again(self) -> None:
        other = self.new_node("other")
        there = await self.connect(other, peer_name="other.example")
        spec = await self.defined()
        (self.node.root / "nodes").write_text(f"other.example={other.root}\n")
        await self.connection.migrate(spec, there, False, False, lambda part: None)
        self.assertEqual((await there.get_domain(spec.uuid)).memory, 128)
