"""
The server of the stand-ins: each command is run by a fork of this one Python, which has everything imported.

A Python of its own for each command would take ten times as long. C{launcher.c} is what runs in the command's place: it
passes signals on, and when it goes in whatever way, the kernel kills the command's process. A process that has ended its
command well is used for others, so that most needn't be made. L{ToolServer} is started once by each process that has nodes,
and ends with it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

from . import vzctl, vzlist, vzmigrate

HEAD = struct.Struct("=II")
NUMBER = struct.Struct("=i")
PEER = struct.Struct("=iII")
F_SETSIG = 10
"""From C{fcntl.h}; C{fcntl} knows it from Python 3.12 on."""
IDLE = "idle vz"
MOST = 500
"""How many commands a worker runs."""
COMMANDS = {"vzctl": vzctl.command, "vzlist": vzlist.command, "vzmigrate": vzmigrate.command}
START = "import sys; sys.path.insert(0, sys.argv[1]); from tests.fakes.vz import server; server.serve(sys.argv[2])"


class ToolServer:
    """
    The server, as those who have nodes see it: started here, and gone when this process is, in whatever way.

    @ivar launcher: the interpreter for the commands' files.
    """

    def __init__(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="fluidvm-vz-"))
        self.launcher = directory / "launcher"
        source = Path(__file__).with_name("launcher.c")
        subprocess.run(["gcc", "-static", "-Os", "-s", "-o", self.launcher, source], check=True)
        argv = [sys.executable, "-ISB", "-X", "utf8", "-c", START, str(Path(__file__).parents[3]), str(self.launcher)]
        # Standard input ends with this process, and standard output once the server listens or can't.
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.read()
        self._process.stdout.close()
        atexit.register(self._end)
        if ready != b"ready\n":
            shutil.rmtree(directory)
            raise AssertionError(f"the stand-ins' server doesn't start: {self._process.wait()}")

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@functools.cache
def tool_server() -> ToolServer:
    """The process's server, started at the first call."""
    return ToolServer()


def serve(launcher: str) -> None:
    """Run commands until standard input ends; then end those that still run, and remove the launcher's directory."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{launcher}.socket")
    listener.listen(128)
    os.write(1, b"ready\n")
    os.dup2(2, 1)
    gc.disable()
    gc.freeze()  # so that workers don't copy what they share
    workers: dict[socket.socket, int] = {}
    idle: list[socket.socket] = []
    while True:
        ready = select.select([listener, sys.stdin, *workers], [], [])[0]
        if sys.stdin in ready:
            break
        for worker in workers.keys() & set(ready):
            if worker.recv(1):
                idle.append(worker)
                continue
            worker.close()
            os.waitpid(workers.pop(worker), 0)
            if worker in idle:
                idle.remove(worker)
        if listener in ready:
            with listener.accept()[0] as connection:
                if not hand_over(connection, idle):
                    ours, theirs = socket.socketpair()
                    pid = os.fork()
                    if pid == 0:
                        for other in (listener, ours, *workers):
                            other.close()
                        work(theirs, connection)
                    theirs.close()
                    workers[ours] = pid
    for pid in workers.values():
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
    shutil.rmtree(os.path.dirname(launcher), ignore_errors=True)


def hand_over(connection: socket.socket, idle: list[socket.socket]) -> bool:
    """Give a launcher to a worker. @return: whether there was one."""
    while idle:
        with contextlib.suppress(BrokenPipeError):  # it has been killed
            socket.send_fds(idle.pop(), [b"."], [connection.fileno()])
            return True
    return False


def work(server: socket.socket, connection: socket.socket) -> NoReturn:
    """
    Be a worker: one command after the other.

    One that has had a child is used no more: what the command left behind may be of the worker's group, which is killed as a
    whole.
    """
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for _ in range(MOST):
            run(connection, null)
            if had_children():
                break
            server.sendall(b".")
            be_called(IDLE)
            _, files, _, _ = socket.recv_fds(server, 1, 1)
            if not files:
                break
            connection = socket.socket(fileno=files[0])
    finally:
        os._exit(0)


def had_children() -> bool:
    """Whether this process has or had any."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
    return True


def be_called(name: str) -> None:
    """Say in lists of processes what this one does."""
    Path("/proc/self/comm").write_text(name)


def run(connection: socket.socket, null: int) -> None:
    """Be a command: have its streams, its environment and its directory, and tell the launcher how it ended."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        words = receive(connection)
        die_with(connection)
        launcher = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))[0]
        root, tool = os.path.dirname(os.path.dirname(words[1])), os.path.basename(words[1])
        be_called(tool)
        connection.sendall(NUMBER.pack(os.getpid()))
        code = COMMANDS[tool](root, launcher, words[2:])
    except BaseException:
        traceback.print_exc()
    for file in range(3):
        os.dup2(null, file)
    # What it leaves behind may still be of its group.
    fcntl.fcntl(connection, fcntl.F_SETOWN, 0)
    with contextlib.suppress(OSError), connection:
        connection.sendall(NUMBER.pack(code))


def receive(connection: socket.socket) -> list[str]:
    """Take over what a launcher hands on. Gives its command line."""
    data, files, _, _ = socket.recv_fds(connection, 1 << 16, 4)
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    os.fchdir(files[3])
    for file in files:
        os.close(file)
    length, count = HEAD.unpack_from(data)
    while len(data) < HEAD.size + length:
        data += connection.recv(1 << 20) or os._exit(250)
    words = [os.fsdecode(word) for word in data[HEAD.size :].split(b"\0")[:-1]]
    os.environ.clear()
    for word in words[count:]:
        name, _, value = word.partition("=")
        os.environ[name] = value
    time.tzset()
    return words[:count]


def die_with(connection: socket.socket) -> None:
    """Have the kernel kill this process and its group once the other side of a connection is closed."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(connection, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | fcntl.FASYNC)
    with contextlib.suppress(BlockingIOError):
        if not connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK):
            os._exit(250)  # it was closed already
