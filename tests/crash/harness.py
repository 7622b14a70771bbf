"""
The crash harness: a real server under a seeded random workload, killed with SIGKILL at random instants.

    python -m tests.crash.harness --seed 7 --kills 20 [--libvirt]

prints what it found wrong, and fails if it found anything. What it looks at, it looks at from outside: over XML-RPC, in the
simulator's journals, on the libvirt host itself.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import xmlrpc.client
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluidvm.drivers.libvirt.domain_xml import KEEPER_PREFIX, parse_domain
from fluidvm.drivers.simulator.host import SimulatedHost
from tests import TIMEOUT

from .told import END, told

PASSWORD = "killed at random instants"
USERS = 4
LIMITS = {"vms": 12, "running_vms": 4, "vcpus": 18, "memory": 1000, "disks": 14, "disk_space": 18, "snapshots": 8}
CHEAP = ("--password-memory", "8", "--password-rounds", "1", "--password-lanes", "1")
"""Every kill makes all users log in again: with the least work that argon2id allows."""
AT_ONCE = 0.15
"""How many of the kills come before the server that has just started has been given any work."""
TWISTD = Path(__file__).with_name("told.py")
"""The program, which tells what it waits for."""
MOST_TOLD = 20_000
"""Characters of that."""
GONE = (OSError, xmlrpc.client.ProtocolError, http.client.HTTPException)
"""What a client sees of a server that was killed."""


@dataclass
class Committed:
    """
    A context whose number a client was told.

    @ivar tasks: methods and targets, in order.
    @ivar seen: the outcomes, once a client has seen it complete.
    @ivar made: the UUIDs of the VMs that it made, when it was seen complete, and their ids.
    """

    tasks: list[tuple[str, int]]
    seen: list[tuple[int, str]] | None = None
    made: dict[str, tuple[float, int]] = field(default_factory=dict)


@dataclass
class Findings:
    """What the harness found wrong, and how much it looked at."""

    wrong: list[str] = field(default_factory=list)
    contexts: int = 0
    tasks: int = 0
    vms: int = 0


class Program:
    """The server's process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            sys.executable,
            str(TWISTD),
            "--nodaemon",
            "--pidfile=",
            "fluidvm",
            "--state",
            str(self.directory / "state"),
            "--http",
            f"tcp:{self.port}:interface=127.0.0.1",
            "--keepalive",
            "any-call",
            *CHEAP,
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "FLUIDVM_ADMIN_PASSWORD": PASSWORD}
            )
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                self.proxy().system.listMethods()
                return
            except GONE:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server doesn't start:\n{self.log()[-3000:]}") from None
            time.sleep(0.03)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(TIMEOUT)

    def proxy(self) -> Any:
        """A client."""
        return xmlrpc.client.ServerProxy(f"http://127.0.0.1:{self.port}/RPC2", use_builtin_types=True)

    def waits(self) -> str:
        """What everything in it waits for, now; empty: it can't tell."""
        if self._process is None or self._process.poll() is not None:
            return ""
        before = self.log().count(END)
        self._process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + TIMEOUT / 10
        while self.log().count(END) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        return told(self.log())[:MOST_TOLD]

    def log(self) -> str:
        """All that the server has logged."""
        return (self.directory / "log").read_text(errors="replace")


class Worker(threading.Thread):
    """One user at work: logs in again whenever the server has died."""

    def __init__(self, program: Program, number: int, random: random.Random, pool: str) -> None:
        super().__init__(daemon=True)
        self.committed: dict[int, Committed] = {}
        self.stopping = False
        self.failure = ""
        self._program = program
        self._name = f"user{number}"
        self._random = random
        self._pool = pool
        self._count = 0

    def run(self) -> None:
        """Until it is told to stop."""
        while not self.stopping:
            try:
                proxy = self._program.proxy()
                cookie = proxy.authenticate(self._name, PASSWORD)
                while not self.stopping:
                    self._batch(proxy, cookie)
            except GONE:
                time.sleep(0.02)
            except xmlrpc.client.Fault as fault:
                # 401: the server has died since the login; 503: it, or a node, is on its way up.
                if fault.faultCode not in (401, 503):
                    self.failure = f"{self._name}: fault {fault.faultCode}: {fault.faultString}"
                    return

    def _batch(self, proxy: Any, cookie: int) -> None:
        vms = [vm["id"] for vm in proxy.list_vms(cookie, {"fields": ["id"]})]
        tasks: list[tuple[str, int]] = []
        for _ in range(self._random.randint(1, 5)):
            try:
                tasks.append(self._task(proxy, cookie, vms))
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != 404:  # deleted meanwhile
                    raise
        number = proxy.commit_tasks(cookie, {"on_error": self._random.choice(["continue", "continue", "stop"])})
        committed = self.committed[number] = Committed(tasks)
        chance = self._random.random()
        if chance < 0.1:
            proxy.cancel_tasks(cookie, number)
        if chance < 0.6 and proxy.wait_for_tasks(cookie, number, 2):
            now = time.time()
            committed.seen = outcomes(proxy.get_execution_context(cookie, number))
            for (method, vm), (code, _) in zip(tasks, committed.seen, strict=True):
                if method == "create_vm" and not code:
                    try:
                        committed.made[proxy.get_vm(cookie, vm)["uuid"]] = now, vm
                    except xmlrpc.client.Fault as fault:
                        if fault.faultCode != 404:  # deleted meanwhile
                            raise

    def _task(self, proxy: Any, cookie: int, vms: list[int]) -> tuple[str, int]:
        self._count += 1
        name = f"{self._name}-{self._count}-{self._random.randrange(10**9)}"
        chance = self._random.random()
        if chance < 0.3 or not vms:
            disks = [{"size": 1, "pool": self._pool}] * self._random.randint(0, 2)
            vm = proxy.create_vm(cookie, {"name": name, "memory": 64, "disks": disks})
            vms.append(vm)
            return "create_vm", vm
        if chance < 0.36:
            return "create_disk", proxy.create_disk(cookie, {"name": name, "size": 1, "pool": self._pool})
        if chance < 0.42:
            volumes: list[int] = [one["id"] for one in proxy.list_disks(cookie, {"state": "ready", "fields": ["id"]})]
            if volumes:
                disk = self._random.choice(volumes)
                chosen = self._random.random()
                if chosen < 0.4:
                    return self._disk_snapshot(proxy, cookie, disk)
                if chosen < 0.7:
                    return "resize_disk", proxy.resize_disk(cookie, disk, self._random.choice([2, 3]))
                return "clone_disk", proxy.clone_disk(cookie, disk, name)
        if chance < 0.56:
            vm = self._random.choice(vms)
            kept = [one["id"] for one in proxy.list_vm_snapshots(cookie, vm)]
            if not kept or self._random.random() < 0.5:
                return "create_vm_snapshot", proxy.create_vm_snapshot(cookie, vm, self._random.choice(["a", "b", "c"]))
            method = self._random.choice(["revert_vm_snapshot", "delete_vm_snapshot"])
            return method, getattr(proxy, method)(cookie, vm, self._random.choice(kept))
        methods = ["delete_vm", "set_vm_memory", "set_vm_vcpus"]
        if self._pool == "default":  # real guests take seconds to boot
            methods += ["start_vm", "stop_vm", "pause_vm", "resume_vm", "start_vm", "stop_vm", "migrate_vm"]
        method = self._random.choice(methods)
        arguments: dict[str, list[Any]] = {
            "set_vm_memory": [self._random.choice([64, 96, 128])],
            "set_vm_vcpus": [self._random.choice([1, 2])],
            "migrate_vm": [self._random.choice([1, 2]), {"live": True, "copy_storage": True}],
        }
        return method, getattr(proxy, method)(cookie, self._random.choice(vms), *arguments.get(method, []))

    def _disk_snapshot(self, proxy: Any, cookie: int, disk: int) -> tuple[str, int]:
        kept = [one["id"] for one in proxy.list_disk_snapshots(cookie, disk)]
        if not kept or self._random.random() < 0.5:
            name = self._random.choice(["a", "b", "c"])
            return "create_disk_snapshot", proxy.create_disk_snapshot(cookie, disk, name)
        method = self._random.choice(["revert_disk_snapshot", "delete_disk_snapshot"])
        return method, getattr(proxy, method)(cookie, disk, self._random.choice(kept))


def outcomes(context: dict[str, Any]) -> list[tuple[int, str]]:
    """The outcome of each task: code and words."""
    return [(task["code"], error) for task, error in zip(context["tasks"], context["errors"], strict=True)]


def run(seed: int, kills: int, host: Any = None, busy: float = 1.0) -> Findings:
    """
    Run the workload and the kills, let everything end, and look.

    @param host: a L{lab.host.LibvirtHost} that runs; C{None}: two simulated nodes.
    @param busy: seconds at most between two kills.
    """
    chance = random.Random(seed)
    directory = Path(tempfile.mkdtemp(prefix="fluidvm-crash-"))
    program = Program(directory)
    findings = Findings()
    try:
        program.start()
        proxy = program.proxy()
        cookie = proxy.authenticate("admin", PASSWORD)
        plan = proxy.create_resource_plan(cookie, "bounded", LIMITS)
        for number in range(USERS):
            proxy.create_user(cookie, f"user{number}", PASSWORD, {"resource_plan": plan})
        if host is None:
            pool = "default"
            options: dict[str, Any] = {"delay": 0.01, "memory": 10**7, "log_calls": True}
            for number in range(2):
                proxy.add_compute_node(cookie, f"node{number}", "simulator", "", options)
        else:
            pool = f"crash{seed}"
            options = {"accelerator": "emulate", "pool": pool, "pool_path": str(host.directory / pool)}
            proxy.add_compute_node(cookie, "real", "kvm", host.uri, options)
        ready = proxy.commit_tasks(cookie)
        proxy.wait_for_tasks(cookie, ready, 25)
        workers = [Worker(program, number, random.Random(f"{seed}-{number}"), pool) for number in range(USERS)]
        for worker in workers:
            worker.start()
        for _ in range(kills):
            if chance.random() >= AT_ONCE:
                _wait_for_work(workers)
            time.sleep(chance.uniform(0.0, busy))
            if host is None and chance.random() < 0.3:
                _evacuate(program, 1)  # always the same: the other one has room for what is made meanwhile
            program.kill()
            program.start()
        time.sleep(busy)
        for worker in workers:
            worker.stopping = True
        for worker in workers:
            worker.join(TIMEOUT)
            if worker.failure:
                findings.wrong.append(worker.failure)
        committed = {number: context for worker in workers for number, context in worker.committed.items()}
        _look(program, committed, findings, host, pool)
        if "Traceback" in program.log():
            place = program.log().index("Traceback")
            findings.wrong.append(f"the log has a traceback: {program.log()[max(0, place - 300) : place + 2000]}")
    finally:
        program.kill()
        shutil.rmtree(directory, ignore_errors=True)
    return findings


def _wait_for_work(workers: list[Worker]) -> None:
    """Wait until something more has been committed, however slow the machine is; or nobody is left to commit anything."""
    before = sum(len(worker.committed) for worker in workers)
    deadline = time.monotonic() + TIMEOUT
    while sum(len(worker.committed) for worker in workers) == before and time.monotonic() < deadline:
        if not any(worker.is_alive() for worker in workers):
            return
        time.sleep(0.01)


def _evacuate(program: Program, node: int) -> None:
    """Begin to move all VMs away from a node, which takes others afterwards; a server that is busy starting is let be."""
    with contextlib.suppress(OSError, xmlrpc.client.Fault):
        proxy = program.proxy()
        cookie = proxy.authenticate("admin", PASSWORD)
        proxy.evacuate_compute_node(cookie, node)
        proxy.set_compute_node_mode(cookie, node, "active")
        proxy.commit_tasks(cookie)
        time.sleep(0.2)


def _look(program: Program, committed: dict[int, Committed], findings: Findings, host: Any, pool: str) -> None:
    wrong = findings.wrong
    proxy = program.proxy()
    cookie = proxy.authenticate("admin", PASSWORD)
    deadline = time.monotonic() + TIMEOUT
    listed = proxy.list_execution_contexts(cookie)
    if len({context["id"] for context in listed}) != len(listed):
        wrong.append("a context is listed twice")
    for context in listed:
        while not proxy.wait_for_tasks(cookie, context["id"], 5):
            if time.monotonic() > deadline:
                wrong.append(f"context {context['id']} doesn't end: {proxy.get_execution_context(cookie, context['id'])}")
                break
    if wrong:
        # Twice: what goes round for ever is elsewhere then.
        wrong += [f"what waits for what: {program.waits()}" for _ in range(2)]
        return
    listed = proxy.list_execution_contexts(cookie)
    for number in sorted(set(committed) - {context["id"] for context in listed}):
        wrong.append(f"context {number} was committed and is lost")
    for number, known in committed.items():
        found = proxy.get_execution_context(cookie, number)
        tasks = [(task["method"], task["target"]) for task in found["tasks"]]
        if tasks != known.tasks:
            wrong.append(f"context {number} has tasks {tasks}, not {known.tasks}")
        if known.seen is not None and outcomes(found) != known.seen:
            wrong.append(f"context {number} ended again: {known.seen}, then {outcomes(found)}")
        ends = [task["finished"] for task in found["tasks"]]
        begins = [task.get("started") for task in found["tasks"]]
        for end, begin in zip(ends, begins[1:], strict=False):
            cancelled = "cancelled" in found["errors"]
            if begin is not None and begin < end and not cancelled:
                wrong.append(f"context {number}: a task began before the one before it had ended")
        wrong += [f"context {number}: {error}" for error in found["errors"] if "incident" in error]
        if host is None:  # simulated nodes are always there, and have room
            wrong += [f"context {number}: {error}" for error in found["errors"] if "No compute node fits" in error]
        findings.tasks += len(tasks)
    findings.contexts = len(listed)
    vms, disks = proxy.list_vms(cookie), proxy.list_disks(cookie)
    findings.vms = len(vms)
    kept = {vm["id"]: _names(proxy.list_vm_snapshots(cookie, vm["id"], {"fields": ["name"]})) for vm in vms}
    of_disks = {
        disk.get("path", ""): _names(proxy.list_disk_snapshots(cookie, disk["id"], {"fields": ["name"]})) for disk in disks
    }
    for node in proxy.list_compute_nodes(cookie):
        own = [vm for vm in vms if vm["compute_node"] == node["id"]]
        sums = (len(own), sum(vm["max_vcpus"] for vm in own), sum(vm["max_memory"] for vm in own))
        if sums != (node["vms"], node["vcpus_used"], node["memory_used"]):
            wrong.append(f"compute node {node['name']} doesn't add up: {node}, {sums}")
    _look_at_usage(proxy, cookie, vms, disks, wrong)
    program.stop()
    if host is None:
        _look_at_calls(program, committed, _half_gone_back(listed), wrong)
    real, volumes = _simulated(program) if host is None else _libvirt(host, pool)
    said = {vm["uuid"]: (vm["state"], vm["memory"], vm["vcpus"], kept[vm["id"]]) for vm in vms}
    for uuid in sorted(set(real) | set(said)):
        if real.get(uuid) != said.get(uuid):
            story = _story(listed, {vm["id"] for vm in vms if vm["uuid"] == uuid})
            wrong.append(f"VM {uuid}: the hypervisor has {real.get(uuid)}, the server {said.get(uuid)}; {story}")
    paths = sorted(disk.get("path", f"none: {disk}") for disk in disks)
    if len(set(paths)) != len(paths) or set(paths) != set(volumes):
        wrong.append(f"volumes differ: only real {set(volumes) - set(paths)}, only listed {set(paths) - set(volumes)}")
    for path in paths:
        if volumes.get(path, "") != of_disks.get(path):
            wrong.append(f"snapshots of volume {path}: real {volumes.get(path)}, listed {of_disks.get(path)}")


def _look_at_usage(
    proxy: Any, cookie: int, vms: list[dict[str, Any]], disks: list[dict[str, Any]], wrong: list[str]
) -> None:
    """What each user is said to hold is what it holds, and no more than its plan has."""
    for user in proxy.list_users(cookie, {"role": "user"}):
        own = [vm for vm in vms if vm["owner"] == user["id"]]
        volumes = [disk for disk in disks if disk["owner"] == user["id"]]
        sizes = [disk["size"] for disk in volumes]
        held = {
            "vms": len(own),
            "running_vms": sum(vm["state"] in ("running", "paused") for vm in own),
            "vcpus": sum(vm["max_vcpus"] for vm in own),
            "memory": sum(vm["max_memory"] for vm in own),
            "disks": len(sizes),
            "disk_space": sum(sizes),
            "snapshots": sum(thing["snapshots"] for thing in [*own, *volumes]),
        }
        said = {limit: told["used"] for limit, told in proxy.get_user_usage(cookie, user["id"]).items() if limit in held}
        if said != held:
            wrong.append(f"{user['name']} is said to hold {said}, and holds {held}")
        for limit, most in LIMITS.items():
            if held[limit] > most:
                wrong.append(f"{user['name']} holds {held[limit]} of {limit}, over the limit of {most}")


def _story(contexts: list[dict[str, Any]], vms: set[int]) -> list[str]:
    """What was done to VMs, as the contexts tell it."""
    return [
        f"EC {context['id']} {task['method']}: {error or 'done'} ({task.get('started')} to {task.get('finished')})"
        for context in reversed(contexts)
        for task, error in zip(context["tasks"], context["errors"], strict=True)
        if task["target_type"] == "vm" and task["target"] in vms
    ]


def _half_gone_back(contexts: list[dict[str, Any]]) -> set[int]:
    """The VMs that were going back to a snapshot when the server died: they are defined anew, to have their definition."""
    return {
        task["target"]
        for context in contexts
        for task, error in zip(context["tasks"], context["errors"], strict=True)
        if task["method"] == "revert_vm_snapshot" and "interrupted" in error
    }


def _look_at_calls(program: Program, committed: dict[int, Committed], redefined: set[int], wrong: list[str]) -> None:
    """What was seen complete didn't run again: nothing that it made was made once more."""
    made = {uuid: when for context in committed.values() for uuid, (when, vm) in context.made.items() if vm not in redefined}
    calls = 0
    for log in (program.directory / "state").glob("node-*/calls.log"):
        for line in log.read_text().splitlines():
            when, verb, subject = line.split(" ")
            calls += 1
            if verb == "define_domain" and subject in made and float(when) > made[subject]:
                wrong.append(f"VM {subject} was made again at {when}, though it was complete at {made[subject]:.6f}")
    if not calls:
        wrong.append("the log of the driver's calls is empty")


Domains = dict[str, tuple[str, int, int, str]]
"""State, memory, CPUs, and the names of the snapshots."""


def _names(told: list[dict[str, Any]]) -> str:
    return " ".join(sorted(one["name"] for one in told))


Volumes = dict[str, str]
"""By path, the names of the snapshots."""


def _simulated(program: Program) -> tuple[Domains, Volumes]:
    domains: Domains = {}
    volumes: Volumes = {}
    for journal in (program.directory / "state").glob("node-*/simulator.journal"):
        host = SimulatedHost.at(journal.parent, {})
        for domain in host.domains():
            names = _names([one["snapshot"] for one in host.kept(domain.uuid)])
            domains[domain.uuid] = (str(domain.state), domain.memory, domain.vcpus, names)
        # Both nodes have the same paths, so volumes are told apart by their names alone, which are unique.
        volumes |= {volume.path: _names(host.kept(f"volume {volume.name}")) for volume in host.volumes("default")}
    return domains, volumes


def _libvirt(host: Any, pool: str) -> tuple[Domains, Volumes]:
    import libvirt

    connection = libvirt.open(host.uri)
    domains: Domains = {}
    keepers: Volumes = {}
    for domain in connection.listAllDomains(0):
        if domain.name().startswith(KEEPER_PREFIX):
            (disk,) = parse_domain(domain.XMLDesc(0)).disks
            keepers[disk.path] = " ".join(sorted(name.removeprefix("disk:") for name in domain.snapshotListNames(0)))
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
            continue
        state = "running" if domain.isActive() else "stopped"
        info = domain.info()
        vcpus = domain.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        names = " ".join(sorted(domain.snapshotListNames(0)))
        domains[domain.UUIDString()] = (state, info[2] // 1024, vcpus, names)
        if domain.isActive():
            domain.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
    found = connection.storagePoolLookupByName(pool)
    found.refresh()
    volumes = {volume.path(): keepers.pop(volume.path(), "") for volume in found.listAllVolumes()}
    volumes |= keepers  # of volumes that are gone: wrong
    connection.close()
    return domains, volumes


def main() -> None:
    """One run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--libvirt", action="store_true", help="on a private libvirt host")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)  # noqa: T201
    if chosen.libvirt:
        from lab.host import LibvirtHost

        host = LibvirtHost(Path(tempfile.mkdtemp(prefix="fluidvm-")))
        host.start()
        try:
            findings = run(chosen.seed, chosen.kills, host, 3.0)
        finally:
            host.stop()
            shutil.rmtree(host.directory, ignore_errors=True)
    else:
        findings = run(chosen.seed, chosen.kills)
    print(f"{findings.contexts} contexts, {findings.tasks} tasks, {findings.vms} VMs")  # noqa: T201
    sys.exit("\n".join(findings.wrong) or 0)  # an empty text is a failure, too


if __name__ == "__main__":
    main()
