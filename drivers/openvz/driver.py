"""
OpenVZ containers, through vzctl and vzlist: on the server's own machine or over SSH, dialects 4 and 7.

A domain of this driver is a container: it has no disks but its own file system, no kernel, and no firmware. Its maximum
memory and CPUs limit what FluidVM gives it while it runs; OpenVZ itself has no such maximum.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError
from zope.interface import implementer

from fluidvm.driver import (
    AlreadyThere,
    Choice,
    DomainInfo,
    DomainSpec,
    DomainState,
    DriverError,
    DriverHost,
    HostInfo,
    IConnection,
    IDriver,
    ILiveResize,
    Int,
    IPatience,
    NotReady,
    Struct,
    Text,
    Unreachable,
    Unsupported,
    WrongState,
)
from fluidvm.drivers.openvz.creation import VzCreation
from fluidvm.drivers.openvz.dialect import is_openvz, parse_host, parse_version
from fluidvm.drivers.openvz.guest import VzGuest
from fluidvm.drivers.openvz.identity import unpaused
from fluidvm.drivers.openvz.migration import VzMigration
from fluidvm.drivers.openvz.node import FIRST_RETRY, LONG, ON, READ, SYSTEM_ERROR, TIMEOUT, Container, changed, verb
from fluidvm.drivers.openvz.runner import LocalRunner, Runner
from fluidvm.drivers.openvz.saving import VzSaving
from fluidvm.drivers.openvz.shares import VzShares
from fluidvm.drivers.openvz.snapshots import VzSnapshots
from fluidvm.drivers.openvz.ssh import SshRunner, parse_address, read_credentials
from fluidvm.drivers.openvz.stats import VzStats

RUNNING, PAUSED, STOPPED, SAVED = DomainState.RUNNING, DomainState.PAUSED, DomainState.STOPPED, DomainState.SAVED
HALT = "halt || init 0 || exit 93"
"""Shuts a guest down. Exit code 3 is vzctl's, for a command that a signal ended; a guest that refuses returns another."""
LOOKS = 4
"""How often, half a second apart, the state of a guest is checked after a failed C{halt}: it may be down."""
PROBE = "vzctl --version || exit; cat /proc/stat /proc/meminfo; ls -d /proc/vz"
"""A shell script that collects what must be known about a node at first."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
"""The pattern of new containers' names: vzctl creates a file with the name."""
STOP_TIMEOUT = 60
"""Seconds in which a rebooting guest must go down before it is killed. vzctl's default of 120 exceeds a verb's time-out."""


@implementer(IConnection, ILiveResize, IPatience)
class OpenVzConnection(VzSaving, VzSnapshots, VzStats, VzMigration, VzGuest, VzCreation, VzShares):
    """An OpenVZ node. Each command has its own time-out; commands that copy a file system or memory have a very long one."""

    patience = dict.fromkeys(
        (
            "define_domain",
            "undefine_domain",
            "save",
            "restore",
            "create_snapshot",
            "revert_snapshot",
            "delete_snapshot",
            "migrate",
        ),
        LONG + TIMEOUT,
    ) | dict.fromkeys(
        ("run_in_guest", "set_password", "add_ssh_key"), 4 * READ
    )  # for reading, for a free slot, and in the guest

    # Queries.

    @verb
    async def host_info(self) -> HostInfo:
        kernel = (await self._run(["uname", "-r"])).stdout.strip()
        version = f"vzctl {self._dialect.version}"
        return HostInfo(self._cpus, self._memory, f"OpenVZ, kernel {kernel}", f"{version}, dialect {self._dialect.number}")

    @verb
    async def list_domains(self) -> Sequence[DomainInfo]:
        return [container.info for container in await self._containers()]

    @verb
    async def get_domain(self, uuid: str) -> DomainInfo:
        return (await self._container(uuid)).info

    # Definitions.

    @verb
    async def define_domain(self, spec: DomainSpec) -> None:
        if spec.disks:
            raise Unsupported(f"Container {spec.name}: a container can't have disks, only its own file system.")
        if spec.boot.kernel or spec.boot.initrd:
            raise Unsupported(f"Container {spec.name}: a container can't boot a kernel of its own.")
        await self._alone(spec.uuid, lambda: self._define(spec))

    async def _define(self, spec: DomainSpec) -> None:
        there, identities = await self._search(spec.uuid)
        for other in identities.values():
            if other.name == spec.name and other.uuid != spec.uuid:
                raise AlreadyThere(f"There is already another container {spec.name} on the node.")
        # An adopted container may have another kind of name, and keeps it.
        if (there is None or there.info.name != spec.name) and not re.fullmatch(NAME, spec.name):
            raise DriverError(f"Container {spec.name!r}: this isn't a valid container name.")
        if there is not None and there.state not in (STOPPED, DomainState.CRASHED):
            raise WrongState(f"Container {spec.name} is {there.state}: stop it first.")
        if there is None or (there.identity.mark and there.identity.mark.new):
            # A new container has been created, but its configuration wasn't finished.
            there = there or await self._create(spec, identities)
            try:
                await self._redefine(spec, there, fresh=True)
                await self._put_shares(there, spec.shares)
            except Exception:
                await self._remove(spec.uuid)
                raise
        else:
            await self._redefine(spec, there, fresh=False)
            await self._put_shares(there, spec.shares)

    async def _redefine(self, spec: DomainSpec, there: Container, *, fresh: bool) -> None:
        """Configure a stopped container as specified, and check the result."""
        old = there.identity.mark
        mark = there.identity.marked(spec.max_vcpus, spec.max_memory)
        wanted = DomainInfo(
            spec.uuid, spec.name, STOPPED, spec.vcpus, spec.max_vcpus, spec.memory, spec.max_memory, (), spec.autostart
        )
        if replace(there.info, state=STOPPED) == wanted and there.listed.cpus and mark == old and not fresh:
            return
        subject = f"definition of container {spec.name}"
        words = [
            *self._memory_words(spec.memory),
            "--cpus",
            str(spec.vcpus),
            "--onboot",
            yes(spec.autostart),
            "--description",
            str(mark),
            "--stop-timeout",
            str(STOP_TIMEOUT),
        ]
        if fresh:
            # Later it is what set_limits has set.
            words += self._swap_words(self._options.get("swap", 0))
        if "disk_size" in self._options and fresh:
            words += ["--diskspace", f"{self._options['disk_size']}M"]
        before = there.info
        back = [
            *self._old_memory_words(there),
            "--cpus",
            str(there.listed.cpus),
            "--onboot",
            yes(before.autostart),
            "--description",
            there.identity.description,
        ]
        if before.name != spec.name:
            words += ["--name", spec.name]
            back += ["--name", there.identity.name]
        await self._set(subject, there.ctid, words, back)
        changed(subject, wanted, replace((await self._container(spec.uuid)).info, state=STOPPED))

    @verb
    async def undefine_domain(self, uuid: str) -> None:
        """See L{IConnection}; a container's file system is a part of it, and is removed with it."""
        await self._alone(uuid, lambda: self._remove(uuid))

    # Power.

    @verb
    async def start(self, uuid: str) -> None:
        await self._alone(uuid, lambda: self._start(uuid))

    async def _start(self, uuid: str) -> None:
        there = await self._container(uuid)
        if there.state is PAUSED:
            raise WrongState(f"Container {there.info.name} is paused: resume it.")
        if there.state is SAVED:
            # vzctl would restore it.
            raise WrongState(f"Container {there.info.name} is saved: restore it.")
        if there.state is RUNNING:
            return
        subject = f"start of container {there.info.name}"
        if there.identity.mark and there.identity.mark.paused is not None:
            await self._write_mark(subject, there, unpaused(there.identity.mark))
        await self._fit(subject, there)
        outcome = await self._vz(subject, "start", there.ctid)
        if (await self._container(uuid)).state is not RUNNING:
            raise self._explain(subject, outcome)

    @verb
    async def shutdown(self, uuid: str) -> None:
        """See L{IConnection}. This runs C{halt} in the guest, because C{vzctl stop} kills a guest that doesn't react."""
        await self._alone(uuid, lambda: self._shutdown(uuid))

    async def _shutdown(self, uuid: str) -> None:
        there = await self._container(uuid)
        if there.state is PAUSED:
            raise WrongState(f"Container {there.info.name} is paused: resume it first.")
        if there.state is not RUNNING:
            return
        outcome = await self._inside(there, HALT, READ, b"")
        # A guest that shuts down also ends the command.
        if outcome.code in (0, SYSTEM_ERROR) or not 0 < outcome.code < 128:
            return
        # A guest that was already shutting down can no longer be entered, but is reported as running for a moment.
        for _ in range(LOOKS):
            if (await self._container(uuid)).state is not RUNNING:
                return
            await self._wait(FIRST_RETRY)
        raise NotReady(f"Container {there.info.name}: the guest refused halt (exit code {outcome.code}).")

    @verb
    async def stop(self, uuid: str) -> None:
        await self._alone(uuid, lambda: self._stop(uuid))

    async def _stop(self, uuid: str) -> None:
        there = await self._container(uuid)
        if there.state is SAVED:
            # vzctl has no command to discard a saved state.
            await self._restore(uuid)
            there = await self._container(uuid)
        if there.state not in ON:
            return
        subject = f"stop of container {there.info.name}"
        if there.state is PAUSED and self._dialect.number == 4 and not await self._freezer(there.ctid):
            # Frozen processes don't die by a signal.
            outcome = await self._vz(subject, "chkpnt", there.ctid, "--kill")
        else:
            if there.state is PAUSED:
                await self._resume(uuid)
            outcome = await self._vz(subject, "stop", there.ctid, "--fast")
        there = await self._container(uuid)
        if there.state in ON:
            raise self._explain(subject, outcome)
        if there.identity.mark and there.identity.mark.paused is not None:
            await self._write_mark(subject, there, unpaused(there.identity.mark))

    @verb
    async def reboot(self, uuid: str) -> None:
        """See L{IConnection}. This uses C{vzctl restart}, which waits, and kills a guest that doesn't shut down in time."""
        await self._alone(uuid, lambda: self._reboot(uuid))

    async def _reboot(self, uuid: str) -> None:
        there = await self._container(uuid)
        if there.state is not RUNNING:
            raise WrongState(f"Container {there.info.name} is {there.state}: it can be rebooted only while it is running.")
        await self._do(f"reboot of container {there.info.name}", "restart", there.ctid)

    # Memory and CPUs.

    @verb
    async def set_memory(self, uuid: str, memory: int) -> None:
        await self._alone(uuid, lambda: self._resize(uuid, stopped=True, memory=memory))

    @verb
    async def set_vcpus(self, uuid: str, vcpus: int) -> None:
        await self._alone(uuid, lambda: self._resize(uuid, stopped=True, vcpus=vcpus))

    @verb
    async def resize_memory(self, uuid: str, memory: int) -> None:
        await self._alone(uuid, lambda: self._resize(uuid, stopped=False, memory=memory))

    @verb
    async def resize_vcpus(self, uuid: str, vcpus: int) -> None:
        await self._alone(uuid, lambda: self._resize(uuid, stopped=False, vcpus=vcpus))

    async def _resize(self, uuid: str, *, stopped: bool, memory: int = 0, vcpus: int = 0) -> None:
        there = await self._container(uuid)
        info = there.info
        if stopped and info.state not in (STOPPED, DomainState.CRASHED):
            raise WrongState(f"Container {info.name} is {info.state}: stop it first.")
        if not stopped and info.state is not RUNNING:
            raise WrongState(f"Container {info.name} is {info.state}, not running.")
        wanted = replace(
            info,
            memory=memory or info.memory,
            max_memory=max(memory, info.max_memory),
            vcpus=vcpus or info.vcpus,
            max_vcpus=max(vcpus, info.max_vcpus),
        )
        if not stopped and (wanted.max_memory, wanted.max_vcpus) != (info.max_memory, info.max_vcpus):
            raise WrongState(
                f"Container {info.name} has at most {info.max_memory} MiB and {info.max_vcpus} CPUs while it runs: "
                "stop it to give it more."
            )
        if wanted == info:
            return
        subject = f"resizing of container {info.name}"
        if memory:
            new, old = self._memory_words(memory), self._old_memory_words(there)
        else:
            new, old = ["--cpus", str(vcpus)], ["--cpus", str(there.listed.cpus)]
        mark = there.identity.mark
        if mark is not None:
            grown = replace(mark, max_vcpus=wanted.max_vcpus, max_memory=wanted.max_memory)
            if grown != mark:
                new, old = [*new, "--description", str(grown)], [*old, "--description", str(mark)]
        await self._set(subject, there.ctid, new, old)
        if memory and not stopped and not await self._check_memory(there, memory):
            await self._set(subject, there.ctid, old, [])
            raise DriverError(f"{subject}: the kernel didn't limit it to {memory} MiB; more may be in use.")
        is_now = (await self._container(uuid)).info
        changed(subject, (wanted.memory, wanted.vcpus), (is_now.memory, is_now.vcpus))


def yes(value: bool) -> str:
    """A boolean as vzctl's argument."""
    return "yes" if value else "no"


def _path(words: str) -> Text:
    return Text(words, longest=1024, pattern=r"/[^\x00-\x1f\x7f:]*", rule="an absolute path")


def _word(words: str) -> Text:
    return Text(words, longest=128, pattern=r"[A-Za-z0-9][A-Za-z0-9._+-]*", rule="letters, digits and ._+-")


@implementer(IDriver)
class OpenVzDriver:
    """OpenVZ through vzctl."""

    name = "openvz"
    summary = "OpenVZ containers through vzctl, 4.x and OpenVZ 7, on this machine or over SSH"
    connection = OpenVzConnection
    options = Struct(
        "settings of an OpenVZ node",
        {
            "template": _word("the OS template of containers whose specifications name none"),
            "layout": Choice("layout of new containers' file systems; default: the node's", choices=("simfs", "ploop")),
            "sample": _word("the sample configuration of new containers; default: the node's"),
            "swap": Int("swap space of each container; default: 0", unit="MiB", low=0),
            "disk_size": Int("size of new containers' file systems; default: the sample's", unit="MiB", low=1),
            "key_file": _path("the private key for SSH, a file on the server; default: the agent's keys"),
            "agent": _path("the SSH agent's socket; default: that of the server's environment"),
            "host_key": Text(
                "the node's public host key, as in its ssh_host_*_key.pub; default: the key in known_hosts",
                longest=4096,
                pattern=r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?",
                rule="type, key, and a comment if any",
            ),
            "known_hosts": Text(
                "the server's file of host keys; default: ~/.ssh/known_hosts",
                longest=1024,
                pattern=r"[~/][^\x00-\x1f\x7f]*",
                rule="a path",
            ),
            "peer_name": Text(
                "the host name under which other nodes reach this one, for vzmigrate; default: the host in the address",
                longest=253,
                pattern=r"[A-Za-z0-9][A-Za-z0-9.:-]*",
                rule="a host name or address",
            ),
            "bin_dir": _path("the directory of vzctl, if it isn't in a usual directory for commands"),
            "conf_dir": _path("the directory of containers' configurations; default: /etc/vz/conf"),
            "freezer_dir": _path(
                "the directory of freezer control groups, for kernels other than OpenVZ's; default: /sys/fs/cgroup/freezer"
            ),
            "memory_dir": _path(
                "the directory of memory control groups, for kernels other than OpenVZ's; default: /sys/fs/cgroup/memory"
            ),
        },
    )

    def check_address(self, address: str) -> None:
        parse_address(address)

    @verb
    async def connect(self, address: str, options: Mapping[str, Any], host: DriverHost) -> OpenVzConnection:
        runner = await self._reach(address, options, host)
        try:
            told = await runner.run(["sh", "-c", PROBE], 20.0)
            if told.code == 127:
                raise Unsupported(f"{runner.where}: vzctl isn't installed.")
            dialect = parse_version(told.stdout)
            cpus, memory = parse_host(told.stdout)
            openvz = is_openvz(dialect, told.stdout)
        except (DriverError, CancelledError):
            await runner.close()
            raise
        return OpenVzConnection(runner, dialect, options, host, cpus, memory, openvz)

    async def _reach(self, address: str, options: Mapping[str, Any], host: DriverHost) -> Runner:
        try:
            there = parse_address(address)
        except ValueError as error:
            raise Unreachable(f"{address}: {error}.") from None
        if there is None:
            return LocalRunner(host, options.get("bin_dir", ""))
        credentials = await host.run(
            read_credentials,
            options.get("key_file", ""),
            options.get("agent", os.environ.get("SSH_AUTH_SOCK", "")),
            options.get("host_key", ""),
            options.get("known_hosts", "~/.ssh/known_hosts"),
        )
        runner = SshRunner(host, there, options.get("bin_dir", ""))
        await runner.open(credentials)
        return runner
