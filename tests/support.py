"""What tests share: a whole server in this process, spoken to in XML-RPC."""

from __future__ import annotations

import shutil
import xmlrpc.client
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from fluidvm.drivers.simulator.host import SimulatedHost
from fluidvm.server.options import Options, Settings
from fluidvm.server.service import Server
from fluidvm.wire.peer import Peer

from .databases import execute, new_database

PASSWORD = "correct horse battery staple"


CHEAP = ("--password-memory", "8", "--password-rounds", "1", "--password-lanes", "1")
"""Real argon2id, with the least work that it allows."""


def port_of(server: Server, which: int = 0) -> int:
    """The TCP port that a server listens on. @param which: of several; -1: of the last C{--http} or C{--https}."""
    address: Any = server.ports[which].getHost()
    port: int = address.port
    return port


class Running:
    """
    A server that runs in this process, on the directory of a test.

    @ivar clock: its time; its threads are real.
    @ivar now: its seconds since the epoch.
    """

    def __init__(self, settings: Settings) -> None:
        self.clock = Clock()
        self.now = 1_800_000_000.0
        self.server = Server(settings, reactor, self.clock, lambda: self.now + self.clock.seconds())

    def start(self) -> None:
        """As twistd does."""
        self.server.privilegedStartService()
        self.server.startService()

    async def stop(self) -> None:
        """As twistd does; the clock runs meanwhile, for what is waited for."""
        stopping = self.server.stopService()
        while not stopping.called:
            self.clock.advance(0.25)
            await deferLater(reactor, 0.001, lambda: None)
        await stopping

    async def pass_time(self, seconds: float) -> None:
        """Turn the clock, and let the store's thread catch up."""
        self.clock.advance(seconds)
        await self.server.inventory.read(lambda connection: None)

    async def call(self, method: str, *arguments: Any, address: str = "192.0.2.1") -> Any:
        """Call a method through the dispatcher. @raise xmlrpc.client.Fault: as it came over the wire."""
        return await self.post(xmlrpc.client.dumps(arguments, method).replace("\r", "&#13;").encode(), address)

    async def post(self, body: bytes, address: str = "192.0.2.1") -> Any:
        """Send any bytes as a call."""
        answer = self.server.dispatcher.dispatch(body, Peer(address=address, tls=False, certificate=None))
        if isinstance(answer, Deferred):
            answer = await answer
        (value,), _ = xmlrpc.client.loads(answer, use_builtin_types=True)
        return value

    async def login(self, name: str = "admin", password: str = PASSWORD, address: str = "192.0.2.1") -> Client:
        """Log in."""
        return Client(self, await self.call("authenticate", name, password, address=address), address)


async def simulated(running: Running, node: int) -> SimulatedHost:
    """What a simulated compute node has."""
    connection: Any = await running.server._nodes.connection(node)
    host: SimulatedHost = connection.simulated
    return host


class Client:
    """A logged-in client."""

    def __init__(self, running: Running, cookie: int, address: str) -> None:
        self.running = running
        self.cookie = cookie
        self.address = address

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method with the cookie."""
        return await self.running.call(method, self.cookie, *arguments, address=self.address)

    async def commit(self, **options: Any) -> int:
        """Commit the pending tasks and wait until they have ended. Gives the EC."""
        ec: int = await self.call("commit_tasks", *([options] if options else []))
        await self.finish(ec)
        return ec

    async def finish(self, ec: int) -> None:
        """Turn the clock until an execution context is complete."""
        while any(await self.call("get_task_state", ec)):
            await self.running.pass_time(0.25)

    async def do(self, method: str, *arguments: Any) -> int:
        """Run one task to its good end. Gives the id of the object that it acts on."""
        id: int = await self.call(method, *arguments)
        ec = await self.commit()
        errors = await self.call("get_errors", ec)
        if errors != [""]:
            raise AssertionError(f"{method}: {errors[0]}")
        return id

    async def fail(self, method: str, *arguments: Any) -> tuple[int, str]:
        """Run one task to its bad end. Gives code and words of its error."""
        await self.call(method, *arguments)
        ec = await self.commit()
        context = await self.call("get_execution_context", ec)
        if not context["errors"][0]:
            raise AssertionError(f"{method} didn't fail")
        return context["tasks"][0]["code"], context["errors"][0]

    async def user(self, name: str, role: str = "user", address: str = "192.0.2.1") -> Client:
        """Make a user and log in as it."""
        await self.do("create_user", name, PASSWORD, {"role": role})
        return await self.running.login(name, address=address)

    async def node(self, name: str = "node1", **options: Any) -> int:
        """Add a simulated compute node."""
        return await self.do("add_compute_node", name, "simulator", "", options)


class ServerCase(TestCase):
    """Tests with a server."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        (self.directory / "password").write_text(PASSWORD)
        self.running: list[Running] = []
        self._kept = ExitStack()
        self._databases: dict[Path, str] = {}
        # The last of all cleanups. tearDown isn't called where setUp fails: a server that is left keeps the process alive.
        self.addCleanup(self._stop_all)

    async def _stop_all(self) -> None:
        for running in self.running:
            await running.stop()
        self._kept.close()

    def database(self, state: Path) -> str:
        """The URL of the database that goes with a state directory, on the run's engine."""
        if state not in self._databases:
            self._databases[state] = self._kept.enter_context(new_database(state / "fluidvm.db"))
        return self._databases[state]

    def forget(self) -> None:
        """The next server begins as the first one did; none may run."""
        shutil.rmtree(self.directory / "state")
        self._databases.pop(self.directory / "state")

    def execute(self, statement: str, **parameters: Any) -> None:
        """Change the store's rows behind the server's back. It must change some."""
        self.assertGreater(execute(self.database(self.directory / "state"), statement, **parameters), 0, statement)

    def settings(self, *options: str) -> Settings:
        """Parse a command line."""
        parsed = Options()
        state = self.directory / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        parsed.parseOptions(
            [
                "--state",
                str(state),
                "--http",
                "tcp:0:interface=127.0.0.1",
                "--admin-password-file",
                str(self.directory / "password"),
                "--session-timeout",
                "86400",
                *CHEAP,
                *options,
            ]
        )
        settings = parsed.settings
        return settings if "--database" in options else replace(settings, database=self.database(settings.state))

    def serve(self, *options: str) -> Running:
        """Start a server; it is stopped after the test."""
        running = Running(self.settings(*options))
        running.start()
        self.running.append(running)
        return running

    async def restart(self, running: Running) -> Running:
        """Stop a server, and start another on what it left."""
        await running.stop()
        self.running.remove(running)
        return self.serve()

    async def until(self, condition: Any) -> None:
        """Wait for threads, at most until trial's time-out."""
        while not condition():
            await deferLater(reactor, 0.005, lambda: None)

    async def refused(self, code: int, call: Any) -> str:
        """Check that a call is answered with a fault; gives its words."""
        try:
            answer = await call
        except xmlrpc.client.Fault as fault:
            self.assertEqual(fault.faultCode, code, fault.faultString)
            self.assertNotIn("Traceback", fault.faultString)
            return fault.faultString
        self.fail(f"fault {code} expected, but it answered {answer!r}")
        raise AssertionError
