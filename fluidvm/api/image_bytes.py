"""Bytes on their way between images' files, volumes and the network."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from fluidvm.driver import IImages, Progress
from fluidvm.engine.job import Job
from fluidvm.faults import Conflict, Forbidden, Unavailable
from fluidvm.image_files import MIB, PIECE
from fluidvm.objects import Disk, Image

REDIRECTS = 5
CONNECT_TIME = 30.0
"""Seconds that a server of images has to be connected to."""
SILENCE = 60.0
"""Seconds that it may be silent."""
_LOCATION = b"Location"


async def fill(job: Job, image: int, disk: Disk, volume: str, progress: Progress) -> None:
    """Write an image's bytes into a new volume."""
    connection = await job.connection(disk.compute_node, IImages)
    length = await job.images.length(image)
    for offset in range(0, length, PIECE):
        data = await job.interruptible(job.images.read(image, offset))
        # A new raw volume is zeros already; one of another format ends where its last byte was written.
        if disk.format != "raw" or data.strip(b"\0"):
            await job.interruptible(connection.write_volume(disk.pool, volume, disk.format, offset, data))
        progress(min(99, 100 * (offset + PIECE) // length))


async def drain(job: Job, disk: Disk, image: Image) -> None:
    """Write a volume's bytes into an image's file."""
    connection = await job.connection(disk.compute_node, IImages)
    await job.images.begin(image.id)
    offset = 0
    while data := await job.interruptible(connection.read_volume(disk.pool, disk.volume, disk.format, offset, PIECE)):
        await job.images.append(image.id, offset, data)
        offset += len(data)
        job.progress(min(99, 100 * offset // (disk.size * MIB)))


def check_url(urls: tuple[str, ...], url: str) -> None:
    """@raise Forbidden: the administrator hasn't allowed images from there."""
    if not any(url.startswith(allowed) for allowed in urls):
        raise Forbidden(f"spec.url: images may not be fetched from {url}; --image-urls says from where.")


async def fetch(job: Job, url: str, image: Image) -> None:
    """
    Fetch an image's file. Redirections lead only to where images may be fetched from, too.

    @raise Unavailable: it can't be fetched; says why.
    @raise Conflict: it is too large.
    """
    files = job.images
    await files.begin(image.id)
    if not files.moves:
        return
    agent = Agent(files.reactor, connectTimeout=CONNECT_TIME)
    for _ in range(REDIRECTS):
        check_url(files.urls, url)
        try:
            asking = agent.request(b"GET", url.encode("ascii"), Headers({b"User-Agent": [b"FluidVM"]}))
            response: Any = await job.interruptible(asking)
        except Conflict:
            raise
        except Exception as error:
            raise Unavailable(f"{url}: {_words(error)}.") from None
        places = response.headers.getRawHeaders(_LOCATION, [])
        if response.code in (301, 302, 303, 307, 308) and places:
            response.deliverBody(_Unread())
            url = places[0].decode("ascii", "replace")
            continue
        if response.code != 200:
            response.deliverBody(_Unread())
            raise Unavailable(f"{url}: the answer is {response.code}.")
        body = _Body(job, image.id, None if response.length is UNKNOWN_LENGTH else int(response.length))
        response.deliverBody(body)
        await job.interruptible(body.done)
        return
    raise Unavailable(f"{url}: too many redirections.")


def _words(error: Exception) -> str:
    reasons = getattr(error, "reasons", None)  # twisted.web wraps what has gone wrong
    return str(reasons[0].value if reasons else error).rstrip(".") or type(error).__name__


class _Unread(Protocol):
    """Nobody wants the body."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.loseConnection()


class _Body(Protocol):
    """
    Writes what comes in, piece by piece: while one is written, none comes.

    @ivar done: fires when all is written.
    """

    transport: Any

    def __init__(self, job: Job, image: int, length: int | None) -> None:
        self.done: Deferred[None] = Deferred(self._cancel)
        self._job = job
        self._image = image
        self._length = length
        self._held = bytearray()
        self._written = 0
        self._writing = False
        self._ended: Failure | None = None
        self._silence: Any = None

    def _cancel(self, done: Deferred[None]) -> None:
        self._abort()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionMade(self) -> None:
        self._listen()

    def _listen(self) -> None:
        self._stop_listening()
        self._silence = self._job.clock.callLater(SILENCE, self._fail, Unavailable(f"No byte came for {SILENCE:g} s."))

    def _stop_listening(self) -> None:
        if self._silence is not None and self._silence.active():
            self._silence.cancel()

    def dataReceived(self, data: bytes) -> None:
        self._listen()
        self._held += data
        most = self._job.images.most
        if self._written + len(self._held) > most:
            self._fail(Conflict(f"It is larger than the {most // MIB} MiB of --max-image."))
        elif len(self._held) >= PIECE:
            self._write()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_listening()
        self._ended = reason
        self._write()

    def _write(self) -> None:
        if self._writing or self.done.called:
            return
        if not self._held:
            if self._ended is not None:
                self._finish(self._ended)
            return
        self._writing = True
        if self._ended is None:
            self.transport.pauseProducing()
        data, self._held = bytes(self._held), bytearray()
        self._job.images.append(self._image, self._written, data).addCallbacks(self._wrote, self._failed, (len(data),))

    def _wrote(self, nothing: None, count: int) -> None:
        self._writing = False
        self._written += count
        if self._length:
            self._job.progress(min(90, 90 * self._written // self._length))
        if self._ended is None:
            self.transport.resumeProducing()
        self._write()

    def _failed(self, failure: Failure) -> None:
        self._writing = False
        self._fail(failure.value)

    def _fail(self, error: BaseException | None) -> None:
        self._stop_listening()
        self._abort()
        if not self.done.called:
            self.done.errback(Failure(error))

    def _finish(self, reason: Failure) -> None:
        if reason.check(ResponseDone):
            self.done.callback(None)
        else:
            self._fail(Unavailable(f"The connection broke after {self._written} bytes."))
