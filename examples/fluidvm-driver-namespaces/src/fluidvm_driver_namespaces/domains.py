"""
The domains of one directory: their definitions are files, their guests are processes. All functions here block.

C{UUID.json} is a definition. The domain's supervisor holds C{UUID.lock} as long as it runs. C{directory.lock} is held during
changes, so that several servers can share a directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from fluidvm.driver import (
    AlreadyThere,
    DomainInfo,
    DomainSpec,
    DomainState,
    DriverError,
    NoSuchThing,
    Unreachable,
    Unsupported,
    WrongState,
)
from fluidvm_driver_namespaces import processes
from fluidvm_driver_namespaces.guest import cpus

SUPERVISOR = Path(__file__).with_name("supervisor.py")
PATIENCE = 20.0
"""Seconds in which a guest's processes must start or end."""
STOPPED, RUNNING, PAUSED = DomainState.STOPPED, DomainState.RUNNING, DomainState.PAUSED
FIELDS = ("uuid", "name", "vcpus", "max_vcpus", "memory", "max_memory", "autostart")


class Domains:
    """
    The domains of a directory.

    @param directory: created if it doesn't exist.
    @param template: the directory with the guests' root file system.
    @raise Unreachable: the directory can't be opened or created.
    """

    def __init__(self, directory: Path, template: Path) -> None:
        self._path = directory
        self._template = template
        try:
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            self._file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Unreachable(f"{directory}: {error.strerror}.") from None

    def close(self) -> None:
        """Close the directory."""
        os.close(self._file)

    def _check(self) -> None:
        """Check the directory. @raise Unreachable: it was unmounted, moved or removed since it was opened."""
        try:
            if os.path.samestat(self._path.stat(), os.fstat(self._file)):
                return
        except OSError:
            pass
        raise Unreachable(f"{self._path} is no longer the same directory.")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self._check()
        with (self._path / "directory.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # looking

    def all(self) -> list[DomainInfo]:
        """List all domains."""
        self._check()
        found = []
        for file in sorted(self._path.glob("*.json")):
            with contextlib.suppress(NoSuchThing):  # undefined meanwhile
                found.append(self.get(file.stem))
        return found

    def get(self, uuid: str) -> DomainInfo:
        """Return one domain. @raise NoSuchThing: there is none."""
        self._check()
        supervisor = processes.holder(self._lock(uuid))
        state = STOPPED
        if supervisor:
            init = processes.init_of(supervisor)
            state = PAUSED if init and processes.frozen(init) else RUNNING
        return DomainInfo(state=state, **self._read(uuid))

    def _definition(self, uuid: str) -> Path:
        return self._path / f"{_checked(uuid)}.json"

    def _lock(self, uuid: str) -> Path:
        return self._path / f"{_checked(uuid)}.lock"

    def _read(self, uuid: str) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = json.loads(self._definition(uuid).read_text())
        except FileNotFoundError:
            raise NoSuchThing(f"There is no domain {uuid} in {self._path}.") from None
        except ValueError as error:
            raise DriverError(f"{self._definition(uuid)} is damaged: {error}.") from None
        return fields

    def _write(self, info: DomainInfo | DomainSpec) -> None:
        """Store a definition atomically, and sync it to the disk."""
        every = asdict(info)
        file = self._definition(info.uuid)
        new = file.with_suffix(".new")
        try:
            with new.open("w") as sink:
                json.dump({field: every[field] for field in FIELDS}, sink)
                sink.flush()
                os.fsync(sink.fileno())
            new.replace(file)
            os.fsync(self._file)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise DriverError(f"{file}: {error.strerror}.") from None

    # defining

    def define(self, spec: DomainSpec) -> None:
        """Define a domain, or replace its definition."""
        if spec.boot.kernel:
            raise Unsupported("A guest in namespaces runs on its host's kernel; it can't boot another one.")
        if spec.disks:
            raise Unsupported("A guest in namespaces has no disks.")
        with self._changing():
            for other in self.all():
                if other.uuid == spec.uuid and other.state is not STOPPED:
                    raise WrongState(f"Domain {other.name} is {other.state}: stop it first.")
                if other.name == spec.name and other.uuid != spec.uuid:
                    raise AlreadyThere(f"There is already another domain {spec.name}.")
            self._write(spec)

    def undefine(self, uuid: str) -> None:
        """Undefine a domain."""
        with self._changing():
            try:
                self._stopped(uuid)
            except NoSuchThing:
                return
            self._definition(uuid).unlink()
            self._lock(uuid).unlink(missing_ok=True)

    def resize(self, uuid: str, **amounts: Any) -> None:
        """Change C{memory} or C{vcpus} of a stopped domain, and raise its maximum if that is less."""
        with self._changing():
            info = self._stopped(uuid)
            most: dict[str, Any] = {
                f"max_{what}": max(amount, getattr(info, f"max_{what}")) for what, amount in amounts.items()
            }
            self._write(replace(info, **amounts, **most))

    def _stopped(self, uuid: str) -> DomainInfo:
        info = self.get(uuid)
        if info.state is not STOPPED:
            raise WrongState(f"Domain {info.name} is {info.state}: stop it first.")
        return info

    # running

    def start(self, uuid: str) -> None:
        """Boot a domain."""
        with self._changing():
            info = self.get(uuid)
            if info.state is PAUSED:
                raise WrongState(f"Domain {info.name} is paused: resume it.")
            if info.state is RUNNING:
                return
            if not self._template.is_dir():
                raise NoSuchThing(f"There is no template {self._template}.")
            self._boot(info)

    def _boot(self, info: DomainInfo) -> None:
        command = [sys.executable, "-I", str(SUPERVISOR), str(self._path), info.uuid, str(self._template)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            said = process.communicate(timeout=PATIENCE)[0].decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            said = f"it isn't running after {PATIENCE:g} s"
        if said:
            self._end(info)
            raise DriverError(f"Domain {info.name} doesn't start: {said}.")

    def stop(self, uuid: str) -> None:
        """Stop a domain."""
        with self._changing():
            self._end(self.get(uuid))

    def _end(self, info: DomainInfo) -> None:
        """Kill a guest's first process, and with it all others, and wait until its supervisor has ended."""
        deadline = time.monotonic() + PATIENCE
        while supervisor := processes.holder(self._lock(info.uuid)):
            init = processes.init_of(supervisor)
            if init:
                _signal(init, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise DriverError(f"Domain {info.name} doesn't stop: process {init or supervisor} still exists.")
            time.sleep(0.005)

    def pause(self, uuid: str) -> None:
        """Pause a running domain."""
        with self._changing():
            info = self.get(uuid)
            if info.state is STOPPED:
                raise WrongState(f"Domain {info.name} is stopped: it can be paused only while it is running.")
            processes.freeze(self._init(info))

    def resume(self, uuid: str) -> None:
        """Resume a paused domain."""
        with self._changing():
            info = self.get(uuid)
            if info.state is STOPPED:
                raise WrongState(f"Domain {info.name} is stopped: start it.")
            if info.state is PAUSED:
                processes.thaw(self._init(info))

    def ask(self, uuid: str, what: signal.Signals, stopped_too: bool) -> None:
        """
        Send a signal to a guest's init; a guest that is just booting can miss it.

        @param stopped_too: whether to ignore a stopped domain instead of raising an error.
        """
        with self._changing():
            info = self.get(uuid)
            if info.state is PAUSED:
                raise WrongState(f"Domain {info.name} is paused: resume it first.")
            if info.state is STOPPED and not stopped_too:
                raise WrongState(f"Domain {info.name} is stopped: start it.")
            init = processes.init_of(processes.holder(self._lock(uuid)))
            if init:
                _signal(init, what)

    def _init(self, info: DomainInfo) -> int:
        """The first process of a running domain; this waits if the guest is just rebooting."""
        deadline = time.monotonic() + PATIENCE
        while supervisor := processes.holder(self._lock(info.uuid)):
            init = processes.init_of(supervisor)
            if init:
                return init
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)
        raise WrongState(f"Domain {info.name} stopped just now.")

    def resize_live(self, uuid: str, **amounts: Any) -> None:
        """Change C{memory} or C{vcpus} of a running domain, up to its maximum."""
        with self._changing():
            info = self.get(uuid)
            if info.state is not RUNNING:
                raise WrongState(f"Domain {info.name} is {info.state}, not running.")
            for what, amount in amounts.items():
                most = getattr(info, f"max_{what}")
                if amount > most:
                    raise WrongState(f"Domain {info.name} runs with at most {most} ({what}): stop it to give it more.")
            wanted = replace(info, **amounts)
            try:
                self._limit(wanted)
                self._write(wanted)
            except DriverError:
                self._limit(info)
                raise

    def _limit(self, info: DomainInfo) -> None:
        init = self._init(info)
        processes.limit_memory(init, info.memory)
        processes.limit_cpus(init, cpus(info.uuid, info.vcpus))


def _checked(uuid: str) -> str:
    """Check a UUID, which becomes part of a path. @raise NoSuchThing: it isn't a UUID, so no domain has it."""
    try:
        if str(UUID(uuid)) == uuid:
            return uuid
    except ValueError:
        pass
    raise NoSuchThing(f"{uuid!r} isn't the UUID of a domain.")


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
