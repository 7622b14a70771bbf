"""
What waiting clients cost: CPU and memory per session.

    python benchmarks/sessions.py [--sessions N] [--seconds S]

A real server gets 10,000 clients, a connection each: first all wait in wait_for_tasks for a context that doesn't end, then
all ping every 30 s. They share 100 cookies, since a login costs a password hash on purpose.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import time
import xmlrpc.client
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from load import request
from wire import free_port, serve

TICKS = os.sysconf("SC_CLK_TCK")


class Usage:
    """CPU seconds and MiB of a process."""

    def __init__(self, process: int) -> None:
        self._path = Path(f"/proc/{process}")

    def cpu(self) -> float:
        fields = (self._path / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        for line in (self._path / "status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0


async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> bytes:
    """Send one request and read its answer."""
    writer.write(body)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


async def measure(port: int, sessions: int, seconds: float, usage: Usage, proxy: Any, cookies: list[int], ec: int) -> None:
    empty = usage.memory()
    streams = []
    for number in range(sessions):
        local = (f"127.0.{1 + number // 20000}.{1 + number % 250}", 0)
        streams.append(await asyncio.open_connection("127.0.0.1", port, local_addr=local if number > 20000 else None))
    connected = usage.memory()
    waits = [
        asyncio.ensure_future(
            call(reader, writer, request(xmlrpc.client.dumps((cookies[number % len(cookies)], ec, 25), "wait_for_tasks")))
        )
        for number, (reader, writer) in enumerate(streams)
    ]
    await asyncio.sleep(10)  # until all are in
    began, cpu = time.perf_counter(), usage.cpu()
    await asyncio.sleep(min(seconds, 12))
    idle = (usage.cpu() - cpu) / (time.perf_counter() - began)
    each, connection = (1024 * (memory - empty) / sessions for memory in (usage.memory(), connected))
    print(f"{sessions} waiting in wait_for_tasks: {100 * idle:.1f} % of a CPU, {each:.1f} KiB each ({connection:.1f} idle)")
    await asyncio.gather(*waits)

    began, cpu, pings = time.perf_counter(), usage.cpu(), 0
    ping = [request(xmlrpc.client.dumps((cookie,), "ping")) for cookie in cookies]
    while (passed := time.perf_counter() - began) < seconds:
        due = int(passed * sessions / 30)
        while pings < due:
            reader, writer = streams[pings % sessions]
            await call(reader, writer, ping[pings % len(ping)])
            pings += 1
        await asyncio.sleep(0.02)
    busy = (usage.cpu() - cpu) / (time.perf_counter() - began)
    print(
        f"{sessions} pinging every 30 s ({pings} pings): {100 * busy:.1f} % of a CPU, {1e6 * busy / sessions:.1f} us/s each"
    )
    for _, writer in streams:
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    chosen = parser.parse_args()
    files = chosen.sessions + 1000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, hard), hard))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        serve(stack, directory, port, "--connections-per-address", "100000", "--session-timeout", "3600")
        proxy: Any = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/RPC2")
        password = (directory / "state/admin-password").read_text().strip()
        first = proxy.authenticate("admin", password)
        proxy.add_compute_node(first, "bench", "simulator", "", {"hang": ["start"]})
        vm = proxy.create_vm(first, {"name": "vm"})
        proxy.start_vm(first, vm)
        ec = proxy.commit_tasks(first)
        boxcar = [{"methodName": "authenticate", "params": ["admin", password]}] * 100
        cookies = [answer[0] for answer in proxy.system.multicall(boxcar)]
        usage = Usage(int((directory / "pid").read_text()))
        asyncio.run(measure(port, chosen.sessions, chosen.seconds, usage, proxy, cookies, ec))


if __name__ == "__main__":
    main()
