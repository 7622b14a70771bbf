"""Xen definitions, compared with files that a real Xen's libvirtd accepted (tests/xen/more_guests.py), and read back."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from fluidvm.driver import (
    ABILITIES,
    Boot,
    DomainDisk,
    DomainInterface,
    DomainSpec,
    DriverError,
    IDriver,
    Unsupported,
)
from fluidvm.drivers.libvirt.domain_xml import parse_domain
from fluidvm.drivers.xen.domain_xml import (
    GUESTS,
    PYGRUB,
    has_device_model,
    with_name,
    with_vcpus,
    xen_disk_xml,
    xen_domain_xml,
    xen_interface_xml,
)
from fluidvm.drivers.xen.driver import XenConnection, XenDriver
from fluidvm.model.faults import InvalidParams
from tests.unit.drivers.libvirt.test_domain_xml import UUID, carried

GOLDEN = Path(__file__).parent / "golden"
KERNEL = Boot("/boot/vmlinuz", "/boot/initrd.gz", "console=hvc0 root=/dev/xvda")
DISKS = (
    DomainDisk("/pool/a.raw", "raw", "vda"),
    DomainDisk("/dev/vg/b", "raw", "vdb"),
    DomainDisk("/pool/c.qcow2", "qcow2", "vdc"),
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
        "disks": DISKS,
        "boot": Boot(),
    }
    return DomainSpec(**{**fields, **changes})  # type: ignore[arg-type]


class InterfaceTests(SynchronousTestCase):
    def test_paravirtual_guests_have_xens_own(self) -> None:
        plain, other = DomainInterface("52:54:00:00:00:01", "lab"), DomainInterface("52:54:00:00:00:02", "lab", "e1000")
        for guest in GUESTS:
            text = xen_domain_xml(spec(boot=KERNEL, interfaces=(plain,)), guest, PYGRUB)
            self.assertEqual(parse_domain(text).interfaces, (plain,))
        self.assertIn('type="e1000"', xen_interface_xml(other, "hvm"))
        for guest in ("pv", "pvh"):
            self.assertRaises(Unsupported, xen_interface_xml, other, guest)


class GoldenTests(SynchronousTestCase):
    maxDiff = None

    def same(self, name: str, text: str) -> None:
        tree = ElementTree.fromstring(text)
        ElementTree.indent(tree)
        written = ElementTree.tostring(tree, encoding="unicode") + "\n"
        self.assertEqual(written, (GOLDEN / f"{name}.xml").read_text())

    def test_each_kind_by_its_kernel(self) -> None:
        for guest in GUESTS:
            self.same(f"xen-{guest}-kernel", xen_domain_xml(spec(boot=KERNEL), guest, PYGRUB))

    def test_each_kind_from_its_disk(self) -> None:
        for guest in GUESTS:
            self.same(f"xen-{guest}-disk", xen_domain_xml(spec(), guest, PYGRUB))

    def test_pvgrub(self) -> None:
        for guest, loader in (("pv", "grub-x86_64-xen.bin"), ("pvh", "grub-i386-xen_pvh.bin")):
            self.same(f"xen-{guest}-pvgrub", xen_domain_xml(spec(), guest, f"/usr/lib/grub-xen/{loader}"))


class WritingTests(SynchronousTestCase):
    @given(name=carried, path=carried, cmdline=carried, target=carried, guest=st.sampled_from(sorted(GUESTS)))
    def test_what_is_written_is_read_back_whatever_it_holds(
        self, name: str, path: str, cmdline: str, target: str, guest: str
    ) -> None:
        asked = spec(name=name, disks=(DomainDisk(path, "raw", f"vd{target}"),), boot=Boot(path, path, cmdline))
        read = parse_domain(xen_domain_xml(asked, guest, path))
        self.assertEqual(
            (read.uuid, read.name, read.vcpus, read.max_vcpus, read.memory, read.max_memory, read.disks, read.kernel),
            (UUID, name, 1, 4, 256, 512, asked.disks, path),
        )

    def test_disks_have_xens_names_in_the_guest(self) -> None:
        for target, name in (("vda", "xvda"), ("vdz", "xvdz"), ("hda", "hda"), ("sdb", "sdb")):
            disk = ElementTree.fromstring(xen_disk_xml(DomainDisk("/a", "raw", target))).find("target")
            self.assertEqual(disk is not None and disk.get("dev"), name)

    def test_characters_that_xml_cant_represent_are_refused(self) -> None:
        for text in ("a\x00b", "\x1b[0m", "\ufffe", "\ud800"):
            for guest in GUESTS:
                for changes in (
                    {"name": text},
                    {"boot": Boot("/k", "", text)},
                    {"boot": Boot(text)},
                    {"disks": (DomainDisk(text, "raw", "vda"),)},
                    {"disks": (DomainDisk("/a", text, "vda"),)},
                    {"disks": (DomainDisk("/a", "raw", text),)},
                ):
                    with self.assertRaises(DriverError):
                        xen_domain_xml(spec(**changes), guest, PYGRUB)

    def test_unsupported_boot_devices(self) -> None:
        for guest, order in (("pv", ("network",)), ("pvh", ("cdrom", "network")), ("hvm", ("floppy",))):
            with self.assertRaises(Unsupported):
                xen_domain_xml(spec(boot=Boot(order=order)), guest, PYGRUB)


class ChangingTests(SynchronousTestCase):
    """Definitions from libvirt, with changes for which its Xen driver has no call."""

    text = xen_domain_xml(spec(), "pv", PYGRUB)

    def test_vcpus(self) -> None:
        for vcpus, most in ((2, 4), (4, 4), (6, 6), (1, 4)):
            read = parse_domain(with_vcpus(self.text, vcpus))
            self.assertEqual((read.vcpus, read.max_vcpus), (vcpus, most))
        self.assertEqual(parse_domain(with_vcpus("<domain><vcpu>2</vcpu></domain>", 1)).vcpus, 1)

    def test_name(self) -> None:
        changed = with_name(self.text, "web2")
        self.assertEqual(parse_domain(changed).name, "web2")
        self.assertEqual(with_name(changed, "web1"), with_name(self.text, "web1"))

    def test_device_models(self) -> None:
        kernel = spec(disks=DISKS[:2])
        self.assertTrue(has_device_model(self.text))
        self.assertFalse(has_device_model(xen_domain_xml(kernel, "pv", PYGRUB)))
        self.assertTrue(has_device_model(xen_domain_xml(kernel, "hvm", PYGRUB)))
        self.assertTrue(has_device_model("<domain><devices><graphics type='vnc'/></devices></domain>"))


class DriverTests(SynchronousTestCase):
    def test_it_provides_what_it_says(self) -> None:
        verifyObject(IDriver, XenDriver())
        for ability in ABILITIES:
            if ability.implementedBy(XenConnection):  # type: ignore[attr-defined]
                verifyClass(ability, XenConnection)

    def test_addresses(self) -> None:
        for address in (
            "",
            "xen:///system",
            "xen+unix:///system?socket=/run/a",
            "xen+ssh://root@h/system?keyfile=/k",
            "xen+tls://[::1]:16514/system?pkipath=/a",
            "xen+tcp://10.0.0.1/system",
        ):
            XenDriver().check_address(address)
        for address in (
            "host",
            "qemu:///system",
            "xen:///",
            "xen:///session",
            "xen+tls://h/session?pkipath=/a",
            "xen+tcp:///system",
            "xen+ssh://-oProxyCommand=x/system",
            "xen+ext://h/system",
        ):
            with self.assertRaises(ValueError, msg=address):
                XenDriver().check_address(address)

    def test_options(self) -> None:
        options = XenDriver().options
        options.check(
            {
                "guests": "pvh",
                "boot_loader": "/usr/lib/grub-xen/grub-i386-xen_pvh.bin",
                "username": "fluidvm",
                "password_file": "/etc/fluidvm/xen",
                "pool": "p",
                "pool_path": "/a b",
            },
            "options",
            [],
        )
        options.check({"boot_loader": "pygrub"}, "options", [])
        for wrong in (
            {"guests": "lxc"},
            {"boot_loader": "grub"},
            {"password_file": "relative"},
            {"username": ""},
            {"username": "a\nb"},
            {"pool_path": "relative"},
            {"accelerator": "kvm"},
        ):
            with self.assertRaises(InvalidParams, msg=str(wrong)):
                options.check(wrong, "options", [])
