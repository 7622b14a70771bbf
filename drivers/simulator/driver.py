"""
A hypervisor in memory, for tests, demos and benchmarks: faithful in its states and errors, with delays and faults on demand.

Its state outlives the server: each change is a line of a journal in the node's state directory, in the page cache before the
verb answers, so that a killed server finds it again (a killed machine may not: nothing is synced).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from fluidvm.driver import (
    Array,
    Bool,
    Choice,
    DomainDisk,
    DomainInfo,
    DomainSpec,
    DomainState,
    Double,
    DriverError,
    DriverHost,
    HostInfo,
    IConnection,
    IDisks,
    IDriver,
    IEvents,
    ILiveResize,
    Int,
    Progress,
    Struct,
    Unreachable,
    Volume,
)
from fluidvm.drivers.simulator.adoption import SimulatedAdoption
from fluidvm.drivers.simulator.console import SimulatedConsoles
from fluidvm.drivers.simulator.guest import SimulatedGuest
from fluidvm.drivers.simulator.host import ON, SimulatedHost
from fluidvm.drivers.simulator.images import SimulatedImages
from fluidvm.drivers.simulator.migration import SimulatedMigration
from fluidvm.drivers.simulator.networks import SimulatedNetworks
from fluidvm.drivers.simulator.save import SimulatedSave
from fluidvm.drivers.simulator.screen import SimulatedScreen
from fluidvm.drivers.simulator.shares import SimulatedShares
from fluidvm.drivers.simulator.snapshots import SimulatedSnapshots
from fluidvm.drivers.simulator.stats import SimulatedStats
from fluidvm.drivers.simulator.volume_snapshots import SimulatedVolumeSnapshots
from fluidvm.drivers.simulator.volumes import SimulatedVolumes

T = TypeVar("T")
STEPS = 10
"""How often a verb with progress reports it during its delay."""
VERBS = (
    "connect",
    "host_info",
    "list_domains",
    "get_domain",
    "define_domain",
    "undefine_domain",
    "start",
    "shutdown",
    "stop",
    "reboot",
    "pause",
    "resume",
    "set_memory",
    "set_vcpus",
    "resize_memory",
    "resize_vcpus",
    "list_volumes",
    "create_volume",
    "delete_volume",
    "attach_disk",
    "detach_disk",
    "domain_stats",
    "host_stats",
    "list_pools",
    "resize_volume",
    "resize_disk",
    "clone_volume",
    "save",
    "restore",
    "reset",
    "list_networks",
    "attach_interface",
    "detach_interface",
    "get_spec",
    "volume_of",
    "migrate",
    "shareable",
    "set_shares",
    "get_shares",
    "run_in_guest",
    "set_password",
    "add_ssh_key",
    "list_templates",
    "guest_network",
    "add_address",
    "remove_address",
    "set_hostname",
    "set_nameservers",
    "get_limits",
    "set_limits",
    "list_snapshots",
    "create_snapshot",
    "revert_snapshot",
    "delete_snapshot",
    "list_volume_snapshots",
    "create_volume_snapshot",
    "revert_volume",
    "delete_volume_snapshot",
    "screenshot",
    "open_serial",
    "open_vnc",
    "measure_volume",
    "read_volume",
    "write_volume",
)
_VERB = Choice("a verb of the driver interface", choices=VERBS)


class Faults:
    """
    The configured faults and delays.

    A verb has its effect at the end of its delay: one that is cancelled before, fails or hangs has none.
    """

    def __init__(self, options: Mapping[str, Any], host: DriverHost) -> None:
        self._delay: float = options.get("delay", 0.0)
        self._fail = frozenset(options.get("fail", ()))
        self._hang = frozenset(options.get("hang", ()))
        self.clock = host.clock
        self.seconds = host.clock.seconds

    async def meet(self, verb: str, progress: Progress | None = None) -> None:
        """
        Apply the delay and the faults of a verb.

        @raise DriverError: the verb is configured to fail.
        """
        if verb in self._hang:
            await Deferred()
        if self._delay:
            steps = 1 if progress is None else STEPS
            for step in range(steps):
                await deferLater(self.clock, self._delay / steps, lambda: None)
                if progress is not None:
                    progress(100 * (step + 1) // steps)
        if verb in self._fail:
            error = Unreachable if verb == "connect" else DriverError
            raise error(f"The simulator is configured to fail at {verb}.")


@implementer(IConnection, ILiveResize, IDisks, IEvents)
class SimulatedConnection(
    SimulatedStats,
    SimulatedVolumes,
    SimulatedSave,
    SimulatedNetworks,
    SimulatedAdoption,
    SimulatedConsoles,
    SimulatedMigration,
    SimulatedGuest,
    SimulatedImages,
    SimulatedScreen,
    SimulatedShares,
    SimulatedSnapshots,
    SimulatedVolumeSnapshots,
):
    """
    A connection to a simulated host.

    @ivar simulated: the host; tests use it to change things behind the driver's back.
    """

    formats = ("qcow2", "raw")
    _log = Logger()

    def __init__(self, simulated: SimulatedHost, faults: Faults) -> None:
        self.simulated = simulated
        self._faults = faults
        self.clock = faults.clock
        self.seconds = faults.seconds
        self._serial = {}
        self._screens = {}
        self._open = True
        self._lost: list[Callable[[str], None]] = []
        self._lost_reason = ""
        self._listeners: list[Callable[[str, DomainState | None], None]] = []
        simulated.connections.append(self)

    def _do(self, verb: str, effect: Callable[[], T], progress: Progress | None = None, subject: str = "") -> Deferred[T]:
        async def run() -> T:
            self._check()
            await self._faults.meet(verb, progress)
            self._check()
            done = effect()
            self.simulated.log_call(verb, subject)
            return done

        return Deferred.fromCoroutine(run())

    def _check(self) -> None:
        if not self._open:
            raise Unreachable("The connection to the simulated host is closed.")

    def tell(self, uuid: str, state: DomainState | None) -> None:
        """Report a domain's new state, or that it no longer exists; called by the host."""
        if state not in ON:
            self.end_consoles(uuid)
        for callback in self._listeners:
            self._safely(callback, uuid, state)

    def _safely(self, callback: Callable[..., None], *news: Any) -> None:
        # The verb has taken effect even if a callback fails, and the other callbacks must be called, too.
        try:
            callback(*news)
        except Exception:
            self._log.failure("A callback of the simulated connection raised an exception")

    def cut(self, reason: str) -> None:
        """Lose the connection, as if the host or its network had failed."""
        if self._open:
            self._open = False
            self._lost_reason = reason
            self.simulated.forget(self)
            self.end_consoles()
            for callback in self._lost:
                self._safely(callback, reason)

    def close(self) -> Deferred[None]:
        """Close the connection."""
        if self._open:
            self._open = False
            self.simulated.forget(self)
            self.end_consoles()
        self._lost_reason = ""
        return succeed(None)

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call C{callback} when the connection is lost; at once if it already is."""
        self._lost.append(callback)
        if self._lost_reason:
            self._safely(callback, self._lost_reason)

    def subscribe(self, callback: Callable[[str, DomainState | None], None]) -> None:
        """Call C{callback} at each change of a domain's state, while the connection is open."""

        self._listeners.append(callback)

    def host_info(self) -> Deferred[HostInfo]:
        """Describe the host."""
        return self._do("host_info", self.simulated.info)

    def list_domains(self) -> Deferred[Sequence[DomainInfo]]:
        """List all domains."""
        return self._do("list_domains", self.simulated.domains)

    def get_domain(self, uuid: str) -> Deferred[DomainInfo]:
        """Describe one domain."""
        return self._do("get_domain", lambda: self.simulated.domain(uuid))

    def define_domain(self, spec: DomainSpec) -> Deferred[None]:
        """Define a domain."""
        return self._do("define_domain", lambda: self.simulated.define(spec), subject=spec.uuid)

    def undefine_domain(self, uuid: str) -> Deferred[None]:
        """Undefine a domain."""
        return self._do("undefine_domain", lambda: self.simulated.undefine(uuid), subject=uuid)

    def start(self, uuid: str) -> Deferred[None]:
        """Boot a domain."""
        return self._do("start", lambda: self.simulated.start(uuid), subject=uuid)

    def shutdown(self, uuid: str) -> Deferred[None]:
        """Ask a guest to shut down: it does so at once, unless the option C{deaf} is set."""
        return self._do("shutdown", lambda: self.simulated.shutdown(uuid), subject=uuid)

    def stop(self, uuid: str) -> Deferred[None]:
        """Stop a domain."""
        return self._do("stop", lambda: self.simulated.stop(uuid), subject=uuid)

    def reboot(self, uuid: str) -> Deferred[None]:
        """Ask a guest to reboot."""
        return self._do("reboot", lambda: self.simulated.reboot(uuid), subject=uuid)

    def pause(self, uuid: str) -> Deferred[None]:
        """Pause a domain."""
        return self._do("pause", lambda: self.simulated.pause(uuid), subject=uuid)

    def resume(self, uuid: str) -> Deferred[None]:
        """Resume a domain."""
        return self._do("resume", lambda: self.simulated.resume(uuid), subject=uuid)

    def set_memory(self, uuid: str, memory: int) -> Deferred[None]:
        """Resize a stopped domain."""
        return self._do("set_memory", lambda: self.simulated.resize(uuid, memory=memory))

    def set_vcpus(self, uuid: str, vcpus: int) -> Deferred[None]:
        """Resize a stopped domain."""
        return self._do("set_vcpus", lambda: self.simulated.resize(uuid, vcpus=vcpus))

    def resize_memory(self, uuid: str, memory: int) -> Deferred[None]:
        """Resize a running domain."""
        return self._do("resize_memory", lambda: self.simulated.resize_live(uuid, memory=memory))

    def resize_vcpus(self, uuid: str, vcpus: int) -> Deferred[None]:
        """Resize a running domain."""
        return self._do("resize_vcpus", lambda: self.simulated.resize_live(uuid, vcpus=vcpus))

    def list_volumes(self, pool: str, formats: Mapping[str, str] = {}) -> Deferred[Sequence[Volume]]:
        """List a pool's volumes; the simulator stores their formats itself."""
        return self._do("list_volumes", lambda: self.simulated.volumes(pool))

    def create_volume(self, pool: str, name: str, size: int, format: str, progress: Progress) -> Deferred[Volume]:
        """Create a volume."""
        return self._do("create_volume", lambda: self.simulated.create_volume(pool, name, size, format), progress, name)

    def delete_volume(self, pool: str, name: str) -> Deferred[None]:
        """Delete a volume."""
        return self._do("delete_volume", lambda: self.simulated.delete_volume(pool, name), subject=name)

    def attach_disk(self, uuid: str, disk: DomainDisk) -> Deferred[None]:
        """Attach a disk."""
        return self._do("attach_disk", lambda: self.simulated.attach(uuid, disk))

    def detach_disk(self, uuid: str, target: str) -> Deferred[None]:
        """Detach a disk."""
        return self._do("detach_disk", lambda: self.simulated.detach(uuid, target))


@implementer(IDriver)
class SimulatorDriver:
    """The simulator. Its hosts have no address."""

    name = "simulator"
    summary = "A hypervisor in memory, with delays and faults on demand; for tests and demos."
    connection = SimulatedConnection
    options = Struct(
        "settings of the simulated host",
        fields={
            "vcpus": Int("number of CPUs; default: 64", low=1, high=65536),
            "memory": Int("amount of RAM; default: 262144", unit="MiB", low=16),
            "pool_size": Int("capacity of its only storage pool; default: unlimited", unit="MiB", low=0),
            "delay": Double("delay of each verb; default: 0", unit="s", high=86400.0),
            "fail": Array("verbs that fail", of=_VERB, longest=len(VERBS)),
            "hang": Array("verbs that never answer", of=_VERB, longest=len(VERBS)),
            "flap": Double("time after which it loses its connection; default: never", unit="s", low=0.01, high=86400.0),
            "deaf": Bool("whether guests ignore requests to shut down"),
            "log_calls": Bool("whether each verb that took effect is logged to calls.log in the state directory"),
        },
    )

    def check_address(self, address: str) -> None:
        """Refuse all addresses."""
        if address:
            raise ValueError("a simulated host has no address; leave it empty")

    def connect(self, address: str, options: Mapping[str, Any], host: DriverHost) -> Deferred[SimulatedConnection]:
        """Connect to the host whose journal lies in the node's state directory."""
        faults = Faults(options, host)

        async def connect() -> SimulatedConnection:
            await faults.meet("connect")
            try:
                simulated = SimulatedHost.at(host.state_dir, options)
            except OSError as error:
                raise DriverError(f"The simulator's journal in {host.state_dir}: {error.strerror}.") from None
            simulated.seconds = host.clock.seconds
            connection = SimulatedConnection(simulated, faults)
            if "flap" in options:
                host.clock.callLater(options["flap"], connection.cut, "The simulator is configured to lose its connection.")
            return connection

        return Deferred.fromCoroutine(connect())
