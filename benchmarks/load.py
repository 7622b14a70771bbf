"""The load generator: a few keep-alive connections that each send a request as soon as the last one is answered."""

from __future__ import annotations

import selectors
import socket
import time


class Connection:
    """One client: sends the same request over and over."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request
        self.head = b""
        self.left = -1
        self.answered = 0

    def send(self) -> None:
        """Ask once more."""
        self.head, self.left = b"", -1
        self.socket.sendall(self.request)

    def receive(self, buffer: bytearray) -> bool:
        """Take in what is there. Tells whether the answer is whole."""
        got = self.socket.recv_into(buffer)
        if not got:
            raise ConnectionError("the server closed the connection")
        if self.left < 0:
            self.head += bytes(buffer[:got])
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return False
            if not self.head.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(self.head[:200])
            lower = self.head[:end].lower()
            place = lower.index(b"content-length:") + 15
            length = int(lower[place:].split(b"\r\n", 1)[0])
            self.left = length - (len(self.head) - end - 4)
        else:
            self.left -= got
        if self.left:
            return False
        self.answered += 1
        return True


def request(body: str) -> bytes:
    """An XML-RPC call as the bytes of an HTTP request."""
    data = body.encode()
    head = f"POST /RPC2 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/xml\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def rate(port: int, call: bytes, seconds: float, connections: int = 8) -> float:
    """
    Load a server.

    @param call: as L{request} makes it.
    @param seconds: how long.
    @return: answers per second.
    """
    selector = selectors.DefaultSelector()
    clients = [Connection(port, call) for _ in range(connections)]
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.send()
    buffer = bytearray(4 * 1024 * 1024)
    start = time.perf_counter()
    end = start + seconds
    while (now := time.perf_counter()) < end:
        for key, _ in selector.select(1):
            if key.data.receive(buffer):
                key.data.send()
    for client in clients:
        client.socket.close()
    return sum(client.answered for client in clients) / (now - start)
