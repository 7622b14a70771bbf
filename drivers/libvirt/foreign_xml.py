"""
Reads definitions that somebody else wrote, as FluidVM would write them.

What FluidVM can't represent is refused if the guest needs it: its data, its networks, devices of the host. The rest
(graphics, sound, consoles, the CPU's model, clocks) is ignored, and is lost once FluidVM redefines the domain.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from fluidvm.driver import Boot, DomainSpec, Unsupported
from fluidvm.drivers.libvirt.domain_xml import parse_domain

_HARMLESS = frozenset(
    {
        "emulator",
        "disk",
        "interface",
        "controller",
        "input",
        "graphics",
        "video",
        "serial",
        "parallel",
        "console",
        "channel",
        "sound",
        "audio",
        "memballoon",
        "rng",
        "watchdog",
        "panic",
        "hub",
        "redirdev",
        "redirfilter",
    }
)
_NEEDED = ("memoryBacking", "numatune", "launchSecurity", "idmap", "bootloader")
_FORMATS = ("qcow2", "raw")
_BOOT = {"hd": "disk", "network": "network", "cdrom": "cdrom"}
_BOOTABLE = {"disk": "disk", "interface": "network", "cdrom": "cdrom"}
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def read_spec(text: str, machine: str, autostart: bool) -> DomainSpec:
    """
    Read a definition.

    @param text: the definition for the domain's next start, from libvirt.
    @param machine: QEMU's machine type for definitions on this host.
    @raise Unsupported: it has something that would be lost; the text says what.
    """
    domain = ElementTree.fromstring(text)  # noqa: S314 - libvirtd is trusted: it is root on that host
    described = parse_domain(text)
    lost = _lost(domain, machine)
    if lost:
        raise Unsupported(f"Domain {described.name} can't be taken over: {lost}.")
    return DomainSpec(
        uuid=described.uuid,
        name=described.name,
        vcpus=described.vcpus,
        max_vcpus=described.max_vcpus,
        memory=described.memory,
        max_memory=described.max_memory,
        disks=described.disks,
        boot=_boot(domain),
        autostart=autostart,
        interfaces=described.interfaces,
    )


def _lost(domain: Element, machine: str) -> str:
    """A text that says what a new definition would lack; empty: nothing important."""
    kind = domain.find("os/type")
    theirs = "" if kind is None else kind.get("machine", "")
    if kind is None or kind.text != "hvm" or not (theirs.startswith("pc") or theirs == "q35"):
        return f"its machine is {theirs or 'unknown'}, not a PC"
    if ("q35" in theirs) != ("q35" in machine):
        return f"its machine is {theirs}, but the compute node's option machine is {machine}"
    if domain.find("os").get("firmware") or domain.find("os/loader") is not None:  # type: ignore[union-attr]
        return "its firmware isn't the hypervisor's default"
    for tag in _NEEDED:
        if domain.find(tag) is not None:
            return f"its definition has {tag}"
    if domain.find(f"{_QEMU}commandline") is not None:
        return "its definition has arguments for QEMU"
    for element in domain.iterfind("devices/*"):
        words = _lost_disk(element) if element.tag == "disk" else ""
        if element.tag == "interface":
            words = _lost_interface(element)
        if element.tag not in _HARMLESS:
            words = f"it has a device {element.tag}"
        if words:
            return words
    return ""


def _lost_disk(disk: Element) -> str:
    source, target = disk.find("source"), disk.find("target")
    name = "" if target is None else target.get("dev", "")
    if disk.get("device", "disk") in ("cdrom", "floppy") and source is None:
        return ""
    if disk.get("device", "disk") != "disk":
        return f"its drive {name} is a {disk.get('device')} with a medium"
    if disk.get("type") != "file" or source is None:
        return f"its disk {name} isn't a file"
    if target is None or target.get("bus") != "virtio":
        return f"its disk {name} isn't on a virtio bus"
    driver, backing = disk.find("driver"), disk.find("backingStore")
    # Without a format it is raw, also for libvirt.
    format = "raw" if driver is None else driver.get("type", "raw")
    if format not in _FORMATS:
        return f"its disk {name} has format {format}; supported are {' and '.join(_FORMATS)}"
    if backing is not None and len(backing):
        return f"its disk {name} refers to another file (a backing file)"
    for tag in ("readonly", "shareable", "transient", "encryption", "slices", "dataStore"):
        if disk.find(tag) is not None or source.find(tag) is not None:
            return f"its disk {name} is {tag}" if tag not in ("slices", "dataStore") else f"its disk {name} has {tag}"
    return ""


def _lost_interface(interface: Element) -> str:
    mac, source = interface.find("mac"), interface.find("source")
    name = "" if mac is None else mac.get("address", "")
    if source is None or not source.get("network"):
        return f"its interface {name} isn't in a libvirt network"
    for tag in ("vlan", "filterref", "virtualport"):
        if interface.find(tag) is not None:
            return f"its interface {name} has a {tag}"
    return ""


def _boot(domain: Element) -> Boot:
    kernel = domain.findtext("os/kernel", "")
    if kernel:
        return Boot(kernel, domain.findtext("os/initrd", ""), domain.findtext("os/cmdline", ""))
    order = [_BOOT[boot.get("dev", "")] for boot in domain.iterfind("os/boot") if boot.get("dev", "") in _BOOT]
    if not order:
        numbered = []
        for device in domain.iterfind("devices/*"):
            boot = device.find("boot")
            kind = _BOOTABLE.get(device.get("device", "disk") if device.tag == "disk" else device.tag)
            if boot is not None and kind is not None:
                numbered.append((int(boot.get("order", "0")), kind))
        order = [kind for _, kind in sorted(numbered)]
    return Boot(order=tuple(dict.fromkeys(order)) or ("disk",))
