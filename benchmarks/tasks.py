"""
Tasks per second from commit to complete, beside what plain sqlite3 can write.

    python benchmarks/tasks.py [--contexts N] [--tasks N] [--in-flight N]

A real server with a simulated node without delay runs 1,000 contexts of 10 tasks, 100 of them at a time; every commit and
every outcome is durable (WAL, synchronous=FULL). The raw limit writes the same rows for each with plain sqlite3, on the same
disk: one transaction per commit_tasks, one per task's outcome. Target: at least 0.25 of it.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
import xmlrpc.client
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wire import free_port, serve

PARTS = 4


def raw(path: Path, contexts: int, tasks: int) -> float:
    """Write what the server has to write, with plain sqlite3; gives seconds."""
    database = sqlite3.connect(path, isolation_level=None)
    for statement in (
        "PRAGMA journal_mode=WAL",
        "PRAGMA synchronous=FULL",
        "CREATE TABLE contexts (id INTEGER PRIMARY KEY, owner INTEGER, finished REAL)",
        "CREATE TABLE tasks (context INTEGER, position INTEGER, arguments TEXT, finished REAL,"
        " PRIMARY KEY (context, position))",
        "CREATE TABLE vms (id INTEGER PRIMARY KEY, memory INTEGER)",
        "CREATE TABLE changes (serial INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT, id INTEGER)",
        "INSERT INTO vms VALUES (1, 1)",
    ):
        database.execute(statement)
    began = time.perf_counter()
    for context in range(contexts):
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO contexts VALUES (?, 1, NULL)", (context,))
        rows = [(context, place, "[1, 512]") for place in range(tasks)]
        database.executemany("INSERT INTO tasks VALUES (?, ?, ?, NULL)", rows)
        database.execute("INSERT INTO changes VALUES (NULL, 'execution_context', ?)", (context,))
        database.execute("COMMIT")
        for place in range(tasks):
            database.execute("BEGIN IMMEDIATE")
            database.execute("UPDATE tasks SET finished = 1.0 WHERE context = ? AND position = ?", (context, place))
            database.execute("UPDATE contexts SET finished = 1.0 WHERE id = ?", (context,))
            database.execute("UPDATE vms SET memory = ? WHERE id = 1", (place,))
            database.execute("INSERT INTO changes VALUES (NULL, 'vm', 1), (NULL, 'execution_context', ?)", (context,))
            database.execute("COMMIT")
    return time.perf_counter() - began


def resident(log: Path) -> float:
    """MiB that the server has in memory; its process id is in the log's name."""
    for line in Path(f"/proc/{log.read_text().strip()}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def served(proxy: Any, cookie: int, vms: list[int], contexts: int, tasks: int, in_flight: int) -> float:
    """Run the contexts on the server; gives seconds."""
    boxcars = [
        [{"methodName": "set_vm_memory", "params": [cookie, vms[number % in_flight], 128 + place]} for place in range(tasks)]
        + [{"methodName": "commit_tasks", "params": [cookie]}]
        for number in range(contexts)
    ]
    began = time.perf_counter()
    waiting: deque[int] = deque()
    for boxcar in boxcars:
        if len(waiting) == in_flight:
            finish(proxy, cookie, waiting.popleft())
        waiting.append(proxy.system.multicall(boxcar)[-1][0])
    for ec in waiting:
        finish(proxy, cookie, ec)
    return time.perf_counter() - began


def finish(proxy: Any, cookie: int, ec: int) -> None:
    while not proxy.wait_for_tasks(cookie, ec, 20):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--in-flight", type=int, default=100)
    chosen = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        serve(stack, directory, port, "--keepalive", "any-call", "--session-timeout", "3600", "--tasks-per-node", "1000")
        proxy: Any = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/RPC2")
        cookie = proxy.authenticate("admin", (directory / "state/admin-password").read_text().strip())
        node = proxy.add_compute_node(cookie, "bench", "simulator", "", {})
        vms = [proxy.create_vm(cookie, {"name": f"vm{n}", "compute_node": node}) for n in range(chosen.in_flight)]
        finish(proxy, cookie, proxy.commit_tasks(cookie))
        served(proxy, cookie, vms, chosen.in_flight, chosen.tasks, chosen.in_flight)  # warm up
        memory = [resident(directory / "pid")]
        ours = 0.0
        for _ in range(PARTS):
            ours += served(proxy, cookie, vms, chosen.contexts // PARTS, chosen.tasks, chosen.in_flight)
            memory.append(resident(directory / "pid"))
        plain = raw(directory / "raw.db", chosen.contexts, chosen.tasks)
        total = chosen.contexts * chosen.tasks
        print(f"{'tasks per second':24} {'FluidVM':>10} {'sqlite3':>10} {'ratio':>8}")
        print(f"{f'{chosen.contexts} x {chosen.tasks}':24} {total / ours:10.0f} {total / plain:10.0f} {plain / ours:8.2f}")
        print(f"MiB of memory, before and after each quarter: {', '.join(f'{size:.0f}' for size in memory)}")


if __name__ == "__main__":
    main()
