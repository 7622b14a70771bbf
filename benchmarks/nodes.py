"""
Do bad compute nodes slow down the good ones' tasks?

    python benchmarks/nodes.py [--nodes N] [--vms N] [--seconds N]

A server with 160 simulated nodes of 50 VMs each, whose tasks eight clients commit one after the other; then the same with 20
nodes more that hang (they answer when connected, and never again) and 20 that lose their connection every five seconds,
while other clients commit tasks for those too. Target: the median time from commit to complete is at most 1.3 times as long.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
import xmlrpc.client
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wire import free_port, serve

CLIENTS = 8
HANGING: dict[str, Any] = {"hang": ["set_memory", "get_domain", "start"]}
FLAPPING: dict[str, Any] = {"flap": 5.0}


class Server:
    """A server that runs until the stack is left."""

    def __init__(self, stack: ExitStack) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.port = free_port()
        serve(stack, directory, self.port, "--keepalive", "any-call", "--session-timeout", "3600")
        self.password = (directory / "state/admin-password").read_text().strip()

    def login(self) -> tuple[Any, int]:
        """A client and its cookie."""
        proxy: Any = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{self.port}/RPC2", use_builtin_types=True)
        return proxy, proxy.authenticate("admin", self.password)

    def fill(self, kind: str, options: dict[str, Any], nodes: int, vms: int) -> list[int]:
        """Add nodes with VMs; gives the VMs."""
        proxy, cookie = self.login()
        made: list[int] = []
        for number in range(nodes):
            node = proxy.add_compute_node(cookie, f"{kind}{number}", "simulator", "", options)
            specs = [{"name": f"{kind}{number}-{vm}", "compute_node": node, "memory": 64} for vm in range(vms)]
            calls = [{"methodName": "create_vm", "params": [cookie, spec]} for spec in specs]
            made += [answer[0] for answer in proxy.system.multicall(calls)]
            ec = proxy.commit_tasks(cookie)
        while not proxy.wait_for_tasks(cookie, ec, 20):
            pass
        return made


def work(server: Server, vms: list[int], until: float, times: list[float]) -> None:
    """Commit one task after the other."""
    proxy, cookie = server.login()
    while time.monotonic() < until:
        proxy.set_vm_memory(cookie, random.choice(vms), random.randint(64, 512))
        began = time.perf_counter()
        ec = proxy.commit_tasks(cookie)
        while not proxy.wait_for_tasks(cookie, ec, 20):
            pass
        times.append(time.perf_counter() - began)


def disturb(server: Server, vms: list[int], until: float) -> None:
    """Commit tasks for bad nodes, and wait for none."""
    proxy, cookie = server.login()
    while time.monotonic() < until:
        proxy.set_vm_memory(cookie, random.choice(vms), random.randint(64, 512))
        proxy.commit_tasks(cookie)
        time.sleep(0.1)


def measure(server: Server, good: list[int], bad: list[int], seconds: float) -> tuple[float, int]:
    """Run the clients; gives the median in ms, and how many tasks ended."""
    times: list[float] = []
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=work, args=(server, good, until, times)) for _ in range(CLIENTS)]
    if bad:
        threads += [threading.Thread(target=disturb, args=(server, bad, until)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1000 * statistics.median(times), len(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--vms", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=15)
    chosen = parser.parse_args()
    tenth = chosen.nodes // 10
    with ExitStack() as stack:
        server = Server(stack)
        good = server.fill("good", {}, chosen.nodes - 2 * tenth, chosen.vms)
        measure(server, good, [], 2)
        alone, first = measure(server, good, [], chosen.seconds)
        bad = server.fill("hanging", HANGING, tenth, chosen.vms) + server.fill("flapping", FLAPPING, tenth, chosen.vms)
        among, second = measure(server, good, bad, chosen.seconds)
        print(f"{'median task, ms':28} {'alone':>8} {'among bad':>10} {'ratio':>8}")
        print(f"{f'{len(good)} VMs, {len(bad)} on bad nodes':28} {alone:8.2f} {among:10.2f} {among / alone:8.2f}")
        print(f"{first} and {second} tasks")


if __name__ == "__main__":
    main()
