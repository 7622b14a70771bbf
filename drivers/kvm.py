"""QEMU/KVM through libvirt: what is specific to KVM."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Mapping
from typing import Any

import libvirt
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from zope.interface import implementer

from fluidvm.driver import NAME_PATTERN, Bool, Choice, DriverError, DriverHost, IDriver, Struct, Text, Unreachable
from fluidvm.drivers.libvirt.adoption import LibvirtAdoption
from fluidvm.drivers.libvirt.connection import check_uri, open_connection, verb
from fluidvm.drivers.libvirt.console import LibvirtSerial, LibvirtVnc
from fluidvm.drivers.libvirt.domain_xml import PROBE_PREFIX, Platform, parse_domain_kinds, probe_xml, unlink_xml
from fluidvm.drivers.libvirt.errors import code_of
from fluidvm.drivers.libvirt.guest import LibvirtGuest
from fluidvm.drivers.libvirt.images import LibvirtImages
from fluidvm.drivers.libvirt.live_migration import LibvirtLiveMigration
from fluidvm.drivers.libvirt.networks import LibvirtNetworks
from fluidvm.drivers.libvirt.resize import LibvirtResize
from fluidvm.drivers.libvirt.save import LibvirtReset, LibvirtSave
from fluidvm.drivers.libvirt.screen import LibvirtScreen
from fluidvm.drivers.libvirt.shares import LibvirtShares
from fluidvm.drivers.libvirt.snapshots import LibvirtSnapshots
from fluidvm.drivers.libvirt.stats import LibvirtStats
from fluidvm.drivers.libvirt.volume_snapshots import LibvirtVolumeSnapshots
from fluidvm.drivers.libvirt.volumes import LibvirtDiskResize

DEFAULT_URI = "qemu:///system"
PATH = r"/[^\x00-\x1f\x7f<>\"']*"
MIGRATION_URI = r"tcp://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?|unix:///[A-Za-z0-9/._-]+"
PROBE_POLL = 0.05
FIRMWARE_LIMIT = 2.0
"""
Seconds in which KVM must run the firmware, unless emulation is even slower.

Real KVM takes a fraction of a second, like emulation; a KVM that was itself emulated took 3.5 s, and didn't run Linux.
"""
KERNEL_LIMIT = 10.0
"""Seconds in which KVM must run a kernel to its panic. Emulation takes 1.5 s."""


def _path(words: str) -> Text:
    return Text(words, longest=1024, pattern=PATH, rule="an absolute path on the host")


class KvmConnection(
    LibvirtStats,
    LibvirtSave,
    LibvirtReset,
    LibvirtResize,
    LibvirtVolumeSnapshots,
    LibvirtDiskResize,
    LibvirtImages,
    LibvirtNetworks,
    LibvirtAdoption,
    LibvirtLiveMigration,
    LibvirtGuest,
    LibvirtScreen,
    LibvirtSerial,
    LibvirtShares,
    LibvirtSnapshots,
    LibvirtVnc,
):
    """A QEMU/KVM host."""

    hypervisor = "QEMU"

    def __init__(self, connection: Any, uri: str, options: Mapping[str, Any], host: DriverHost) -> None:
        super().__init__(connection, uri, options, host)
        if not options.get("raw_disks", True):
            self.formats = tuple(format for format in self.formats if format != "raw")
        self._accelerator: tuple[str, str] | None = None
        self._probing = DeferredLock()

    async def platform(self, uuid: str) -> Platform:
        kind, _ = await self.accelerator()
        directory = self._options.get("console_log_dir", "").rstrip("/")
        log = f"{directory}/{uuids.UUID(uuid)}.log" if directory and _is_uuid(uuid) else ""
        return Platform(kind, self._machine, log)

    async def version(self) -> str:
        _, words = await self.accelerator()
        return f"{await super().version()} ({words})"

    def _do_unlink(self, volume: Any) -> None:
        # Declared as the firmware memory of a stopped domain, the file is removed with it: libvirt doesn't read it then.
        domain = self._connection.defineXML(unlink_xml(f"{PROBE_PREFIX}{uuids.uuid4()}", volume.path()))
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)

    @property
    def _machine(self) -> str:
        return str(self._options.get("machine", "pc"))

    async def accelerator(self) -> tuple[str, str]:
        """
        How domains run on this host; determined once for each connection.

        @return: libvirt's domain type, and the reason as a text for users.
        """
        wanted = self._options.get("accelerator", "auto")
        if wanted == "kvm":
            return "kvm", "KVM"
        if wanted == "emulate":
            return "qemu", "emulation"
        await self._probing.acquire()
        try:
            if self._accelerator is None:
                self._accelerator = await self._prove()
            return self._accelerator
        finally:
            self._probing.release()

    async def _prove(self) -> tuple[str, str]:
        kinds = parse_domain_kinds(await self._call("the host's capabilities", self._connection.getCapabilities))
        if "kvm" not in kinds:
            return "qemu", "emulation: the host has no KVM"
        kernel = self._options.get("probe_kernel", "")
        what, least = ("a kernel", KERNEL_LIMIT) if kernel else ("the firmware", FIRMWARE_LIMIT)
        # The time that emulation takes shows how busy the host is.
        emulated = await self._probe("qemu", 6 * least)
        if emulated is None:
            raise DriverError(f"{self._uri}: QEMU didn't run {what} within {6 * least:g} s, even with emulation.")
        limit = max(least, 4 * emulated)
        if await self._probe("kvm", limit) is None:
            return "qemu", f"emulation: KVM didn't run {what} within {limit:.0f} s"
        return "kvm", f"KVM, tested with {what}"

    async def _probe(self, kind: str, limit: float) -> float | None:
        """
        Run a test domain, which ends by itself if its CPU works.

        @param limit: in seconds.
        @return: how long it ran, in seconds; C{None} if it failed or didn't end.
        """
        name = f"{PROBE_PREFIX}{uuids.uuid4()}"
        options = self._options
        text = probe_xml(
            name, Platform(kind, self._machine), options.get("probe_kernel", ""), options.get("probe_initrd", "")
        )

        def begin() -> Any:
            try:
                # It must not outlive this connection.
                return self._connection.createXML(text, libvirt.VIR_DOMAIN_START_AUTODESTROY)
            except libvirt.libvirtError:
                if not self._alive() or kind == "qemu":
                    raise
                return None

        domain = await self._call(f"test of {kind}", begin)
        if domain is None:
            return None
        began = self._seconds()
        try:
            while True:
                going = await self._call(f"test of {kind}", _do_goes_on, domain)
                took = self._seconds() - began
                if going is not True:
                    return took if going is None else None
                if took > limit:
                    return None
                await self._wait(PROBE_POLL)
        finally:
            # Also when the test is cancelled, but then without waiting, because a cancelled coroutine should end.
            removing = Deferred.fromCoroutine(self._call("end of the test", _do_remove, domain))
            removing.addErrback(lambda failure: failure.trap(DriverError, CancelledError))
            await removing


def _do_goes_on(domain: Any) -> bool | None:
    """Whether a test domain runs. C{None}: it has ended by itself; false: it got stuck."""
    try:
        state, _ = domain.state()
    except libvirt.libvirtError as error:
        if code_of(error) == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    return state not in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_CRASHED)


def _do_remove(domain: Any) -> None:
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if code_of(error) not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise


def _is_uuid(text: str) -> bool:
    try:
        uuids.UUID(text)
    except ValueError:
        return False
    return True


@implementer(IDriver)
class KvmDriver:
    """QEMU/KVM through libvirt."""

    name = "kvm"
    summary = "QEMU/KVM hosts through libvirt"
    connection = KvmConnection
    options = Struct(
        "settings of a KVM host",
        {
            "accelerator": Choice(
                "what runs the guests; auto uses KVM if a test guest runs on it, else emulation; default: auto",
                choices=("auto", "kvm", "emulate"),
            ),
            "machine": Text(
                "QEMU's machine type; default: pc", longest=64, pattern=r"[a-z][a-z0-9.-]{0,63}", rule="e.g. pc or q35"
            ),
            "pool": Text(
                'name of the storage pool at pool_path; if not given, it is "default"',
                longest=63,
                pattern=NAME_PATTERN,
                rule="letters, digits, dots, dashes and underscores",
            ),
            "pool_path": _path("a directory to use as a storage pool; it is created if it doesn't exist"),
            "raw_disks": Bool(
                "whether new disks can be raw; default: true; what a guest writes to a raw disk can make libvirt open files "
                "of the host"
            ),
            "console_log_dir": _path("a directory for the output of each guest's serial console, in UUID.log"),
            "migration_uri": Text(
                "where other hosts send running guests that move here; default: the host's own name",
                longest=1024,
                pattern=MIGRATION_URI,
                rule="tcp://HOST, tcp://HOST:PORT or, for hosts on one machine, unix:///DIRECTORY",
            ),
            "probe_kernel": _path("a Linux kernel with which auto tests KVM; a stronger test than the firmware alone"),
            "probe_initrd": _path("an initrd for probe_kernel, if that needs one to run to its panic"),
        },
    )

    def check_address(self, address: str) -> None:
        check_uri(address, DEFAULT_URI, ("qemu",))

    @verb
    async def connect(self, address: str, options: Mapping[str, Any], host: DriverHost) -> KvmConnection:
        try:
            uri = check_uri(address, DEFAULT_URI, ("qemu",))
        except ValueError as error:
            raise Unreachable(f"{address}: {error}.") from None
        connection = KvmConnection(await open_connection(uri, host), uri, options, host)
        try:
            await connection.prepare()
            if "pool_path" in options:
                await connection.ensure_pool(options.get("pool", "default"), options["pool_path"])
        except (DriverError, CancelledError):
            await connection.close()
            raise
        return connection
