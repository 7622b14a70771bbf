"""
Differences between kernels: the limits that a node's kernel can enforce on containers.

An OpenVZ kernel supports all settings of vzctl. On other kernels vzctl uses control groups: memory is limited only by the
barrier of C{PHYSPAGES}, which C{--ram} leaves at 0, and there are no rate limits for file systems. vzctl distinguishes the
two kinds by C{/proc/vz}, and so does the driver.
"""

from __future__ import annotations

from fluidvm.driver import DriverError
from fluidvm.drivers.openvz.dialect import MIB
from fluidvm.drivers.openvz.node import Container, VzNode

MEMORY_DIR = "/sys/fs/cgroup/memory"
RATES = ("IOLIMIT", "IOPSLIMIT")
"""Settings that make every start fail if the kernel isn't OpenVZ's, even with the value 0."""


class VzKernel(VzNode):
    """What must be done differently if the kernel isn't OpenVZ's."""

    def _memory_words(self, memory: int) -> list[str]:
        """
        The arguments of C{vzctl set} that limit a container's memory.

        @param memory: in MiB.
        """
        return ["--ram", f"{memory}M"] if self._openvz else ["--physpages", f"{memory}M:{memory}M"]

    def _swap_words(self, swap: int) -> list[str]:
        """The same for its swap. @param swap: in MiB."""
        return ["--swap", f"{swap}M"] if self._openvz else ["--swappages", f"{swap}M:{swap}M"]

    def _old_memory_words(self, there: Container) -> list[str]:
        """The arguments of C{vzctl set} that keep a container's current memory limit."""
        if self._openvz:
            return ["--ram", "unlimited" if there.listed.memory is None else f"{there.listed.memory}M"]
        pages = there.identity.conf.get("PHYSPAGES")
        return ["--physpages", pages] if pages else []

    async def _check_memory(self, there: Container, memory: int) -> bool:
        """
        Whether the kernel enforces a memory limit of a running container: vzctl succeeds even if the kernel refused it.

        @param memory: in MiB.
        """
        return self._openvz or await self._memory_group(there, "limit_in_bytes") in (None, memory * MIB)

    async def _memory_group(self, there: Container, what: str) -> int | None:
        """Read an amount of a running container's control group, in bytes; C{None}: control groups are mounted elsewhere."""
        place = str(self._options.get("memory_dir", MEMORY_DIR)).rstrip("/")
        told = (await self._run(["cat", f"{place}/vz-{there.ctid}/memory.{what}"])).stdout.strip()
        return int(told) if told.isdigit() else None

    async def _fit(self, subject: str, there: Container) -> None:
        """
        Prepare a stopped container for the node's kernel: it may come from a node with the other kind of kernel, or from a
        version of FluidVM that didn't distinguish them.
        """
        if self._openvz:
            return
        await self._drop_rates(subject, there)
        memory = there.listed.memory
        if there.identity.mark is not None and there.listed.bound is None and memory is not None:
            await self._set(subject, there.ctid, self._memory_words(memory), [])

    async def _drop_rates(self, subject: str, there: Container) -> None:
        """Remove settings from a configuration that prevent the container from starting. vzctl has no command for that."""
        if not any(key in there.identity.conf for key in RATES):
            return
        path = f"{self._conf_dir}/{there.ctid}.conf"
        outcome = await self._run(["sed", "-i", *(word for key in RATES for word in ("-e", f"/^{key}=/d")), path])
        if outcome.code != 0:
            raise DriverError(f"{subject}: {' and '.join(RATES)} can't be removed from {path}; delete these lines there.")
