"""Definitions can be read back as they were written, and no value becomes markup."""

from __future__ import annotations

import re
import uuid
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import NAME_PATTERN, Boot, DomainDisk, DomainInterface, DomainSpec, DriverError
from fluidvm.drivers.libvirt.domain_xml import (
    KEEPER_PREFIX,
    PROBE_PREFIX,
    Platform,
    disk_xml,
    domain_xml,
    parse_domain,
    parse_domain_kinds,
    parse_volume,
    pool_xml,
    probe_xml,
    volume_xml,
)

UUID = "6b2c1f0e-8d5a-4c39-9f7b-0123456789ab"
GOLDEN = """\
<domain xmlns:fluidvm="https://fluidvm.org/xmlns/domain/1" type="qemu">
  <name>web1</name>
  <uuid>6b2c1f0e-8d5a-4c39-9f7b-0123456789ab</uuid>
  <metadata>
    <fluidvm:domain />
  </metadata>
  <memory unit="MiB">512</memory>
  <currentMemory unit="MiB">256</currentMemory>
  <vcpu placement="static" current="1">4</vcpu>
  <os>
    <type machine="pc">hvm</type>
    <boot dev="hd" />
    <boot dev="network" />
  </os>
  <features>
    <acpi />
    <apic />
  </features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <controller type="usb" model="none" />
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" />
      <source file="/pool/a.qcow2" />
      <backingStore />
      <target dev="vda" bus="virtio" />
    </disk>
    <serial type="pty">
      <log file="/log/web1.log" append="on" />
      <target port="0" />
    </serial>
    <channel type="unix">
      <target type="virtio" name="org.qemu.guest_agent.0" />
    </channel>
    <graphics type="vnc">
      <listen type="none" />
    </graphics>
    <video>
      <model type="vga" vram="8192" />
    </video>
    <memballoon model="virtio" />
  </devices>
</domain>"""

# The characters of XML 1.0, without the carriage return, which a parser converts to a line feed.
carried = st.text(
    st.one_of(
        st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"], exclude_characters="\ufffe\uffff"),
        st.sampled_from("<>&'\"]] \t\n"),
    ),
    min_size=1,
)


def spec(**changes: object) -> DomainSpec:
    """A domain with all features."""
    fields = {
        "uuid": UUID,
        "name": "web1",
        "vcpus": 1,
        "max_vcpus": 4,
        "memory": 256,
        "max_memory": 512,
        "disks": (DomainDisk("/pool/a.qcow2", "qcow2", "vda"),),
        "boot": Boot(order=("disk", "network")),
    }
    return DomainSpec(**{**fields, **changes})  # type: ignore[arg-type]


class WritingTests(SynchronousTestCase):
    def test_golden(self) -> None:
        tree = ElementTree.fromstring(domain_xml(spec(), Platform("qemu", "pc", "/log/web1.log")))
        ElementTree.indent(tree)
        self.assertEqual(ElementTree.tostring(tree, encoding="unicode"), GOLDEN)

    def test_a_kernel_takes_the_place_of_the_devices(self) -> None:
        tree = ElementTree.fromstring(domain_xml(spec(boot=Boot("/k", "/i", "a=b")), Platform("kvm")))
        self.assertEqual(
            [(part.tag, part.text) for part in tree.find("os") or ()],
            [("type", "hvm"), ("kernel", "/k"), ("initrd", "/i"), ("cmdline", "a=b")],
        )
        self.assertEqual(tree.get("type"), "kvm")

    def test_what_has_no_value_is_absent(self) -> None:
        tree = ElementTree.fromstring(domain_xml(spec(boot=Boot("/k"), disks=()), Platform("kvm")))
        self.assertEqual([part.tag for part in tree.find("os") or ()], ["type", "kernel"])
        self.assertIsNone(tree.find("devices/serial/log"))
        self.assertIsNone(tree.find("devices/disk"))

    def test_q35_has_ports_for_disks_to_come(self) -> None:
        tree = ElementTree.fromstring(domain_xml(spec(), Platform("kvm", "q35")))
        self.assertEqual(len(tree.findall("devices/controller[@model='pcie-root-port']")), 18)

    def test_characters_that_xml_cant_represent_are_refused(self) -> None:
        for text in ("a\x00b", "\x1b[0m", "\ufffe", "\ud800"):
            for changes in (
                {"name": text},
                {"boot": Boot("/k", "", text)},
                {"boot": Boot(text)},
                {"disks": (DomainDisk(text, "raw", "vda"),)},
                {"disks": (DomainDisk("/a", "raw", text),)},
            ):
                with self.assertRaises(DriverError):
                    domain_xml(spec(**changes), Platform("kvm"))

    def test_an_invalid_uuid_is_refused(self) -> None:
        for text in ("", "../../etc/passwd", "6b2c"):
            with self.assertRaises(DriverError):
                domain_xml(spec(uuid=text), Platform("kvm"))

    def test_an_unknown_boot_device_is_refused(self) -> None:
        with self.assertRaises(DriverError):
            domain_xml(spec(boot=Boot(order=("floppy",))), Platform("kvm"))

    def test_no_vm_has_an_internal_name(self) -> None:
        for prefix in (PROBE_PREFIX, KEEPER_PREFIX):
            self.assertIsNone(re.fullmatch(NAME_PATTERN, prefix + "x"))

    def test_a_probe_ends_when_it_reboots(self) -> None:
        for kernel in ("", "/k"):
            tree = ElementTree.fromstring(probe_xml(f"{PROBE_PREFIX}1", Platform("kvm"), kernel, ""))
            self.assertEqual(tree.findtext("on_reboot"), "destroy")
            self.assertIsNone(tree.find("devices/disk"))


class ReadingTests(SynchronousTestCase):
    @given(name=carried, path=carried, cmdline=carried, target=carried)
    def test_what_is_written_is_read_back_whatever_it_holds(self, name: str, path: str, cmdline: str, target: str) -> None:
        asked = spec(name=name, disks=(DomainDisk(path, "raw", target),), boot=Boot(path, path, cmdline))
        text = domain_xml(asked, Platform("kvm", "pc", path))
        read = parse_domain(text)
        self.assertEqual(
            (read.uuid, read.name, read.vcpus, read.max_vcpus, read.memory, read.max_memory, read.disks, read.kernel),
            (UUID, name, 1, 4, 256, 512, asked.disks, path),
        )
        plain = ElementTree.fromstring(domain_xml(spec(boot=Boot("k", "i", "c")), Platform("kvm", "pc", "l")))
        self.assertEqual([part.tag for part in ElementTree.fromstring(text).iter()], [part.tag for part in plain.iter()])

    @given(path=carried)
    def test_a_disk_alone(self, path: str) -> None:
        disk = ElementTree.fromstring(disk_xml(DomainDisk(path, "raw", "vdb")))
        source = disk.find("source")
        self.assertEqual(None if source is None else source.get("file"), path)
        self.assertEqual([part.tag for part in disk], ["driver", "source", "backingStore", "target"])

    @given(name=carried, size=st.integers(1, 2**31 - 1))
    def test_volumes_and_pools(self, name: str, size: int) -> None:
        self.assertEqual(parse_volume(volume_xml(name, size, "qcow2")), (name, "", "qcow2", size))
        self.assertEqual(ElementTree.fromstring(pool_xml(name, name)).findtext("target/path"), name)

    def test_anyones_definition(self) -> None:
        read = parse_domain(
            f"<domain type='xen'><name>a</name><uuid>{UUID}</uuid><memory unit='KiB'>1500</memory>"
            "<vcpu>3</vcpu><devices><disk type='block' device='disk'><source dev='/dev/sdb'/><target dev='sda'/></disk>"
            "<disk type='file' device='disk'><target dev='sdb'/></disk>"
            "<disk type='file' device='cdrom'><source file='/a.iso'/><target dev='hda'/></disk></devices></domain>"
        )
        self.assertEqual((read.vcpus, read.max_vcpus, read.memory, read.max_memory), (3, 3, 2, 2))
        self.assertEqual(read.disks, (DomainDisk("/dev/sdb", "raw", "sda"),))

    def test_interfaces(self) -> None:
        given = (DomainInterface("52:54:00:00:00:01", "lab", "e1000"), DomainInterface("52:54:00:00:00:02", "other"))
        read = parse_domain(domain_xml(spec(interfaces=given), Platform("kvm")))
        self.assertEqual(read.interfaces, (given[0], DomainInterface("52:54:00:00:00:02", "other", "virtio")))
        running = parse_domain(
            f"<domain type='qemu'><name>a</name><uuid>{UUID}</uuid><memory>1024</memory><vcpu>1</vcpu><devices>"
            "<interface type='bridge'><mac address='52:54:00:AA:00:01'/><source network='lab' bridge='virbr0'/></interface>"
            "<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/></interface>"
            "</devices></domain>"
        )
        self.assertEqual(running.interfaces, (DomainInterface("52:54:00:aa:00:01", "lab"),))

    def test_a_volumes_size_is_rounded_up(self) -> None:
        self.assertEqual(parse_volume("<volume><name>a</name><capacity unit='bytes'>1048577</capacity></volume>")[3], 2)
        self.assertEqual(parse_volume("<volume><name>a</name><capacity>1048576</capacity></volume>")[3], 1)

    def test_domain_kinds_are_those_of_the_hosts_architecture(self) -> None:
        text = (
            "<capabilities><host><cpu><arch>x86_64</arch></cpu></host>"
            "<guest><arch name='aarch64'><domain type='tcg'/></arch></guest>"
            "<guest><arch name='x86_64'><domain type='qemu'/><domain type='kvm'/></arch></guest></capabilities>"
        )
        self.assertEqual(parse_domain_kinds(text), {"qemu", "kvm"})

    def test_uuids_are_written_as_libvirt_reads_them(self) -> None:
        text = domain_xml(spec(uuid=uuid.UUID(UUID).hex.upper()), Platform("kvm"))
        self.assertEqual(parse_domain(text).uuid, UUID)
