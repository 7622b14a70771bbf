"""
libvirt's definitions of Xen domains: paravirtual (PV), paravirtual with hardware support (PVH), and full PCs (HVM).

The format: U{https://libvirt.org/formatdomain.html}; what Xen's driver supports: U{https://libvirt.org/drvxen.html}.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from fluidvm.driver import DomainDisk, DomainInterface, DomainSpec, Unsupported
from fluidvm.drivers.libvirt.domain_xml import _attributes, _text, add_ends, add_kernel, begin_domain

GUESTS = {"pv": ("linux", "xenpv"), "pvh": ("xenpvh", "xenpvh"), "hvm": ("hvm", "xenfv")}
"""The kinds of guest, each with libvirt's operating system type and machine."""

PYGRUB = "pygrub"
"""The boot loader that reads a guest's disk from dom0; any other is a program that runs in the guest."""

NETFRONT = "netfront"
"""Xen's own kind of network interface."""

_HVM_DEVICES = {"disk": "hd", "network": "network", "cdrom": "cdrom"}


def xen_target(target: str) -> str:
    """A disk's name in Xen guests: C{xvda} for C{vda}."""
    return f"x{target}" if target.startswith("vd") else target


def _disk(disk: DomainDisk) -> Element:
    block = disk.path.startswith("/dev/")
    element = Element("disk", type="block" if block else "file", device="disk")
    # Without a driver name Xen uses its own block backend, which needs no device model, so that raw disks can be attached
    # to running guests; only QEMU reads other formats.
    if disk.format == "raw":
        SubElement(element, "driver", type="raw")
    else:
        _attributes(element, "driver", name="qemu", type=disk.format)
    _attributes(element, "source", **{"dev" if block else "file": disk.path})
    _attributes(element, "target", dev=xen_target(disk.target), bus="xen")
    return element


def xen_disk_xml(disk: DomainDisk) -> str:
    """
    Write one disk, in the form for attaching.

    @raise DriverError: a value can't be represented in XML.
    """
    return ElementTree.tostring(_disk(disk), encoding="unicode")


def _interface(interface: DomainInterface, guest: str) -> Element:
    if guest != "hvm" and interface.model not in ("", NETFRONT):
        raise Unsupported(
            f"Interface {interface.mac}: Xen's {guest.upper()} guests support only interface model {NETFRONT}."
        )
    element = Element("interface", type="network")
    _attributes(element, "mac", address=interface.mac)
    _attributes(element, "source", network=interface.network)
    # Without a model it is Xen's own kind.
    if interface.model:
        _attributes(element, "model", type=interface.model)
    return element


def xen_interface_xml(interface: DomainInterface, guest: str) -> str:
    """
    Write one interface, in the form for attaching.

    @param guest: a key of L{GUESTS}.
    @raise Unsupported: this kind of guest doesn't support this model.
    @raise DriverError: a value can't be represented in XML.
    """
    return ElementTree.tostring(_interface(interface, guest), encoding="unicode")


def xen_domain_xml(spec: DomainSpec, guest: str, loader: str) -> str:
    """
    Write a definition.

    @param guest: a key of L{GUESTS}.
    @param loader: what boots a PV or PVH guest from its disk: L{PYGRUB}, or the absolute path of a GRUB built for Xen.
    @raise Unsupported: this kind of guest can't boot in this way.
    @raise DriverError: a value can't be represented in XML, or the UUID isn't valid.
    """
    domain = begin_domain(spec, "xen")
    kind, machine = GUESTS[guest]
    boot = Element("os")
    _text(boot, "type", kind, arch="x86_64", machine=machine)
    if spec.boot.kernel:
        add_kernel(boot, spec)
    elif guest == "hvm":
        for device in spec.boot.order:
            if device not in _HVM_DEVICES:
                raise Unsupported(f"Domain {spec.name}: can't boot from {device!r}, only from {', '.join(_HVM_DEVICES)}.")
            SubElement(boot, "boot", dev=_HVM_DEVICES[device])
    elif "disk" not in spec.boot.order:
        raise Unsupported(f"Domain {spec.name}: Xen's {guest.upper()} guests can boot only from a disk or a kernel.")
    elif loader == PYGRUB:
        _text(domain, "bootloader", PYGRUB)
        # No menu: nobody sees it, and it would delay the boot.
        _text(domain, "bootloader_args", "-q")
    else:
        _text(boot, "kernel", loader)
    domain.append(boot)
    if guest == "hvm":
        features = SubElement(domain, "features")
        for feature in ("acpi", "apic", "pae"):
            SubElement(features, feature)
    add_ends(domain)
    devices = SubElement(domain, "devices")
    for disk in spec.disks:
        devices.append(_disk(disk))
    for interface in spec.interfaces:
        devices.append(_interface(interface, guest))
    if guest == "hvm":
        serial = SubElement(devices, "serial", type="pty")
        SubElement(serial, "target", port="0")
    else:
        console = SubElement(devices, "console", type="pty")
        SubElement(console, "target", type="xen", port="0")
    return ElementTree.tostring(domain, encoding="unicode")


def with_vcpus(text: str, vcpus: int) -> str:
    """A definition with another number of virtual CPUs, and a maximum that is at least as high."""
    domain = ElementTree.fromstring(text)  # noqa: S314 - libvirtd is trusted: it is root on that host
    for vcpu in domain.iterfind("vcpu"):
        vcpu.text = str(max(int(vcpu.text or "1"), vcpus))
        vcpu.set("current", str(vcpus))
    return ElementTree.tostring(domain, encoding="unicode")


def with_name(text: str, name: str) -> str:
    """A definition with another name."""
    domain = ElementTree.fromstring(text)  # noqa: S314 - as above
    for element in domain.iterfind("name"):
        element.text = name
    return ElementTree.tostring(domain, encoding="unicode")


def has_device_model(text: str) -> bool:
    """Whether a running domain has a QEMU process in dom0, according to its current definition from libvirt."""
    domain = ElementTree.fromstring(text)  # noqa: S314 - as above
    return (
        domain.findtext("os/type") == "hvm"
        or domain.find("devices/graphics") is not None
        or domain.find("devices/disk/driver[@name='qemu']") is not None
    )
