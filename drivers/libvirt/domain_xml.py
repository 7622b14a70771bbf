"""
libvirt's domain definitions, written and read.

The format: U{https://libvirt.org/formatdomain.html}. Documents are built as trees, never as text, so that no name or command
line can become markup.
"""

from __future__ import annotations

import re
import uuid as uuids
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from fluidvm.driver import DomainDisk, DomainInterface, DomainSpec, DriverError, Shares

NAMESPACE = "https://fluidvm.org/xmlns/domain/1"
"""XML namespace of the metadata element that marks FluidVM's own domains."""

PROBE_PREFIX = "fluidvm:probe:"
"""Prefix of the names of short-lived test domains: no VM's name contains a colon."""

KEEPER_PREFIX = "fluidvm:volume:"
"""Prefix of the names of domains that hold snapshots of volumes and are never started: no VM's name contains a colon."""

_BOOT_DEVICES = {"disk": "hd", "network": "network", "cdrom": "cdrom"}
# Characters that XML 1.0 can't represent, not even escaped (https://www.w3.org/TR/xml/#charsets).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNITS = {
    "b": 1,
    "bytes": 1,
    "kb": 1000,
    "k": 1024,
    "kib": 1024,
    "mb": 10**6,
    "m": 2**20,
    "mib": 2**20,
    "gb": 10**9,
    "g": 2**30,
    "gib": 2**30,
    "tb": 10**12,
    "t": 2**40,
    "tib": 2**40,
}

ElementTree.register_namespace("fluidvm", NAMESPACE)


@dataclass(frozen=True)
class Platform:
    """
    The part of a definition that depends on the hypervisor.

    @ivar kind: libvirt's domain type: C{kvm}, C{qemu}.
    @ivar machine: QEMU's machine type.
    @ivar console_log: absolute path of the file for the output of the serial console; empty: none.
    """

    kind: str
    machine: str = "pc"
    console_log: str = ""


@dataclass(frozen=True)
class Description:
    """The contents of a definition. Memory is in MiB."""

    uuid: str
    name: str
    vcpus: int
    max_vcpus: int
    memory: int
    max_memory: int
    disks: tuple[DomainDisk, ...]
    kernel: str
    initrd: str
    interfaces: tuple[DomainInterface, ...] = ()


def _text(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    if _NOT_XML.search(text):
        raise DriverError(f"A domain's {tag} contains a character that isn't allowed in its definition: {text!r}.")
    element = SubElement(parent, tag, attributes)
    element.text = text
    return element


def _attributes(parent: Element, tag: str, **attributes: str) -> Element:
    for name, text in attributes.items():
        if _NOT_XML.search(text):
            raise DriverError(
                f"A domain's {tag} {name} contains a character that isn't allowed in its definition: {text!r}."
            )
    return SubElement(parent, tag, attributes)


def _disk(parent: Element | None, disk: DomainDisk, shares: Shares | None = None) -> Element:
    element = Element("disk", type="file", device="disk")
    _attributes(element, "driver", name="qemu", type=disk.format)
    _attributes(element, "source", file=disk.path)
    # The end of the backing chain: the file isn't searched for a backing file.
    SubElement(element, "backingStore")
    _attributes(element, "target", dev=disk.target, bus="virtio")
    if shares is not None and (shares.disk_iops or shares.disk_mbps):
        tune = SubElement(element, "iotune")
        if shares.disk_mbps:
            _text(tune, "total_bytes_sec", str(shares.disk_mbps * 2**20))
        if shares.disk_iops:
            _text(tune, "total_iops_sec", str(shares.disk_iops))
    if parent is not None:
        parent.append(element)
    return element


def disk_xml(disk: DomainDisk) -> str:
    """
    Write one disk, in the form for attaching.

    @raise DriverError: a value can't be represented in XML.
    """
    return ElementTree.tostring(_disk(None, disk), encoding="unicode")


def _interface(interface: DomainInterface) -> Element:
    element = Element("interface", type="network")
    _attributes(element, "mac", address=interface.mac)
    _attributes(element, "source", network=interface.network)
    _attributes(element, "model", type=interface.model or "virtio")
    return element


def interface_xml(interface: DomainInterface) -> str:
    """
    Write one interface, in the form for attaching.

    @raise DriverError: a value can't be represented in XML.
    """
    return ElementTree.tostring(_interface(interface), encoding="unicode")


def begin_domain(spec: DomainSpec, kind: str) -> Element:
    """
    Begin a definition with the parts that are the same on every hypervisor.

    @param kind: libvirt's domain type.
    @raise DriverError: a value can't be represented in XML, or the UUID isn't valid.
    """
    try:
        uuid = str(uuids.UUID(spec.uuid))
    except ValueError:
        raise DriverError(f"{spec.uuid!r} is not a valid UUID.") from None
    domain = Element("domain", type=kind)
    _text(domain, "name", spec.name)
    _text(domain, "uuid", uuid)
    SubElement(SubElement(domain, "metadata"), f"{{{NAMESPACE}}}domain")
    _text(domain, "memory", str(max(spec.memory, spec.max_memory)), unit="MiB")
    _text(domain, "currentMemory", str(spec.memory), unit="MiB")
    _text(domain, "vcpu", str(max(spec.vcpus, spec.max_vcpus)), placement="static", current=str(spec.vcpus))
    return domain


def add_ends(domain: Element) -> None:
    """Add what happens to a domain when its guest shuts down, reboots or crashes."""
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", "restart")
    _text(domain, "on_crash", "destroy")


def add_kernel(boot: Element, spec: DomainSpec) -> None:
    """Add the kernel that a domain boots, its initrd and its command line."""
    _text(boot, "kernel", spec.boot.kernel)
    if spec.boot.initrd:
        _text(boot, "initrd", spec.boot.initrd)
    if spec.boot.cmdline:
        _text(boot, "cmdline", spec.boot.cmdline)


def domain_xml(spec: DomainSpec, platform: Platform) -> str:
    """
    Write a definition.

    @raise DriverError: a value can't be represented in XML, or the UUID isn't valid.
    """
    domain = begin_domain(spec, platform.kind)
    if spec.shares.cpu_shares != Shares.cpu_shares:
        _text(SubElement(domain, "cputune"), "shares", str(spec.shares.cpu_shares))
    _boot(domain, spec, platform)
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    add_ends(domain)
    devices = SubElement(domain, "devices")
    SubElement(devices, "controller", type="usb", model="none")
    if "q35" in platform.machine:
        # Nothing can be plugged into the PCI Express root itself: each hot-plugged device needs an existing port.
        SubElement(devices, "controller", type="pci", model="pcie-root")
        for _ in range(len(spec.disks) + len(spec.interfaces) + 17):
            SubElement(devices, "controller", type="pci", model="pcie-root-port")
    for disk in spec.disks:
        _disk(devices, disk, spec.shares)
    for interface in spec.interfaces:
        devices.append(_interface(interface))
    serial = SubElement(devices, "serial", type="pty")
    if platform.console_log:
        _attributes(serial, "log", file=platform.console_log, append="on")
    SubElement(serial, "target", port="0")
    # The channel of QEMU's guest agent; libvirt chooses the socket's path.
    channel = SubElement(devices, "channel", type="unix")
    SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    # A screen for screenshots and for VNC. libvirtd hands over viewers: nothing listens on a port.
    SubElement(SubElement(devices, "graphics", type="vnc"), "listen", type="none")
    SubElement(SubElement(devices, "video"), "model", type="vga", vram="8192")
    SubElement(devices, "memballoon", model="virtio")
    return ElementTree.tostring(domain, encoding="unicode")


def _boot(domain: Element, spec: DomainSpec, platform: Platform) -> None:
    boot = SubElement(domain, "os")
    _text(boot, "type", "hvm", machine=platform.machine)
    if spec.boot.kernel:
        add_kernel(boot, spec)
        return
    for device in spec.boot.order:
        if device not in _BOOT_DEVICES:
            raise DriverError(f"Domain {spec.name}: can't boot from {device!r}, only from {', '.join(_BOOT_DEVICES)}.")
        SubElement(boot, "boot", dev=_BOOT_DEVICES[device])


def probe_xml(name: str, platform: Platform, kernel: str, initrd: str) -> str:
    """
    Write a test domain that ends by itself if its CPU runs: without a kernel its firmware finds nothing to boot and reboots;
    a kernel without a root file system panics and reboots. Rebooting ends it.

    @param name: begins with L{PROBE_PREFIX}.
    @param kernel: absolute path on the host; empty: the firmware alone.
    @param initrd: absolute path on the host; empty: none. One that starts a system makes the probe fail.
    """
    domain = Element("domain", type=platform.kind)
    _text(domain, "name", name)
    _text(domain, "memory", "128" if kernel else "32", unit="MiB")
    _text(domain, "vcpu", "1")
    boot = SubElement(domain, "os")
    _text(boot, "type", "hvm", machine=platform.machine)
    if kernel:
        _text(boot, "kernel", kernel)
        if initrd:
            _text(boot, "initrd", initrd)
        # A negative time-out is "reboot at once" (Linux's Documentation/admin-guide/kernel-parameters.txt).
        _text(boot, "cmdline", "panic=-1")
    else:
        SubElement(boot, "boot", dev="hd")
        SubElement(boot, "bios", rebootTimeout="0")
    features = SubElement(domain, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    for action in ("on_poweroff", "on_reboot", "on_crash"):
        _text(domain, action, "destroy")
    devices = SubElement(domain, "devices")
    SubElement(devices, "controller", type="usb", model="none")
    SubElement(devices, "memballoon", model="none")
    return ElementTree.tostring(domain, encoding="unicode")


def unlink_xml(name: str, path: str) -> str:
    """
    Write a domain that is never started, with a file as the memory of its firmware.

    @param name: begins with L{PROBE_PREFIX}.
    """
    domain = Element("domain", type="qemu")
    _text(domain, "name", name)
    _text(domain, "memory", "32", unit="MiB")
    boot = SubElement(domain, "os")
    _text(boot, "type", "hvm", machine="pc")
    _text(boot, "loader", "/nonexistent", readonly="yes", type="pflash")
    _text(boot, "nvram", path)
    SubElement(SubElement(domain, "features"), "acpi")
    return ElementTree.tostring(domain, encoding="unicode")


def _amount(element: Element | None) -> int:
    """Read an element's size in bytes; without a unit, libvirt means KiB."""
    if element is None or not element.text:
        return 0
    return int(element.text) * _UNITS[element.get("unit", "KiB").lower()]


def _mib(size: int) -> int:
    return -(-size // 2**20)


def parse_domain(text: str) -> Description:
    """
    Read any domain's definition from libvirt.

    Disks without a source (empty CD drives), devices that aren't disks, and interfaces that aren't in a libvirt network are
    left out.
    """
    domain = ElementTree.fromstring(text)  # noqa: S314 - libvirtd is trusted: it is root on that host
    maximum = _amount(domain.find("memory"))
    current = _amount(domain.find("currentMemory")) or maximum
    vcpu = domain.find("vcpu")
    most = int(vcpu.text or "1") if vcpu is not None else 1
    disks = []
    for element in domain.iterfind("devices/disk[@device='disk']"):
        source, target, driver = element.find("source"), element.find("target"), element.find("driver")
        if source is None or target is None:
            continue
        path = source.get("file") or source.get("dev") or source.get("name") or source.get("volume") or ""
        # A Xen guest's xvda is the vda of this interface.
        name = re.sub("^xvd", "vd", target.get("dev", ""))
        disks.append(DomainDisk(path, "raw" if driver is None else driver.get("type", "raw"), name))
    interfaces = []
    # In a running domain it may have another type, which shows how libvirt connected it to the network.
    for element in domain.iterfind("devices/interface"):
        mac, source, model = element.find("mac"), element.find("source"), element.find("model")
        if mac is not None and source is not None and source.get("network"):
            kind = "" if model is None else model.get("type", "")
            interfaces.append(DomainInterface(mac.get("address", "").lower(), source.get("network", ""), kind))
    return Description(
        uuid=domain.findtext("uuid", ""),
        name=domain.findtext("name", ""),
        vcpus=int(vcpu.get("current", most)) if vcpu is not None else most,
        max_vcpus=most,
        memory=_mib(current),
        max_memory=_mib(maximum),
        disks=tuple(disks),
        kernel=domain.findtext("os/kernel", ""),
        initrd=domain.findtext("os/initrd", ""),
        interfaces=tuple(interfaces),
    )


def pool_xml(name: str, path: str) -> str:
    """Write a storage pool that is a directory (U{https://libvirt.org/formatstorage.html})."""
    pool = Element("pool", type="dir")
    _text(pool, "name", name)
    _text(SubElement(pool, "target"), "path", path)
    return ElementTree.tostring(pool, encoding="unicode")


def volume_xml(name: str, size: int, format: str, unit: str = "MiB") -> str:
    """
    Write an empty volume, which takes space as it is written to.

    @param size: MiB, or C{bytes} if C{unit} says so.
    """
    volume = Element("volume")
    _text(volume, "name", name)
    _text(volume, "capacity", str(size), unit=unit)
    _text(volume, "allocation", "0")
    target = SubElement(volume, "target")
    SubElement(target, "format", type=format)
    return ElementTree.tostring(volume, encoding="unicode")


def parse_volume(text: str) -> tuple[str, str, str, int]:
    """
    Read a volume.

    @return: name, path, format and size in MiB, rounded up.
    """
    volume = ElementTree.fromstring(text)  # noqa: S314 - as above
    kind = volume.find("target/format")
    return (
        volume.findtext("name", ""),
        volume.findtext("target/path", ""),
        "raw" if kind is None else kind.get("type", "raw"),
        _mib(_amount_in_bytes(volume.find("capacity"))),
    )


def has_backing(text: str) -> bool:
    """Read whether a volume refers to another file."""
    return ElementTree.fromstring(text).find("backingStore") is not None  # noqa: S314 - as above


def _amount_in_bytes(element: Element | None) -> int:
    """Like L{_amount}, but without a unit it means bytes."""
    if element is None or not element.text:
        return 0
    return int(element.text) * _UNITS[element.get("unit", "bytes").lower()]


def parse_pool_path(text: str) -> str:
    """Read the path of a pool's volumes."""
    return ElementTree.fromstring(text).findtext("target/path", "")  # noqa: S314 - as above


def parse_domain_kinds(text: str) -> set[str]:
    """Read from a host's capabilities the domain types for its own architecture."""
    capabilities = ElementTree.fromstring(text)  # noqa: S314 - as above
    own = capabilities.findtext("host/cpu/arch", "")
    return {
        kind.get("type", "")
        for arch in capabilities.iterfind("guest/arch")
        if arch.get("name") == own
        for kind in arch.iterfind("domain")
    }
