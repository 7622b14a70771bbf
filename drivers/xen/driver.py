"""
Xen through libvirt's libxl driver: what is specific to Xen.

Where comments say that this driver of libvirt differs from that for QEMU, it was observed on libvirt 9.0 and Xen 4.17.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import libvirt
from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from fluidvm.driver import (
    NAME_PATTERN,
    AlreadyThere,
    Choice,
    DomainDisk,
    DomainInterface,
    DomainSpec,
    DomainState,
    DriverError,
    DriverHost,
    IDriver,
    NoSuchThing,
    Progress,
    Struct,
    Text,
    Unreachable,
    WrongState,
)
from fluidvm.drivers.libvirt.connection import LogIn, check_uri, open_connection, verb
from fluidvm.drivers.libvirt.console import LibvirtSerial
from fluidvm.drivers.libvirt.domain_xml import parse_domain
from fluidvm.drivers.libvirt.images import LibvirtImages
from fluidvm.drivers.libvirt.networks import LibvirtNetworks
from fluidvm.drivers.libvirt.resize import FOLLOW, LibvirtResize
from fluidvm.drivers.libvirt.save import LibvirtSave
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
from fluidvm.drivers.xen.migration import XenMigration
from fluidvm.drivers.xen.stats import XenStats

T = TypeVar("T")
DEFAULT_URI = "xen:///system"
DOM0 = "00000000-0000-0000-0000-000000000000"
"""The UUID of the domain that controls the host; libvirt lists it among the others."""
SETTLE = 120.0
"""Maximum duration in seconds of a transition between states; rebuilding a domain with much memory takes some time."""
BETWEEN_POLL = 0.1
"""Polling interval in seconds for such a domain."""
_DEFINITION = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


class _Between(Exception):
    """A domain is being started or rebooted: its state will be known in a moment."""


class XenConnection(XenStats, LibvirtResize, LibvirtSave, LibvirtImages, LibvirtNetworks, LibvirtSerial, XenMigration):
    """A Xen host."""

    hypervisor = "Xen"
    # Raw disks can be attached to running guests without a device model, so every guest supports them.
    formats = ("raw", "qcow2")
    undefine_flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    save_flags = 0

    def __init__(
        self, connection: Any, uri: str, options: Mapping[str, Any], host: DriverHost, log_in: LogIn | None = None
    ) -> None:
        super().__init__(connection, uri, options, host, log_in)
        self._newest: dict[str, int] = {}

    # dom0.

    def _hidden(self, domain: Any) -> bool:
        return bool(domain.UUIDString() == DOM0) or super()._hidden(domain)

    # Rebooting: the toolstack destroys the domain and builds it again, and libvirt reports it as shut off meanwhile. A job
    # in progress distinguishes this from a real end.

    def _do_between(self, domain: Any) -> bool:
        """Whether a domain that is reported as shut off is starting or stopping."""
        if domain.state()[0] != libvirt.VIR_DOMAIN_SHUTOFF:
            return False
        return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)

    def _do_find(self, uuid: str) -> Any:
        domain = super()._do_find(uuid)
        if self._hidden(domain):
            raise NoSuchThing(f"The host has no domain {uuid}.")
        if self._do_between(domain):
            raise _Between
        return domain

    async def _call_in(self, run: Callable[..., Deferred[T]], subject: str, function: Callable[..., T], *args: Any) -> T:
        # Each function first looks up its domain, so that nothing is done twice.
        deadline = self._seconds() + SETTLE
        while True:
            try:
                return await super()._call_in(run, subject, function, *args)
            except _Between:
                if self._seconds() >= deadline:
                    raise WrongState(f"{subject}: the domain has been starting or stopping for {SETTLE:g} s.") from None
                await self._wait(BETWEEN_POLL)

    def _do_state(self, domain: Any) -> DomainState:
        # The state is read again after the job, because a reboot can begin or end between any two calls.
        while (state := super()._do_state(domain)) in (DomainState.STOPPED, DomainState.CRASHED):
            if domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
                return DomainState.RUNNING
            if super()._do_state(domain) is state:
                break
        return state

    async def _power(self, what: str, uuid: str, function: Callable[[Any, DomainState], None]) -> None:
        def act() -> None:
            domain = self._do_find(uuid)
            function(domain, self._do_state(domain))

        # libxl waits a minute for a guest that doesn't acknowledge the request; this must not block other domains.
        run = self._host.run_long if what in ("shutdown", "reboot") else self._host.run
        subject = f"{what} of domain {uuid}"
        try:
            await self._call_in(run, subject, act)
        except DriverError:
            # A guest that is already shutting down no longer answers, which libxl reports as a failure.
            if what != "shutdown" or await self._call(subject, lambda: self._do_find(uuid).isActive()):
                raise

    @verb
    async def stop(self, uuid: str) -> None:
        # A domain that has just begun to reboot looks stopped.
        again = True
        while again:
            await super().stop(uuid)
            try:
                again = await self._call(f"stop of domain {uuid}", lambda: self._do_find(uuid).isActive())
            except NoSuchThing:
                return

    def _lifecycle(self, connection: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:
        uuid, number = domain.UUIDString(), domain.ID()
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
            self._newest[uuid] = number
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED and 0 <= number < self._newest.get(uuid, 0):
            # The end of the domain that a reboot has already replaced, reported after the start of the new one.
            return
        elif event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            self._newest.pop(uuid, None)
        super()._lifecycle(connection, domain, event, detail, opaque)

    # Definitions.

    async def definition(self, spec: DomainSpec) -> str:
        return xen_domain_xml(spec, self._options.get("guests", "pv"), self._options.get("boot_loader", PYGRUB))

    def _do_define(self, spec: DomainSpec, text: str) -> None:
        if spec.uuid == DOM0:
            raise AlreadyThere(f"{DOM0} is the host itself.")
        with suppress(NoSuchThing):
            self._do_find(spec.uuid)
        super()._do_define(spec, text)

    def _do_rename(self, uuid: str, name: str) -> None:
        domain = self._do_find(uuid)
        before, autostart = domain.XMLDesc(_DEFINITION), domain.autostart()
        # Xen's driver can't rename, and refuses an existing UUID with another name.
        domain.undefineFlags(self.undefine_flags)
        try:
            domain = self._connection.defineXML(with_name(before, name))
        except libvirt.libvirtError:
            domain = self._connection.defineXML(before)
            raise
        finally:
            domain.setAutostart(autostart)

    def _do_set_vcpus(self, domain: Any, vcpus: int) -> None:
        # libvirt's call refuses more CPUs than the host has, but a definition can have more.
        self._connection.defineXML(with_vcpus(domain.XMLDesc(_DEFINITION), vcpus))

    # Memory and CPUs.

    def _do_memory(self) -> int:
        return int(self._connection.getInfo()[1])

    @verb
    async def resize_vcpus(self, uuid: str, vcpus: int) -> None:
        subject = f"virtual CPUs of domain {uuid}"
        before = await self._call(subject, lambda: parse_domain(self._do_running(uuid).XMLDesc(0)))
        await super().resize_vcpus(uuid, vcpus)
        # libvirt has recorded the number that it requested, but only the guest can release CPUs.
        deadline = self._seconds() + FOLLOW
        try:
            while await self._call(subject, lambda: self._do_running(uuid).info()[3]) > vcpus:
                if self._seconds() >= deadline:
                    raise self._refusal(before.name)
                await self._wait()
        except (DriverError, CancelledError) as error:
            if not isinstance(error, Unreachable):
                await self._call(subject, self._do_take_vcpus_back, uuid, before.vcpus)
            raise

    def _do_take_vcpus_back(self, uuid: str, vcpus: int) -> None:
        domain = self._do_find(uuid)
        if domain.isActive():
            domain.setVcpusFlags(vcpus, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        if domain.isPersistent():
            domain.setVcpusFlags(vcpus, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    # Saving.

    @verb
    async def save(self, uuid: str, progress: Progress) -> None:
        subject = f"saving domain {uuid}"
        # libxl asks the guest to suspend itself, which a paused guest can't: it is resumed for that moment.
        paused = await self._call(subject, self._do_go_on, uuid)
        try:
            await super().save(uuid, progress)
        except (DriverError, CancelledError) as error:
            if paused and not isinstance(error, Unreachable):
                await self.pause(uuid)
            raise

    def _do_go_on(self, uuid: str) -> bool:
        """Resume a paused domain. Returns whether it was paused."""
        domain = self._do_find(uuid)
        if self._do_state(domain) is not DomainState.PAUSED:
            return False
        domain.resume()
        return True

    # Disks.

    def _disk_xml(self, disk: DomainDisk) -> str:
        return xen_disk_xml(disk)

    def _interface_xml(self, interface: DomainInterface) -> str:
        return xen_interface_xml(interface, self._options.get("guests", "pv"))

    def _do_attach(self, uuid: str, disk: DomainDisk) -> None:
        domain = self._do_find(uuid)
        if domain.isActive():
            self._do_check_plug(domain, disk)
        super()._do_attach(uuid, disk)

    def _do_check_plug(self, domain: Any, disk: DomainDisk) -> None:
        """
        Refuse what would fail in libxl: after such a failure the domain can no longer be destroyed.

        @raise WrongState: the domain must be stopped for this.
        """
        text, name = domain.XMLDesc(0), domain.name()
        if any(there.target == disk.target for there in parse_domain(text).disks):
            return
        if disk.format != "raw" and not has_device_model(text):
            raise WrongState(
                f"Domain {name} was started without QEMU, which disks in format {disk.format} need; "
                "stop it to attach this one."
            )
        if self._do_exists(disk.path) is None:
            raise WrongState(
                f"{disk.path} isn't in a storage pool, so it can't be checked; stop domain {name} to attach it."
            )


def _read_password(path: str) -> str:
    """
    Read a password from a file that only its owner is allowed to read.

    @raise DriverError: there is none, or other users can read it.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            if Path(path).stat().st_mode & 0o077:
                raise DriverError(f"password_file: other users can read {path}; run chmod 600 on it.")
            return file.readline().rstrip("\r\n")
    except OSError as error:
        raise DriverError(f"password_file: {path}: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise DriverError(f"password_file: {path} isn't a text file.") from None


def _path(words: str, where: str) -> Text:
    return Text(words, longest=1024, pattern=r"/[^\x00-\x1f\x7f<>\"']*", rule=f"an absolute path on the {where}")


@implementer(IDriver)
class XenDriver:
    """Xen through libvirt."""

    name = "xen"
    summary = "Xen hosts through libvirt (libxl)"
    connection = XenConnection
    options = Struct(
        "settings of a Xen host",
        {
            "guests": Choice("kind of its guests; default: pv", choices=tuple(GUESTS)),
            "boot_loader": Text(
                "boot loader of pv and pvh guests with disks: pygrub or a GRUB built for Xen (pvgrub); default: pygrub",
                longest=1024,
                pattern=rf"{PYGRUB}|/[^\x00-\x1f\x7f<>\"']*",
                rule=f"{PYGRUB} or an absolute path on the host",
            ),
            "pool": Text(
                'name of the storage pool at pool_path; if not given, it is "default"',
                longest=63,
                pattern=NAME_PATTERN,
                rule="letters, digits, dots, dashes and underscores",
            ),
            "pool_path": _path("a directory to use as a storage pool; it is created if it doesn't exist", "host"),
            "migration_uri": Text(
                "where other hosts send running guests that move here; default: running guests can't move here",
                longest=1024,
                pattern=r"tcp://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?",
                rule="tcp://HOST or tcp://HOST:PORT",
            ),
            "username": Text(
                "user name for a host that requires a login (SASL)",
                longest=255,
                pattern=r"[^\x00-\x1f\x7f]+",
                rule="no control characters",
            ),
            "password_file": _path(
                "a file with the password of username, which only its owner is allowed to read", "server"
            ),
        },
    )

    def _check(self, address: str) -> str:
        uri = check_uri(address, DEFAULT_URI, ("xen",))
        if "/session" in uri.partition("?")[0]:
            raise ValueError(f"Xen has no session mode: e.g. {DEFAULT_URI}")
        return uri

    def check_address(self, address: str) -> None:
        self._check(address)

    @verb
    async def connect(self, address: str, options: Mapping[str, Any], host: DriverHost) -> XenConnection:
        try:
            uri = self._check(address)
        except ValueError as error:
            raise Unreachable(f"{address}: {error}.") from None

        if "password_file" in options and "username" not in options:
            raise DriverError(f"{uri}: the option password_file requires the option username.")

        def log_in() -> tuple[str, str]:
            file = options.get("password_file", "")
            return options["username"], _read_password(file) if file else ""

        how = log_in if "username" in options else None
        connection = XenConnection(await open_connection(uri, host, how), uri, options, host, how)
        try:
            await connection.prepare()
            if "pool_path" in options:
                await connection.ensure_pool(options.get("pool", "default"), options["pool_path"])
        except (DriverError, CancelledError):
            await connection.close()
            raise
        return connection
