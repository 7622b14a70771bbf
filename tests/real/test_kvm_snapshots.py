"""Snapshots by the kvm driver on a real libvirtd: what guests wrote and remember goes back."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import libvirt
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import Boot, DomainDisk, DomainSpec, DomainState, Unsupported, WrongState
from fluidvm.drivers.libvirt.snapshots import parse_snapshot
from tests.real.real_host import CMDLINE, HostCase, until

RUNNING, STOPPED = DomainState.RUNNING, DomainState.STOPPED


def kept(disk: DomainDisk) -> list[str]:
    """The snapshots that lie in a file, as QEMU's own tool tells them."""
    argv = ["qemu-img", "snapshot", "-U", "-l", disk.path]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [line.split()[1] for line in told.splitlines()[2:]]


class SnapshotTests(HostCase):
    async def write(self, spec: DomainSpec, words: str) -> None:
        """Have the guest write to its disk, and into its memory."""
        await self.tell(spec.uuid, f"echo {words} > /dev/vda; sync; echo {words} > /memory")

    async def read(self, spec: DomainSpec) -> tuple[bool, bool]:
        """Whether the guest's disk and its memory hold C{one}."""
        disk = await self.tell(spec.uuid, "echo 3 > /proc/sys/vm/drop_caches; head -n 1 /dev/vda | sed 's/^/</;s/$/>/'")
        memory = await self.tell(spec.uuid, "sed 's/^/<</;s/$/>>/' /memory")
        return "<one>" in disk, "<<one>>" in memory

    async def states(self, spec: DomainSpec) -> DomainState:
        return (await self.connection.get_domain(spec.uuid)).state

    async def test_disk_and_memory_go_back(self) -> None:
        disk = await self.volume("data", format="qcow2")
        spec = await self.booted(disks=(disk,))
        await self.write(spec, "one")
        await self.connection.create_snapshot(spec.uuid, "before")
        await self.write(spec, "two")
        self.assertEqual(await self.read(spec), (False, False))
        await self.connection.revert_snapshot(spec.uuid, "before")
        self.assertEqual(await self.read(spec), (True, True))
        self.assertEqual(self.console(spec.uuid).count("GUEST-UP"), 1, "it went on, and didn't boot")
        await self.write(spec, "three")
        await self.connection.stop(spec.uuid)
        await self.connection.revert_snapshot(spec.uuid, "before")
        self.assertEqual((await self.states(spec), await self.read(spec)), (RUNNING, (True, True)))
        self.assertEqual(kept(disk), ["before"])
        await self.connection.delete_snapshot(spec.uuid, "before")
        self.assertEqual(kept(disk), [])

    async def test_a_stopped_ones_disk_goes_back_and_its_definition_stays(self) -> None:
        disk = await self.volume("data", format="qcow2")
        spec = self.spec(disks=(disk,))
        await self.connection.define_domain(spec)
        subprocess.run(["qemu-io", "-c", "write -P 0x31 0 1M", disk.path], capture_output=True, check=True)
        await self.connection.create_snapshot(spec.uuid, "off")
        subprocess.run(["qemu-io", "-c", "write -P 0x32 0 1M", disk.path], capture_output=True, check=True)
        changed = replace(spec, memory=160, max_memory=256, vcpus=2, boot=replace(spec.boot, cmdline=f"{CMDLINE} changed"))
        await self.connection.define_domain(changed)
        definition = self.outside.lookupByUUIDString(spec.uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        await self.connection.revert_snapshot(spec.uuid, "off")
        is_now = self.outside.lookupByUUIDString(spec.uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        self.assertEqual(is_now, definition)
        self.assertIn("changed", is_now)
        argv = ["qemu-io", "-c", "read -P 0x31 0 1M", disk.path]
        read = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        self.assertNotIn("verification failed", read)
        # A copy has what the disk holds now, and no snapshots.
        copy = await self.connection.clone_volume("default", "data", "qcow2", "copy", lambda percentage: None)
        self.assertEqual(kept(DomainDisk(copy.path, copy.format, "vda")), [])

    async def test_what_was_plugged_in(self) -> None:
        spec = await self.booted(disks=(await self.volume("one", format="qcow2"),))
        second = replace(await self.volume("two", format="qcow2"), target="vdb")
        await self.connection.attach_disk(spec.uuid, second)
        await until("second disk", lambda: self.sees_vdb(spec))
        await self.connection.create_snapshot(spec.uuid, "disk")
        await self.connection.revert_snapshot(spec.uuid, "disk")
        self.assertTrue(await self.sees_vdb(spec))
        await self.connection.resize_vcpus(spec.uuid, 2)
        with self.assertRaisesRegex(WrongState, "got CPUs while it ran"):
            await self.connection.create_snapshot(spec.uuid, "cpus")
        with self.assertRaisesRegex(WrongState, "had 1 CPUs when snapshot disk was created, now 2"):
            await self.connection.revert_snapshot(spec.uuid, "disk")
        # Somebody else's, made all the same.
        domain = self.outside.lookupByUUIDString(spec.uuid)
        domain.snapshotCreateXML("<domainsnapshot><name>theirs</name></domainsnapshot>", 0)
        with self.assertRaisesRegex(Unsupported, "hot-plugged CPUs"):
            await self.connection.revert_snapshot(spec.uuid, "theirs")
        self.assertEqual(await self.states(spec), RUNNING)
        self.assertEqual([one.name for one in await self.connection.list_snapshots(spec.uuid)], ["disk", "theirs"])

    async def sees_vdb(self, spec: DomainSpec) -> bool:
        """Whether the guest has a second disk."""
        return "vdb-is-there" in await self.tell(spec.uuid, "test -b /dev/vdb && echo vdb-is-$((1))there | tr -d 1")

    async def test_what_can_not_be_kept(self) -> None:
        raw = await self.volume("raw", format="raw")
        whole = replace(await self.volume("whole", format="qcow2"), target="vdb")
        spec = self.spec(disks=(raw, whole))
        await self.connection.define_domain(spec)
        with self.assertRaisesRegex(Unsupported, f"disk vda .{raw.path}. has format raw"):
            await self.connection.create_snapshot(spec.uuid, "one")
        self.assertEqual((await self.connection.list_snapshots(spec.uuid), kept(whole)), ([], []))
        none = self.spec("none")
        await self.connection.define_domain(none)
        with self.assertRaisesRegex(Unsupported, "no disk"):
            await self.connection.create_snapshot(none.uuid, "one")

    async def test_an_external_one_of_somebody_else(self) -> None:
        disk = await self.volume("data", format="qcow2")
        spec = self.spec(disks=(disk,), boot=Boot())
        await self.connection.define_domain(spec)
        await self.connection.start(spec.uuid)
        domain = self.outside.lookupByUUIDString(spec.uuid)
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        domain.snapshotCreateXML("<domainsnapshot><name>theirs</name></domainsnapshot>", flags)
        self.addCleanup(lambda: Path(disk.path).with_suffix(".theirs").unlink(missing_ok=True))
        (told,) = await self.connection.list_snapshots(spec.uuid)
        self.assertEqual((told.name, told.running), ("theirs", False))
        with self.assertRaisesRegex(Unsupported, "external"):
            await self.connection.revert_snapshot(spec.uuid, "theirs")
        self.assertEqual(await self.states(spec), RUNNING)


class VolumeSnapshotTests(HostCase):
    def fill(self, disk: DomainDisk, byte: str) -> None:
        """Write a byte all over a volume's first MiB."""
        subprocess.run(["qemu-io", "-c", f"write -P {byte} 0 1M", disk.path], capture_output=True, check=True)

    def holds(self, disk: DomainDisk, byte: str) -> bool:
        """Whether a volume's first MiB holds a byte all over."""
        argv = ["qemu-io", "-c", f"read -P {byte} 0 1M", disk.path]
        return "verification failed" not in subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    async def test_bytes_go_back(self) -> None:
        disk = await self.volume("data", format="qcow2")
        at = "default", "data", "qcow2"
        self.fill(disk, "0x31")
        await self.connection.create_volume_snapshot(*at, "one")
        self.fill(disk, "0x32")
        self.assertFalse(self.holds(disk, "0x31"))
        await self.connection.create_volume_snapshot(*at, "two")
        await self.connection.revert_volume(*at, "one")
        self.assertTrue(self.holds(disk, "0x31"))
        await self.connection.revert_volume(*at, "two")
        self.assertTrue(self.holds(disk, "0x32"))
        self.assertEqual(sorted(kept(disk)), ["disk:one", "disk:two"])
        # Its keeper is there, and told to nobody.
        (keeper,) = self.outside.listAllDomains(0)
        self.assertIn("FluidVM keeps snapshots of the volume data", keeper.XMLDesc(0))
        self.assertEqual(list(await self.connection.list_domains()), [])
        another = await self.connect()
        self.assertEqual([one.name for one in await another.list_volume_snapshots(*at[:2])], ["one", "two"])
        for name in ("one", "two"):
            await self.connection.delete_volume_snapshot(*at, name)
        self.assertEqual((kept(disk), self.outside.listAllDomains(0)), ([], []))

    async def test_those_of_a_domain_lie_beside_them(self) -> None:
        disk = await self.volume("data", format="qcow2")
        spec = self.spec(disks=(disk,))
        await self.connection.define_domain(spec)
        self.fill(disk, "0x31")
        await self.connection.create_snapshot(spec.uuid, "same")
        self.fill(disk, "0x32")
        await self.connection.create_volume_snapshot("default", "data", "qcow2", "same")
        self.fill(disk, "0x33")
        await self.connection.revert_snapshot(spec.uuid, "same")
        self.assertTrue(self.holds(disk, "0x31"))
        await self.connection.revert_volume("default", "data", "qcow2", "same")
        self.assertTrue(self.holds(disk, "0x32"))
        await self.connection.undefine_domain(spec.uuid)
        await self.connection.delete_volume("default", "data")
        self.assertEqual(self.outside.listAllDomains(0), [], "the keeper goes with its volume")

    async def test_what_can_not_be_kept(self) -> None:
        await self.volume("raw", format="raw")
        with self.assertRaisesRegex(Unsupported, "format raw"):
            await self.connection.create_volume_snapshot("default", "raw", "raw", "one")
        self.assertEqual(self.outside.listAllDomains(0), [])
        saved = self.spec(disks=(replace(await self.volume("data", format="qcow2"), target="vda"),))
        await self.connection.define_domain(saved)
        await self.connection.start(saved.uuid)
        await self.connection.save(saved.uuid, lambda percentage: None)
        with self.assertRaisesRegex(WrongState, "is saved"):
            await self.connection.create_volume_snapshot("default", "data", "qcow2", "one")
        self.assertEqual(len(self.outside.listAllDomains(0)), 1)


class ReadingTests(SynchronousTestCase):
    def test_what_a_paused_domain_left(self) -> None:
        """One that was paused has its memory, and its next start's definition counts, not what it was just then."""
        text = """<domainsnapshot><name>n</name><state>paused</state><creationTime>12</creationTime>
            <memory snapshot='internal'/><disks><disk name='vda' snapshot='internal'/></disks>
            <domain type='qemu'><name>a</name><memory unit='MiB'>64</memory><vcpu>1</vcpu></domain>
            <inactiveDomain type='qemu'><name>a</name><memory unit='MiB'>96</memory><vcpu>2</vcpu></inactiveDomain>
            </domainsnapshot>"""
        kept = parse_snapshot(text)
        self.assertEqual(
            (kept.snapshot.running, kept.snapshot.created, kept.external, kept.plugged), (True, 12.0, False, False)
        )
        self.assertEqual((kept.definition.memory, kept.definition.vcpus), (96, 2))
