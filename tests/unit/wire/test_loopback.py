"""The HTTP front on real sockets, with clients that know nothing of Twisted."""

from __future__ import annotations

import http.client
import socket
import ssl
import xmlrpc.client
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, wrapServerTLS
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fluidvm.wire import bounds
from fluidvm.wire.peer import Peer
from fluidvm.wire.site import make_site
from fluidvm.wire.xmlrpc import parse_call, render_answer


class Dispatcher:
    """Answers C{echo} with its argument, C{long} with so many characters, C{wait} after so many seconds."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []

    def dispatch(self, body: bytes, peer: Peer) -> bytes | Deferred[bytes]:
        self.peers.append(peer)
        name, arguments = parse_call(body)
        if name == "wait":
            return deferLater(reactor, arguments[0], lambda: render_answer("waited"))  # type: ignore[arg-type]
        return render_answer("x" * arguments[0] if name == "long" else arguments[0])


def certificate() -> bytes:
    """A key and a certificate signed by itself, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class LoopbackTests(TestCase):
    async def serve(self, pem: bytes = b"", **options: Any) -> int:
        """Listen; give the port."""
        self.dispatcher = Dispatcher()
        self.site = make_site(self.dispatcher, lambda: (True, {}), reactor=reactor, **options)  # type: ignore[arg-type]
        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        if pem:
            own = PrivateCertificate.loadPEM(pem)
            tls = CertificateOptions(
                privateKey=own.privateKey.original,
                certificate=own.original,
                caCerts=[own.original],
                verify=True,
                requireCertificate=False,
            )
            endpoint = wrapServerTLS(tls, endpoint)
        port = await endpoint.listen(self.site)
        self.addCleanup(self.gone)
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def gone(self) -> None:
        """Wait until the last connection has been counted out."""
        for _ in range(500):
            if not self.site.connections:
                return
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        self.fail("connections are left")

    async def client(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a blocking client in a thread."""
        return await deferToThread(function, *arguments)

    async def test_server_proxy(self) -> None:
        port = await self.serve()

        def talk() -> list[Any]:
            with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/RPC2") as proxy:
                found: list[Any] = [proxy.echo(number) for number in (1, 2, 3)]
                found += [proxy.wait(0.02), len(str(proxy.long(3_000_000))), proxy.echo("x" * 200_000), proxy.echo([])]
                return found

        self.assertEqual(await self.client(talk), [1, 2, 3, "waited", 3_000_000, "x" * 200_000, []])
        self.assertEqual(set(self.dispatcher.peers), {Peer("127.0.0.1")})

    async def test_far_too_large_for_a_blocking_client(self) -> None:
        port = await self.serve()

        def talk() -> list[Any]:
            with xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/RPC2") as proxy:
                try:
                    return [proxy.echo("x" * (10 * 2**20))]
                except xmlrpc.client.Fault as fault:
                    return [fault.faultCode, proxy.echo(5)]

        self.assertEqual(await self.client(talk), [413, 5])

    async def test_chunks(self) -> None:
        port = await self.serve()

        def talk(times: int) -> bytes:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            body = [b"<methodCall><methodName>echo</methodName><params><param><value>", *[b"y" * 1000] * times]
            connection.request("POST", "/RPC2", iter([*body, b"</value></param></params></methodCall>"]))
            answer = connection.getresponse().read()
            connection.close()
            return answer

        self.assertIn(b"y" * 1000, await self.client(talk, 1))
        self.assertIn(b"<int>413</int>", await self.client(talk, 10_000))

    async def test_tls(self) -> None:
        pem = certificate()
        path = self.mktemp()
        port = await self.serve(pem)

        def talk(show: bool) -> list[Any]:
            context = ssl.create_default_context(cadata=pem.split(b"-----BEGIN PRIVATE")[0].decode())
            if show:
                Path(path).write_bytes(pem)
                context.load_cert_chain(path)
            with xmlrpc.client.ServerProxy(f"https://localhost:{port}/RPC2", context=context) as proxy:
                return [proxy.echo(1), proxy.echo(2), len(str(proxy.long(3_000_000))), proxy.wait(0.01)]

        for show in (False, True):
            self.assertEqual(await self.client(talk, show), [1, 2, 3_000_000, "waited"])
            peer = self.dispatcher.peers[-1]
            self.assertEqual((peer.tls, peer.certificate is not None), (True, show))

    async def test_refused(self) -> None:
        for pem in (b"", certificate()):
            port = await self.serve(pem, connections_per_address=2)

            def talk(port: int = port) -> list[bytes]:
                kept = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
                with socket.create_connection(("127.0.0.1", port)) as extra:
                    extra.settimeout(5)
                    try:
                        found = [extra.recv(100)]
                    except ConnectionResetError:
                        found = [b""]
                for connection in kept:
                    connection.close()
                return found

            self.assertEqual(await self.client(talk), [b""])
            await self.gone()
            self.assertEqual(self.site.connections_of("127.0.0.1"), 0)

    async def test_client_leaves_while_it_waits(self) -> None:
        port = await self.serve()

        def leave() -> None:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                body = xmlrpc.client.dumps((0.1,), "wait").encode()
                connection.sendall(
                    b"POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )

        await self.client(leave)
        await deferLater(reactor, 0.2)  # type: ignore[arg-type]
        self.assertEqual((len(self.dispatcher.peers), self.flushLoggedErrors()), (1, []))

    async def test_times_on_the_wire(self) -> None:
        port = await self.serve(header_time=0.1, idle_time=0.1)

        def talk(data: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.settimeout(10)
                connection.sendall(data)
                found = b""
                while part := connection.recv(10000):
                    found += part
                return found

        self.assertEqual(await self.client(talk, b""), b"")
        self.assertIn(b" 200 ", await self.client(talk, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        # It must be able to read the answer although it has sent nothing that ends.
        self.patch(bounds, "LINGER", 0.1)
        self.assertIn(b" 408 ", await self.client(talk, b"POST /RP"))
