"""
What a node's kernel can hold containers to.

OpenVZ's own takes all that vzctl has words for. On another kernel vzctl makes do with control groups: memory is bounded only
by the barrier of C{PHYSPAGES}, which C{--ram} leaves at 0, and a file system is held to no rate at all. vzctl tells the two
kinds apart by C{/proc/vz}, and so does the driver.
"""

from __future__ import annotations

from fluidvm.driver import DriverError
from fluidvm.drivers.openvz.dialect import MIB
from fluidvm.drivers.openvz.node import Container, VzNode

MEMORY_DIR = "/sys/fs/cgroup/memory"
RATES = ("IOLIMIT", "IOPSLIMIT")
"""What a configuration can't have where the kernel isn't OpenVZ's, not even as 0: every start fails then."""


class VzKernel(VzNode):
    """What has to be done otherwise where the kernel isn't OpenVZ's."""

    def _memory_words(self, memory: int) -> list[str]:
        """
        What C{vzctl set} is told to bound a container's memory.

        @param memory: in MiB.
        """
        return ["--ram", f"{memory}M"] if self._openvz else ["--physpages", f"{memory}M:{memory}M"]

    def _swap_words(self, swap: int) -> list[str]:
        """The same of its swap. @param swap: in MiB."""
        return ["--swap", f"{swap}M"] if self._openvz else ["--swappages", f"{swap}M:{swap}M"]

    def _old_memory_words(self, there: Container) -> list[str]:
        """What C{vzctl set} is told to have a container's memory bounded as it is now."""
        if self._openvz:
            return ["--ram", "unlimited" if there.listed.memory is None else f"{there.listed.memory}M"]
        pages = there.identity.conf.get("PHYSPAGES")
        return ["--physpages", pages] if pages else []

    async def _check_memory(self, there: Container, memory: int) -> bool:
        """
        Whether the kernel holds a running container to an amount of memory: vzctl succeeds also where the kernel refused it.

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
        Prepare a stopped container for the node's kernel: it may come from a node with another, or from a FluidVM that
        didn't tell them apart.
        """
        if self._openvz:
            return
        await self._drop_rates(subject, there)
        memory = there.listed.memory
        if there.identity.mark is not None and there.listed.bound is None and memory is not None:
            await self._set(subject, there.ctid, self._memory_words(memory), [])

    async def _drop_rates(self, subject: str, there: Container) -> None:
        """Take out of a configuration what keeps the container from starting. vzctl has no word for that."""
        if not any(key in there.identity.conf for key in RATES):
            return
        path = f"{self._conf_dir}/{there.ctid}.conf"
        outcome = await self._run(["sed", "-i", *(word for key in RATES for word in ("-e", f"/^{key}=/d")), path])
        if outcome.code != 0:
            raise DriverError(f"{subject}: {' and '.join(RATES)} can't be removed from {path}; delete these lines there.")
