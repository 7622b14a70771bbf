"""Answers of guest agents: whatever a guest returns can only fail its own verb, with a short message."""

from __future__ import annotations

import base64
import json
from typing import Any

import libvirt
import libvirt_qemu
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DomainState, DriverError
from fluidvm.drivers.libvirt import guest as libvirt_guest
from fluidvm.drivers.libvirt.guest import MOST_OUTPUT, MOST_WORDS, LibvirtGuest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["aGk=", "aG", "\x00"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["exited", "exitcode", "signal", "out-data", "err-data", "out-truncated", "pid"])


class Domain:
    def name(self) -> str:
        return "web1"

    def isActive(self) -> bool:
        return True

    def agentSetResponseTimeout(self, seconds: int, flags: int) -> None:
        pass


class Host(LibvirtGuest):
    """A connection with a running domain."""

    def __init__(self) -> None:
        self._domain: Any = Domain()
        self._to_agents: Any = self

    def _do_find(self, uuid: str) -> Any:
        return self._domain

    def _do_state(self, domain: Any) -> DomainState:
        return DomainState.RUNNING

    def do_connection(self) -> Any:
        return self

    def lookupByUUIDString(self, uuid: str) -> Any:
        return self._domain

    def _alive(self) -> bool:
        return True


class AnswerTests(SynchronousTestCase):
    def ask(self, said: Any) -> Any:
        """The result of an answer; C{None}: it was refused."""
        self.patch(libvirt_qemu, "qemuAgentCommand", lambda *args: said)
        try:
            answer = libvirt_guest._do_ask(Domain(), "guest-exec-status", {"pid": 1})
            output = libvirt_guest._output(answer)
        except DriverError as error:
            self.assertLess(len(str(error)), 200)
            return None
        self.assertTrue(-(2**31) < output.code < 2**31)
        for text in (output.stdout, output.stderr):
            self.assertLessEqual(len(text), MOST_OUTPUT)
        return output

    @given(
        st.dictionaries(NAMES, JSON) | st.fixed_dictionaries({"exitcode": st.integers(-(2**33), 2**33), "out-data": JSON})
    )
    @example({"exitcode": 7, "out-data": "aGk="})
    @example({"exitcode": 2**40})
    @example({"signal": -(2**31)})
    @example({"exitcode": True})
    @example({"exitcode": 0, "out-data": "é"})
    @example({"exitcode": 0, "err-data": None})
    def test_any_members(self, answer: dict[str, Any]) -> None:
        self.ask(json.dumps({"return": answer}))

    @given(JSON)
    def test_any_json(self, answer: Any) -> None:
        self.assertIsNone(self.ask(json.dumps(answer)))

    @given(st.text())
    def test_any_text(self, said: str) -> None:
        self.assertIsNone(self.ask(said))

    def test_shapes(self) -> None:
        for said in (
            "[" * 2_000_000,
            '{"return": ' + '{"a":' * 500_000,
            '{"return": {"exitcode": ' + "9" * 5000 + "}}",
            None,
            "",
        ):
            self.assertIsNone(self.ask(said))

    def test_large_answers(self) -> None:
        answer = {"exited": True, "exitcode": 3, "out-data": base64.b64encode(b"\xff" * 4 * MOST_OUTPUT).decode()}
        output = self.ask(json.dumps({"return": answer}))
        self.assertEqual((output.code, len(output.stdout)), (3, MOST_OUTPUT))

    @given(st.text(max_size=2000))
    @example("x" * 4_000_000)
    @example("a\nb\x00\x1b[31m" * 1000)
    def test_any_error(self, words: str) -> None:
        error = libvirt.libvirtError("failed")
        error.err = (libvirt.VIR_ERR_INTERNAL_ERROR, 0, words, 2, "", None, None, 0, 0)

        def fail(domain: Any) -> None:
            raise error

        refused = self.assertRaises(DriverError, Host()._do_agent, "command in domain u", "u", fail)
        self.assertLess(len(str(refused)), MOST_WORDS + 100)
        self.assertEqual(len(str(refused).splitlines()), 1)
