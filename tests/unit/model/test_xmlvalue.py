"""Rendered values are read back by the standard library."""

from __future__ import annotations

import xmlrpc.client
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any
from xml.sax.saxutils import escape

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.model.xmlvalue import Rendered, carries, moment, render, text

# A busy machine must not fail the tests.
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)).map(lambda m: m.replace(microsecond=0))
SCALARS = (
    st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
    | MOMENTS
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def load(data: bytes) -> Any:
    """Read a value with the standard library."""
    document = b"<methodResponse><params><param>" + data + b"</param></params></methodResponse>"
    return xmlrpc.client.loads(document, use_datetime=True, use_builtin_types=True)[0][0]


def sent(value: Any) -> Any:
    """The value that the receiver gets."""
    if isinstance(value, str):
        return "".join(character if carries(character) else "\ufffd" for character in value)
    if isinstance(value, list):
        return [sent(member) for member in value]
    if isinstance(value, dict):
        return {sent(key): sent(member) for key, member in value.items()}
    return value


class Power(str, Enum):
    ON = "on"


class RenderTests(SynchronousTestCase):
    @settings(CALM)
    @given(VALUES)
    def test_round_trip(self, value: Any) -> None:
        self.assertEqual(load(render(value)), sent(value))

    @settings(CALM)
    @given(st.text(st.characters(exclude_categories=())))
    def test_text(self, value: str) -> None:
        self.assertEqual(load(render(value)), sent(value))
        text(value).decode("utf-8")

    def test_plain_text_is_escaped_as_by_the_standard_library(self) -> None:
        for value in ("", "a", "<&>", "]]>", "a\nb\tc", "é<", "\U0001f600"):
            self.assertEqual(text(value), escape(value).encode())

    def test_control_characters(self) -> None:
        for value in ("\0", "a\x1bb", "\ufffe", "\uffff", "\ud800", "\udfff\ud800", "x\x0b\x0c"):
            self.assertFalse(carries(value))
            self.assertEqual(load(render(value)), sent(value))
            self.assertIn("\ufffd", load(render(value)))

    def test_line_ends_survive(self) -> None:
        for value in ("a\rb", "a\r\nb", "\r", "\r<&>\0", "\n\t ", " a "):
            self.assertEqual(load(render(value)), value.replace("\0", "\ufffd"))

    def test_ranges(self) -> None:
        self.assertEqual(load(render(-(2**31))), -(2**31))
        self.assertEqual(load(render(2**31 - 1)), 2**31 - 1)
        for value in (2**31, -(2**31) - 1, 10**30, float("nan"), float("inf"), float("-inf")):
            self.assertRaises(OverflowError, render, value)
            self.assertRaises(OverflowError, render, [{"a": value}])

    def test_doubles_have_no_exponents(self) -> None:
        for value in (1e300, 5e-324, -1.5e-9, 0.1, -0.0, 2.0**53):
            data = render(value)
            self.assertEqual(load(data), value)
            self.assertNotIn(b"e", data.removeprefix(b"<value><double>").removesuffix(b"</double></value>").lower())

    def test_moments(self) -> None:
        east = timezone(timedelta(hours=2))
        for value in (datetime(2024, 1, 2, 3, 4, 5), datetime(2024, 1, 2, 5, 4, 5, 999, tzinfo=east)):
            self.assertIn(b">20240102T03:04:05<", render(value))
        self.assertIn(b">00070102T03:04:05<", render(datetime(7, 1, 2, 3, 4, 5)))
        self.assertEqual(moment(1.9), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))

    def test_enum(self) -> None:
        self.assertEqual(render(Power.ON), render("on"))

    def test_absent_members(self) -> None:
        self.assertEqual(load(render({"a": None, "b": 1})), {"b": 1})

    def test_no_type(self) -> None:
        for value in (None, object(), {1, 2}, [None], 1j, {1: "a"}, {b"a": 1}):
            self.assertRaises(TypeError, render, value)

    def test_rendered(self) -> None:
        one = Rendered(render("a<b"))
        self.assertEqual(render(one), one)
        self.assertEqual(load(render([one, {"k": one}])), ["a<b", {"k": "a<b"}])
