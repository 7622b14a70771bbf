"""Screenshots from hosts that don't write PNG themselves."""

from __future__ import annotations

import io

import png
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DriverError
from fluidvm.drivers.libvirt.screen import to_png


class ConversionTests(SynchronousTestCase):
    def test_the_pixels_stay_the_same(self) -> None:
        # The first pixels look like white space, but aren't a part of the header.
        points = bytes([10, 32, 9, 255, 0, 0, 0, 255, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        picture = to_png(b"P6\n3 2\n255\n" + points)
        width, height, rows, _ = png.Reader(io.BytesIO(picture)).asRGB()
        self.assertEqual((width, height, b"".join(bytes(row) for row in rows)), (3, 2, points))

    def test_an_invalid_picture_is_refused(self) -> None:
        heads = (b"", b"P5\n1 1\n255\n", b"P6\n2 2\n255\n", b"P6\n1 1\n65535\n", b"P6\n-1 -1\n255\n", b"P6\n0 0\n255\n")
        for bad in (head + b"abc" for head in heads):
            self.assertRaises(DriverError, to_png, bad)
