"""A private PostgreSQL for the tests: started on first need, over a Unix socket only, gone when the tests' process ends."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg

from fluidvm.store.database import connect, parse_url

USER = "fluidvm"
ACCOUNT = "nobody"
"""Whom PostgreSQL runs as if the tests are run by root, whom it refuses."""

READY = 60.0
"""Seconds that PostgreSQL has for its start and its end, on a busy machine."""

SETTINGS: Mapping[str, str | int] = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": 30,
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "jit": "off",
}

# It has the other end of its standard input for as long as the tests' process lives, however that ends. What still dies
# then may write a file while the others are being removed.
GUARD = 'trap "" INT TERM HUP; cat >/dev/null; for try in $(seq 100); do rm -rf "$1" && exit; sleep 0.1; done'


class PostgresError(Exception):
    """PostgreSQL can't be had here; says why."""


def programs() -> Path:
    """Where Debian has the server's programs: the newest version's. @raise PostgresError: it isn't installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if not found:
        raise PostgresError("PostgreSQL isn't installed; install Debian's package postgresql, as lab/setup.sh does.")
    return found[-1].parent


class Cluster:
    """
    A PostgreSQL of its own, in a new directory, in a process namespace of its own: its processes die with the first of
    them, and that dies with the thread that called L{start}.

    @param settings: changes of L{SETTINGS}, e.g. C{fsync="on"} where a test is about durability.
    @ivar directory: what it leaves until L{remove}, or until the tests' process ends: data, socket and C{log}.
    """

    def __init__(self, **settings: str | int) -> None:
        self._programs = programs()
        # Short, for a socket's path has 107 characters at most.
        self.directory = Path(tempfile.mkdtemp(prefix="fluidvm-pg-"))
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "sh", self.directory], stdin=subprocess.PIPE, cwd="/", start_new_session=True
        )
        self._settings = {**SETTINGS, "unix_socket_directories": self.directory, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._account: list[str] = []
        if os.getuid() == 0:
            account = pwd.getpwnam(ACCOUNT)
            self._account = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            os.chown(self.directory, account.pw_uid, account.pw_gid)

    def start(self) -> None:
        """
        Start it, and wait until it answers. Call it in the main thread. A repetition does nothing.

        @raise PostgresError: it doesn't come up; says why.
        """
        if self._process is not None:
            return
        data = self.directory / "data"
        with (self.directory / "log").open("ab") as log:
            if not data.exists():
                self._initialize(data, log.fileno())
            command = [str(self._programs / "postgres"), "-D", str(data)]
            command += [f"--{name}={value}" for name, value in self._settings.items()]
            # Root needs no user namespace for the others.
            namespace = ["unshare", "--pid", "--fork", "--kill-child", *([] if self._account else ["--map-current-user"])]
            self._process = subprocess.Popen(
                # To be somebody else makes one forget who should die with whom: it is said to both.
                ["setpriv", "--pdeathsig=KILL", *namespace, "setpriv", *self._account, "--pdeathsig=KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self._environment(),
                start_new_session=True,
            )
        deadline = time.monotonic() + READY
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=10).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise PostgresError(f"PostgreSQL doesn't start: {self.log()}") from error
            time.sleep(0.02)

    def _initialize(self, data: Path, log: int) -> None:
        command = [
            str(self._programs / "initdb"),
            "-D",
            str(data),
            "-U",
            USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        done = subprocess.run(
            ["setpriv", *self._account, "--pdeathsig=KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.directory,
            env=self._environment(),
            check=False,
        )
        if done.returncode:
            raise PostgresError(f"initdb failed: {self.log()}")

    def _environment(self) -> dict[str, str]:
        # Nothing of the caller's, which may name another server, or another language.
        return {"PATH": f"{self._programs}:/usr/bin:/bin", "HOME": str(self.directory), "LC_ALL": "C"}

    def stop(self) -> None:
        """Stop it as an operator would: connections are ended, what was committed is kept. A repetition does nothing."""
        if self._process is None:
            return
        self.resume()
        os.kill(self.postmaster(), signal.SIGINT)
        try:
            self._process.wait(READY)
        except subprocess.TimeoutExpired:
            self.kill()
            raise PostgresError(f"PostgreSQL doesn't stop: {self.log()}") from None
        self._process = None

    def kill(self) -> None:
        """Kill all its processes at once, also suspended ones, as a machine's crash would. A repetition does nothing."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            # Once the first is gone, which its parent waits for, all are.
            for victim in _children(process.pid) or [process.pid]:
                os.kill(victim, signal.SIGKILL)
            process.wait()

    def suspend(self) -> None:
        """Stop all its processes where they are: the kernel still takes connections, nobody answers."""
        first = self.postmaster()
        os.kill(first, signal.SIGSTOP)  # so that no more come
        for process in _children(first):
            os.kill(process, signal.SIGSTOP)

    def resume(self) -> None:
        """The opposite of L{suspend}. A repetition does nothing."""
        first = self.postmaster()
        for process in [*_children(first), first]:
            os.kill(process, signal.SIGCONT)

    def postmaster(self) -> int:
        """The id of its first process, as seen from outside. @raise PostgresError: it doesn't run."""
        if self._process is not None and self._process.poll() is None:
            for process in _children(self._process.pid):
                return process
        raise PostgresError("PostgreSQL doesn't run.")

    def log(self) -> str:
        """What it has written."""
        return (self.directory / "log").read_text(errors="replace")

    def remove(self) -> None:
        """Kill it, and remove all that it left. A repetition does nothing."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._guard.communicate()

    def url(self, database: str) -> str:
        """What C{--database}, SQLAlchemy and psycopg take."""
        return f"postgresql://{USER}@/{database}?host={self.directory}"

    def create_database(self) -> str:
        """Make a database with FluidVM's tables, and nothing in them but what migrations put there. Gives its name."""
        name = f"test{next(self._numbers)}"
        # Without fsync a third of what the copy by way of the log takes.
        self.execute(f"CREATE DATABASE {name} TEMPLATE {self._template} STRATEGY FILE_COPY")
        return name

    @functools.cached_property
    def _template(self) -> str:
        self.execute("CREATE DATABASE migrated")
        engine, connection = connect(parse_url(self.url("migrated")))
        connection.close()
        engine.dispose()
        return "migrated"

    def drop_database(self, name: str) -> None:
        """Remove a database; whoever uses it is cut off."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each in a transaction of its own."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


def _children(process: int) -> list[int]:
    """Those of a process that isn't reaped yet."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@functools.cache
def shared_cluster() -> Cluster:
    """This process's cluster, running; gone when the process ends in whatever way."""
    cluster = Cluster()
    atexit.register(cluster.remove)
    cluster.start()
    return cluster
