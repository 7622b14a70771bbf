"""Definitions of other tools: what is read, and what is refused because it would be lost."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import Boot, DomainDisk, DomainInterface, DomainSpec, Unsupported
from fluidvm.drivers.libvirt.domain_xml import Platform, domain_xml
from fluidvm.drivers.libvirt.foreign_xml import read_spec

UUID = "6b2c1f0e-8d5a-4c39-9f7b-0123456789ab"
DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/pool/a.qcow2'/>"
    "<target dev='vda' bus='virtio'/></disk>"
)
PLUG = (
    "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='lan'/><model type='virtio'/></interface>"
)


def theirs(
    devices: str = DISK + PLUG, rest: str = "", boot: str = "<boot dev='hd'/>", machine: str = "pc-i440fx-7.2"
) -> str:
    """A definition that another tool wrote."""
    return (
        f"<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>web</name><uuid>{UUID}</uuid>"
        f"<memory unit='KiB'>524288</memory><currentMemory unit='KiB'>262144</currentMemory><vcpu current='1'>2</vcpu>{rest}"
        f"<os><type arch='x86_64' machine='{machine}'>hvm</type>{boot}</os><cpu mode='host-model'/><clock offset='utc'/>"
        "<devices><emulator>/usr/bin/qemu</emulator><controller type='usb'/><input type='tablet' bus='usb'/>"
        f"<graphics type='vnc'/><video/><serial type='pty'/>{devices}</devices></domain>"
    )


class ForeignTests(SynchronousTestCase):
    def test_our_definition_is_read_as_it_was_written(self) -> None:
        for boot in (Boot(), Boot(order=("network", "disk")), Boot("/k", "/i", "quiet")):
            spec = DomainSpec(
                uuid=UUID,
                name="a <b>",
                vcpus=1,
                max_vcpus=2,
                memory=100,
                max_memory=200,
                boot=boot,
                autostart=True,
                disks=(DomainDisk("/a", "raw", "vda"), DomainDisk("/b", "qcow2", "vdb")),
                interfaces=(DomainInterface("52:54:00:00:00:01", "lan", "e1000"),),
            )
            for machine in ("pc", "q35"):
                self.assertEqual(read_spec(domain_xml(spec, Platform("kvm", machine)), machine, True), spec)

    def test_a_foreign_definition(self) -> None:
        read = read_spec(theirs(), "pc", False)
        self.assertEqual(
            read,
            DomainSpec(
                UUID,
                "web",
                1,
                2,
                256,
                512,
                (DomainDisk("/pool/a.qcow2", "qcow2", "vda"),),
                interfaces=(DomainInterface("52:54:00:00:00:01", "lan", "virtio"),),
            ),
        )

    def test_devices_that_are_numbered_for_booting(self) -> None:
        devices = DISK.replace("</disk>", "<boot order='2'/></disk>") + PLUG.replace("</i", "<boot order='1'/></i")
        self.assertEqual(read_spec(theirs(devices, boot=""), "pc", False).boot.order, ("network", "disk"))

    def test_a_disk_without_a_format_is_raw(self) -> None:
        for driver in ("", "<driver name='qemu'/>"):
            disk = DISK.replace("<driver name='qemu' type='qcow2'/>", driver)
            self.assertEqual(read_spec(theirs(disk), "pc", False).disks, (DomainDisk("/pool/a.qcow2", "raw", "vda"),))
        self.assertEqual(
            read_spec(theirs(DISK.replace("</disk>", "<backingStore/></disk>")), "pc", False).disks[0].format, "qcow2"
        )

    def test_an_empty_drive_is_no_loss(self) -> None:
        empty = "<disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>"
        self.assertEqual(len(read_spec(theirs(DISK + empty), "pc", False).disks), 1)

    def test_what_would_be_lost_is_named(self) -> None:
        for text, words in (
            (theirs(machine="pc-q35-7.2"), "pc-q35-7.2"),
            (theirs(machine="microvm"), "microvm"),
            (theirs(boot="<loader type='pflash'>/x</loader>"), "firmware"),
            (theirs(rest="<memoryBacking><hugepages/></memoryBacking>"), "memoryBacking"),
            (theirs(rest="<qemu:commandline><qemu:arg value='-x'/></qemu:commandline>"), "arguments for QEMU"),
            (theirs(DISK.replace("virtio", "ide").replace("vda", "hda")), "hda isn't on a virtio bus"),
            (
                theirs("<disk type='block'><source dev='/dev/sdb'/><target dev='vdb' bus='virtio'/></disk>"),
                "vdb isn't a file",
            ),
            (theirs(DISK.replace("</disk>", "<readonly/></disk>")), "vda is readonly"),
            (theirs(DISK.replace("'disk'", "'cdrom'")), "a cdrom with a medium"),
            (theirs(PLUG.replace("network='lan'", "bridge='br0'")), "52:54:00:00:00:01 isn't in a libvirt network"),
            (theirs(PLUG.replace("</i", "<vlan><tag id='4'/></vlan></i")), "has a vlan"),
            (theirs("<hostdev mode='subsystem' type='pci'/>"), "a device hostdev"),
            (theirs(DISK.replace("qcow2'", "vmdk'")), "vda has format vmdk; supported are qcow2 and raw"),
            (
                theirs(DISK.replace("</disk>", "<backingStore type='file'><source file='/b'/></backingStore></disk>")),
                "backing",
            ),
            (theirs(DISK.replace("a.qcow2'/>", "a.qcow2'><slices/></source>")), "vda has slices"),
            (theirs("<tpm/>"), "a device tpm"),
            (theirs("<filesystem type='mount'/>"), "a device filesystem"),
        ):
            with self.assertRaisesRegex(Unsupported, f"Domain web can't be taken over: .*{words}"):
                read_spec(text, "pc", False)
