"""What a kernel does with what vzctl hands it, and what one that isn't OpenVZ's can't: by the stand-in for vzctl."""

from __future__ import annotations

from .host import MAX, Host, scaled

NO_RATES = (148, "Unable to set iolimit: Bad file descriptor")
"""How each command ends that has to hold a file system to a rate where only OpenVZ's kernel could."""
NO_BOUND = 9223372036854771712
"""What a control group tells that isn't bounded."""


def pages(value: str) -> int:
    """An amount as configurations have it: pages, if there is no suffix."""
    if value == "unlimited":
        return MAX
    return int(value) if value.isdigit() else int(scaled(value, 4096)) // 4096


def bound_memory(host: Host, ctid: str, physpages: str) -> None:
    """
    Bound a container's memory by its control group, off OpenVZ's kernels: to the barrier, and only if that isn't 0.

    A kernel that can't free as much memory refuses the bound, which vzctl notes on standard error and doesn't fail for.
    """
    if not host.on("UPSTREAM"):
        return
    group = ("cgroup", f"vz-{ctid}", "memory.limit_in_bytes")
    if not host.running(ctid):
        host.write(f"{NO_BOUND}\n", *group)  # the group is made anew
        host.write("5242881\n", "cgroup", f"vz-{ctid}", "memory.usage_in_bytes")
    amount = pages(physpages.partition(":")[0] or "0") * 4096
    if amount and amount < int(host.settings.get("MEMORY_IN_USE", "0")):
        host.err("Failed to set limits for Memory (Cgroup, operation not allowed)")
    elif amount:
        host.write(f"{min(amount, NO_BOUND)}\n", *group)
