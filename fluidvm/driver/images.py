"""The contents of volumes: images are created from them, and they from images. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Interface


class IImages(Interface):
    """
    The contents of volumes can be read and written, piece by piece. Requires L{IDisks}.

    The contents are the bytes of the volume's file, in its format: those of a qcow2 volume begin with a qcow2 header. A new
    raw volume contains zeros. Each verb is given the format with which the volume was created; see L{IDisks}.
    """

    def measure_volume(pool: str, name: str, format: str) -> Deferred[int]:
        """
        Return the number of bytes that L{read_volume} can read.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @raise NoSuchThing: no such pool or volume.
        """

    def read_volume(pool: str, name: str, format: str, offset: int, length: int) -> Deferred[bytes]:
        """
        Read a piece of a volume that no running domain uses.

        Success changes nothing. Failure changes nothing. A repetition reads again.

        @param offset: in bytes.
        @param length: in bytes, at most 16 Mi.
        @return: fewer bytes if the volume ends before, none beyond its end.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: a domain that has it as a disk isn't stopped.
        """

    def write_volume(pool: str, name: str, format: str, offset: int, data: bytes) -> Deferred[None]:
        """
        Write a piece of a volume that no running domain uses.

        After success L{read_volume} returns it. After failure the contents of that piece are undefined; all else is as
        before. A repetition changes nothing.

        @param offset: in bytes. Pieces of a raw volume must lie within its size; volumes of other formats grow as needed.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: a domain that has it as a disk isn't stopped, or the piece exceeds the size of a raw volume.
        """
