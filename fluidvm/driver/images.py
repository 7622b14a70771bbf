"""Volumes' bytes, which images are made of and which are made of images. Drivers import it from L{fluidvm.driver}."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Interface


class IImages(Interface):
    """
    Volumes' bytes are read and written, piece by piece. Goes with L{IDisks}.

    They are those of the volume's file, in its format: a qcow2 volume's begin with a qcow2 file's head. A new raw volume's
    are zeros. Each verb is given the format that the volume was made with, as L{IDisks} has it.
    """

    def measure_volume(pool: str, name: str, format: str) -> Deferred[int]:
        """
        Tell how many bytes L{read_volume} has.

        Success changes nothing. Failure changes nothing. A repetition looks anew.

        @raise NoSuchThing: no such pool or volume.
        """

    def read_volume(pool: str, name: str, format: str, offset: int, length: int) -> Deferred[bytes]:
        """
        Read a piece of a volume that no running domain has.

        Success changes nothing. Failure changes nothing. A repetition reads anew.

        @param offset: in bytes.
        @param length: in bytes, at most 16 Mi.
        @return: fewer bytes where the volume ends, none from its end on.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: a domain that has it as a disk isn't stopped.
        """

    def write_volume(pool: str, name: str, format: str, offset: int, data: bytes) -> Deferred[None]:
        """
        Write a piece of a volume that no running domain has.

        After success L{read_volume} gives it. After failure what is there in its place isn't known; all else is as before. A
        repetition changes nothing.

        @param offset: in bytes. A raw volume's pieces lie within its size; what has another format grows with them.
        @raise NoSuchThing: no such pool or volume.
        @raise WrongState: a domain that has it as a disk isn't stopped, or the piece goes beyond a raw volume's end.
        """
