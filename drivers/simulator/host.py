"""The simulator's host: domains and volumes in memory, stored in a journal."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from fluidvm.driver import (
    AlreadyThere,
    Boot,
    DomainDisk,
    DomainInfo,
    DomainInterface,
    DomainSpec,
    DomainState,
    DriverError,
    HostInfo,
    Network,
    NoSuchThing,
    Shares,
    Volume,
    WrongState,
)
from fluidvm.drivers.simulator.journal import Journal

POOL = "default"
NETWORKS = (Network("default", True, "sim0"), Network("lan", True, "sim1"))
TEMPLATES = ("alpine-3.20", "debian-12")
OFF = (DomainState.STOPPED, DomainState.CRASHED)
ON = (DomainState.RUNNING, DomainState.PAUSED)


class SimulatedHost:
    """
    One simulated host; there is one per state directory and process, however many connections it has.

    @ivar connections: the open ones, which are notified of each state change.
    @ivar seconds: returns the time, by the clock of the last connection.
    """

    _hosts: ClassVar[WeakValueDictionary[Path, SimulatedHost]] = WeakValueDictionary()

    @classmethod
    def at(cls, directory: Path, options: Mapping[str, Any]) -> SimulatedHost:
        """
        Return the host of a directory.

        @param options: the driver's: C{vcpus}, C{memory}, C{pool_size}, C{deaf}, C{log_calls}.
        """
        host = cls._hosts.get(directory)
        if host is None:
            host = cls._hosts[directory] = cls(directory)
        host.options = options
        return host

    def __init__(self, directory: Path | None) -> None:
        """@param directory: where the journal is; C{None}: a host that isn't stored, with pools of any name."""
        self.options: Mapping[str, Any] = {}
        self.connections: list[Any] = []
        self.seconds: Callable[[], float] = time.time
        self._domains: dict[str, DomainInfo] = {}
        self._volumes: dict[str, Volume] = {}
        self._paths: Counter[str] = Counter()
        self._boots: dict[str, dict[str, Any]] = {}
        self._shares: dict[str, dict[str, Any]] = {}
        self._kept: dict[str, list[dict[str, Any]]] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        self._directory = directory
        self._journal: Journal | None = None
        if directory is not None:
            self._journal = Journal(directory / "simulator.journal")
            self._load(self._journal)

    def _load(self, journal: Journal) -> None:
        for (kind, key), value in journal.state.items():
            if kind == "volume":
                self._place(key, Volume(**value))
            elif kind == "boot":
                self._boots[key] = value
            elif kind == "shares":
                self._shares[key] = value
            elif kind == "snapshots":
                self._kept[key] = value
            elif kind == "notes":
                self._notes[key] = value
            else:
                disks = tuple(DomainDisk(**disk) for disk in value["disks"])
                interfaces = tuple(DomainInterface(**interface) for interface in value.get("interfaces", ()))
                state = DomainState(value["state"])
                self._domains[key] = DomainInfo(**{**value, "state": state, "disks": disks, "interfaces": interfaces})

    def __del__(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def log_call(self, verb: str, subject: str) -> None:
        """Log that a verb took effect on a domain (UUID) or a volume (name), if the option C{log_calls} is set."""
        if self.options.get("log_calls") and self._directory is not None:
            file = os.open(self._directory / "calls.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(file, f"{time.time():.6f} {verb} {subject}\n".encode())
            os.close(file)

    def _remember(self, kind: str, key: str, value: Any) -> None:
        if self._journal is not None:
            self._journal.write(kind, key, value)

    def add(self, domain: DomainInfo) -> None:
        """Store a domain as it is."""
        self._domains[domain.uuid] = domain

    def add_volume(self, volume: Volume) -> None:
        """Store a volume as it is."""
        self._place(key_of(volume.pool, volume.name), volume)

    def forget(self, connection: Any) -> None:
        """Remove a closed connection."""
        self.connections.remove(connection)

    def cut(self, reason: str) -> None:
        """Lose all connections, as if the host had failed."""
        for connection in list(self.connections):
            connection.cut(reason)

    def info(self) -> HostInfo:
        """Describe the host."""
        return HostInfo(self.options.get("vcpus", 64), self.options.get("memory", 262144), "simulated 1.0", "simulator 1.0")

    # domains

    def domains(self) -> list[DomainInfo]:
        """List all domains."""
        return list(self._domains.values())

    def domain(self, uuid: str) -> DomainInfo:
        """Return one domain."""
        try:
            return self._domains[uuid]
        except KeyError:
            raise NoSuchThing(f"There is no domain {uuid} on the simulated host.") from None

    def _put(self, domain: DomainInfo) -> None:
        before = self._domains.get(domain.uuid)
        if domain == before:
            return
        self._remember("domain", domain.uuid, {**asdict(domain), "state": str(domain.state)})
        self._domains[domain.uuid] = domain
        if domain.state in ON and (before is None or before.state not in ON):
            self.note(domain.uuid, started=self.seconds())
        if before is None or before.state is not domain.state:
            self._tell(domain.uuid, domain.state)

    def _tell(self, uuid: str, state: DomainState | None) -> None:
        for connection in list(self.connections):
            connection.tell(uuid, state)

    def define(self, spec: DomainSpec) -> None:
        """Define a domain, or replace its definition."""
        before = self._domains.get(spec.uuid)
        if before is not None and before.state not in OFF:
            raise WrongState(f"Domain {before.name} is {before.state}: stop it first.")
        if self._journal is not None and spec.template and spec.template not in TEMPLATES:
            raise NoSuchThing(f"There is no template {spec.template} on the simulated host.")
        for other in self._domains.values():
            if other.name == spec.name and other.uuid != spec.uuid:
                raise AlreadyThere(f"There is already another domain {spec.name}.")
        for disk in spec.disks:
            self._check_file(disk)
        for interface in spec.interfaces:
            self.check_network(interface.network)
        boot = None if spec.boot == Boot() else asdict(spec.boot) | {"order": list(spec.boot.order)}
        if self._boots.get(spec.uuid) != boot:
            self._remember_boot(spec.uuid, boot)
        self._put(
            DomainInfo(
                spec.uuid,
                spec.name,
                DomainState.STOPPED,
                spec.vcpus,
                spec.max_vcpus,
                spec.memory,
                spec.max_memory,
                spec.disks,
                spec.autostart,
                spec.interfaces,
            )
        )
        self.put_shares(spec.uuid, spec.shares)

    def _remember_boot(self, uuid: str, boot: dict[str, Any] | None) -> None:
        self._remember("boot", uuid, boot)
        if boot is None:
            del self._boots[uuid]
        else:
            self._boots[uuid] = boot

    def boot(self, uuid: str) -> dict[str, Any]:
        """What a domain boots: L{Boot}'s fields."""
        return self._boots.get(uuid, {})

    def undefine(self, uuid: str) -> None:
        """Undefine a domain."""
        domain = self._domains.get(uuid)
        if domain is None:
            return
        if domain.state not in OFF:
            raise WrongState(f"Domain {domain.name} is {domain.state}: stop it first.")
        self.remove(uuid)

    def remove(self, uuid: str) -> None:
        """Remove a domain in any state."""
        self._remember("domain", uuid, None)
        del self._domains[uuid]
        if uuid in self._boots:
            self._remember_boot(uuid, None)
        if uuid in self._notes:
            self._remember("notes", uuid, None)
            del self._notes[uuid]
        if uuid in self._shares:
            self._remember("shares", uuid, None)
            del self._shares[uuid]
        self.keep(uuid, [])
        self._tell(uuid, None)

    def _become(self, uuid: str, state: DomainState, allowed: tuple[DomainState, ...], needs: str) -> None:
        domain = self.domain(uuid)
        if domain.state is not state and domain.state not in allowed:
            raise WrongState(f"Domain {domain.name} is {domain.state}: {needs}.")
        self._put(replace(domain, state=state))

    def put_state(self, uuid: str, state: DomainState) -> None:
        """Change a domain's state."""
        self._put(replace(self.domain(uuid), state=state))

    def start(self, uuid: str) -> None:
        """Boot a domain."""
        domain = self.domain(uuid)
        for disk in domain.disks if domain.state in OFF else ():
            self._check_file(disk)
        self._become(uuid, DomainState.RUNNING, OFF, "resume it")

    def shutdown(self, uuid: str) -> None:
        """Ask the guest to shut down, which it does at once unless it is deaf."""
        domain = self.domain(uuid)
        if domain.state is DomainState.PAUSED:
            raise WrongState(f"Domain {domain.name} is paused: resume it first.")
        if not self.options.get("deaf") and domain.state is DomainState.RUNNING:
            self._put(replace(domain, state=DomainState.STOPPED))

    def stop(self, uuid: str) -> None:
        """Stop a domain."""
        self._put(replace(self.domain(uuid), state=DomainState.STOPPED))

    def reboot(self, uuid: str) -> None:
        """Ask the guest to reboot; the domain's state doesn't change."""
        domain = self.domain(uuid)
        if domain.state is not DomainState.RUNNING:
            raise WrongState(f"Domain {domain.name} is {domain.state}: it can be rebooted only while it is running.")

    def pause(self, uuid: str) -> None:
        """Pause a domain."""
        self._become(uuid, DomainState.PAUSED, (DomainState.RUNNING,), "it can be paused only while it is running")

    def resume(self, uuid: str) -> None:
        """Resume a domain."""
        self._become(uuid, DomainState.RUNNING, (DomainState.PAUSED,), "it can be resumed only while it is paused")

    def resize(self, uuid: str, *, memory: int = 0, vcpus: int = 0) -> None:
        """Resize a stopped domain, and raise its maximum if that is less."""
        domain = self.domain(uuid)
        if domain.state not in OFF:
            raise WrongState(f"Domain {domain.name} is {domain.state}: stop it first.")
        memory, vcpus = memory or domain.memory, vcpus or domain.vcpus
        self._put(
            replace(
                domain,
                memory=memory,
                max_memory=max(memory, domain.max_memory),
                vcpus=vcpus,
                max_vcpus=max(vcpus, domain.max_vcpus),
            )
        )

    def resize_live(self, uuid: str, *, memory: int = 0, vcpus: int = 0) -> None:
        """Resize a running domain, up to its maximum."""
        domain = self.domain(uuid)
        if domain.state is not DomainState.RUNNING:
            raise WrongState(f"Domain {domain.name} is {domain.state}, not running.")
        if memory > domain.max_memory:
            raise WrongState(
                f"Domain {domain.name} has at most {domain.max_memory} MiB while it runs: stop it to give it more."
            )
        if vcpus > domain.max_vcpus:
            raise WrongState(
                f"Domain {domain.name} has at most {domain.max_vcpus} CPUs while it runs: stop it to give it more."
            )
        self._put(replace(domain, memory=memory or domain.memory, vcpus=vcpus or domain.vcpus))

    def put_interfaces(self, uuid: str, interfaces: tuple[DomainInterface, ...]) -> None:
        """Replace a domain's interfaces."""
        self._put(replace(self.domain(uuid), interfaces=interfaces))

    def check_network(self, name: str) -> None:
        """@raise NoSuchThing: there is no such network."""
        if self._journal is not None and all(network.name != name for network in NETWORKS):
            raise NoSuchThing(f"There is no network {name} on the simulated host.")

    def put_shares(self, uuid: str, shares: Shares) -> None:
        """Set a domain's shares and rates, for the disks and interfaces that it has now."""
        domain = self.domain(uuid)
        held = {
            "cpu_shares": shares.cpu_shares,
            "disks": {disk.target: [shares.disk_iops, shares.disk_mbps] for disk in domain.disks},
            "interfaces": {interface.mac: shares.network_mbps for interface in domain.interfaces},
        }
        if shares == Shares() and uuid not in self._shares:
            return
        if self._shares.get(uuid) != held:
            self._remember("shares", uuid, held)
            self._shares[uuid] = held

    def shares(self, uuid: str) -> Shares:
        """A domain's shares and rates."""
        domain = self.domain(uuid)
        held = self._shares.get(uuid, {"cpu_shares": Shares.cpu_shares, "disks": {}, "interfaces": {}})
        disks = {tuple(held["disks"].get(disk.target, (None, None))) for disk in domain.disks}
        interfaces = {held["interfaces"].get(interface.mac) for interface in domain.interfaces}
        iops, mbps = disks.pop() if len(disks) == 1 else (None, None)
        return Shares(held["cpu_shares"], iops, mbps, interfaces.pop() if len(interfaces) == 1 else None)

    def notes(self, uuid: str) -> dict[str, Any]:
        """Further data of a domain and its guest, by name."""
        return self._notes.get(uuid, {})

    def note(self, uuid: str, **news: Any) -> None:
        """Store further data of a domain."""
        self.domain(uuid)
        notes = {**self.notes(uuid), **news}
        if notes != self.notes(uuid):
            self._remember("notes", uuid, notes)
            self._notes[uuid] = notes

    def kept(self, uuid: str) -> list[dict[str, Any]]:
        """A domain's snapshots."""
        return self._kept.get(uuid, [])

    def keep(self, uuid: str, kept: list[dict[str, Any]]) -> None:
        """Store a domain's snapshots."""
        if kept != self.kept(uuid):
            self._remember("snapshots", uuid, kept or None)
            self._kept[uuid] = kept

    # disks

    def _check_pool(self, pool: str) -> None:
        if pool != POOL and self._journal is not None:
            raise NoSuchThing(f"There is no storage pool {pool} on the simulated host, only {POOL}.")

    def _check_file(self, disk: DomainDisk) -> None:
        if not self._paths[disk.path]:
            raise NoSuchThing(f"There is no volume {disk.path} on the simulated host.")

    def volumes(self, pool: str) -> list[Volume]:
        """List a pool's volumes."""
        self._check_pool(pool)
        return [volume for volume in self._volumes.values() if volume.pool == pool]

    def create_volume(self, pool: str, name: str, size: int, format: str) -> Volume:
        """Create a volume."""
        self._check_pool(pool)
        volume = Volume(pool, name, f"/simulated/{pool}/{name}", format, size)
        key = key_of(pool, name)
        there = self._volumes.get(key)
        if there is not None:
            if there != volume:
                raise AlreadyThere(f"There is already another volume {name}.")
            return there
        self.check_room(size)
        self.put_volume(volume)
        return volume

    def check_room(self, size: int) -> None:
        """Check the free space. @raise DriverError: the pool doesn't have so many MiB left."""
        room = self.options.get("pool_size")
        if room is not None and sum(other.size for other in self._volumes.values()) + size > room:
            raise DriverError(f"Storage pool {POOL} has no space for {size} MiB.")

    def put_volume(self, volume: Volume) -> None:
        """Add or replace a volume."""
        key = key_of(volume.pool, volume.name)
        self._remember("volume", key, asdict(volume))
        self._place(key, volume)

    def _place(self, key: str, volume: Volume | None) -> None:
        """Add, replace or remove a volume. Paths are counted, as each start checks them."""
        before = self._volumes.get(key)
        if before is not None:
            self._paths[before.path] -= 1
        if volume is None:
            del self._volumes[key]
        else:
            self._volumes[key] = volume
            self._paths[volume.path] += 1

    def bytes_of(self, key: str) -> Path:
        """The file with the data written to a volume; it doesn't exist before the first write."""
        return (self._directory or Path("/nonexistent")) / "volumes" / key.replace("/", ":")

    def all_volumes(self) -> list[Volume]:
        """List the volumes of all pools."""
        return list(self._volumes.values())

    def delete_volume(self, pool: str, name: str) -> None:
        """Delete a volume."""
        self._check_pool(pool)
        key = key_of(pool, name)
        if key in self._volumes:
            self._remember("volume", key, None)
            self._place(key, None)
            self.bytes_of(key).unlink(missing_ok=True)
            self.keep(f"volume {key}", [])

    def attach(self, uuid: str, disk: DomainDisk) -> None:
        """Attach a disk."""
        domain = self.domain(uuid)
        self._check_file(disk)
        if disk in domain.disks:
            return
        if any(other.target == disk.target for other in domain.disks):
            raise AlreadyThere(f"Domain {domain.name} already has another disk {disk.target}.")
        self._put(replace(domain, disks=(*domain.disks, disk)))

    def detach(self, uuid: str, target: str) -> None:
        """Detach a disk."""
        domain = self.domain(uuid)
        self._put(replace(domain, disks=tuple(disk for disk in domain.disks if disk.target != target)))


def key_of(pool: str, name: str) -> str:
    return name if pool == POOL else f"{pool}/{name}"
