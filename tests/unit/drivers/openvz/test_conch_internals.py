"""The undocumented names of conch that the SSH runner uses are there, and are what it takes them for."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.transport import SSHClientTransport, SSHTransportBase
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

import fluidvm.drivers.openvz
import twisted
from fluidvm.drivers.openvz.conch_internals import INTERNALS, Channel, Connection, Internal

ROOM = Path(fluidvm.drivers.openvz.__file__).parent


def complain(internal: Internal, what: str) -> str:
    name = f"{internal.owner}.{internal.name}"
    return f"Twisted {twisted.__version__}: {name} {what}. It is needed for this: {internal.used_for}."


class Transport(StringTransport):
    """TCP's, as far as conch and the runner need it."""

    no_delay = aborted = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def abortConnection(self) -> None:
        self.aborted = True


class Open(Channel):
    """Notes that it has ended."""

    name = b"session"
    ended = False

    def openFailed(self, reason: Any) -> None:
        self.ended = True


class InternalsTests(SynchronousTestCase):
    def transport(self) -> Any:
        """A transport of conch's on a connection that has been made."""
        transport: Any = SSHClientTransport()
        transport.factory = None
        transport.makeConnection(Transport())
        return transport

    def connection(self) -> Any:
        connection: Any = SSHConnection()
        connection.transport = self.transport()
        connection.transport.sendPacket = lambda *packet: None
        return connection

    def test_each_name_is_what_it_is_taken_for(self) -> None:
        examples = {SSHChannel: SSHChannel(), SSHConnection: self.connection(), SSHTransportBase: self.transport()}
        for internal in INTERNALS:
            owner = namedAny(internal.owner)
            if isinstance(internal.expected, str):
                method = getattr(owner, internal.name, None)
                self.assertIsNotNone(method, complain(internal, "is missing"))
                found = str(inspect.signature(method))  # type: ignore[arg-type]
                self.assertEqual(found, internal.expected, complain(internal, "has other arguments"))
                continue
            example = examples[owner]
            self.assertTrue(hasattr(example, internal.name), complain(internal, "is missing"))
            self.assertIsInstance(getattr(example, internal.name), internal.expected, complain(internal, "has another type"))

    def test_a_name_that_changes_is_reported_with_what_depends_on_it(self) -> None:
        self.patch(SSHConnection, "serviceStopped", lambda self, why: None)
        error = self.assertRaises(self.failureException, self.test_each_name_is_what_it_is_taken_for)
        self.assertIn("SSHConnection.serviceStopped has other arguments", str(error))
        self.assertIn("commands that run when the connection is lost fail", str(error))

    def test_the_end_of_the_connection_reaches_channels(self) -> None:
        """Also of a transport of conch's that doesn't tell them."""
        connection, channel = self.connection(), Open()
        carrier = Channel(conn=connection)
        lost: list[Any] = []
        connection.transport.connectionLost = lost.append
        tcp = connection.transport.transport
        ours = Connection(carrier)
        self.assertTrue(tcp.no_delay)
        ours.open(channel)
        self.assertFalse(channel.ended)
        connection.transport.connectionLost(Failure(ConnectionError()))
        self.assertEqual((len(lost), channel.ended), (1, True))

    def test_a_connection_is_cut(self) -> None:
        connection = self.connection()
        ours = Connection(Channel(conn=connection))
        tcp = connection.transport.transport
        ours.abort()
        self.assertTrue(tcp.aborted)
        connection.transport.transport = None
        ours.abort()

    def test_what_the_window_has_no_room_for(self) -> None:
        """It stays in C{buf} until the other side takes more."""
        sent: list[bytes] = []
        connection: Any = SSHConnection()
        connection.sendData = lambda channel, data: sent.append(data)
        channel = Channel(remoteWindow=2, remoteMaxPacket=10, conn=connection)
        self.assertTrue(channel.all_sent)
        channel.write(b"abc")
        self.assertEqual((sent, channel.all_sent), ([b"ab"], False))
        channel.addWindowBytes(5)
        self.assertEqual((sent, channel.all_sent), ([b"ab", b"c"], True))

    def test_no_other_module_uses_a_private_name_of_another_object(self) -> None:
        for path in ROOM.glob("*.py"):
            if path.name != "conch_internals.py":
                for node in ast.walk(ast.parse(path.read_text())):
                    if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                        owner = node.value.id if isinstance(node.value, ast.Name) else ""
                        self.assertIn(owner, ("self", "cls"), f"{path.name}: {node.attr}")
                        self.assertNotEqual(node.attr, "_log", f"{path.name}: the name is conch's")
