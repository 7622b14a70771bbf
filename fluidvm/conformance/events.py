"""Tests of events: state changes of domains are reported, whoever caused them."""

from __future__ import annotations

from fluidvm.conformance.case import PAUSED, POLL, RUNNING, STOPPED, ContractCase
from fluidvm.driver import DomainState

Event = tuple[str, DomainState | None]
SOON = 1.0
"""Seconds within which an event must come."""


class EventsContract(ContractCase):
    """Tests of L{IEvents}."""

    def subscribed(self) -> list[Event]:
        """Subscribe, and return the list to which events are added."""
        events: list[Event] = []
        self.connection.subscribe(lambda uuid, state: events.append((uuid, state)))
        return events

    async def comes(self, events: list[Event], event: Event, when: str) -> None:
        """Wait at most a second for an event, then clear the list."""
        passed = 0.0
        while event not in events:
            self.assertLess(passed, SOON, f"subscribe: {when} is reported within a second; the events were {events}")
            await self.factory.pass_time(POLL)
            passed += POLL
        self.assertEqual({uuid for uuid, _ in events}, {event[0]}, "subscribe: only the domain that changes is reported")
        events.clear()

    async def test_what_the_driver_does_is_told(self) -> None:
        spec = await self.defined()
        await self.defined()
        await self.factory.pass_time(SOON)
        events = self.subscribed()
        for verb, state in (("start", RUNNING), ("pause", PAUSED), ("resume", RUNNING), ("stop", STOPPED)):
            await self.ask(verb, spec.uuid)
            await self.comes(events, (spec.uuid, state), f"the change by {verb}")
            await self.is_in(state, spec.uuid, f"subscribe: get_domain reports the state after {verb}, too")
        await self.ask("undefine_domain", spec.uuid)
        await self.comes(events, (spec.uuid, None), "that a domain no longer exists")

    async def test_what_others_do_is_told(self) -> None:
        events = self.subscribed()
        more = self.subscribed()
        spec = await self.started()
        await self.comes(events, (spec.uuid, RUNNING), "the change by start")
        await self.comes(more, (spec.uuid, RUNNING), "with each callback, the change by start")
        await self.factory.power_off_behind(spec.uuid)
        await self.comes(events, (spec.uuid, STOPPED), "a change behind the driver's back")
        await self.comes(more, (spec.uuid, STOPPED), "with each callback, a change behind the driver's back")

    async def test_what_another_connection_does_is_told(self) -> None:
        events = self.subscribed()
        spec = await self.defined()
        another = await self.connect()
        await self.on(another, "start", spec.uuid)
        await self.comes(events, (spec.uuid, RUNNING), "a change by another connection")

    async def test_nothing_is_told_after_close(self) -> None:
        spec = await self.started()
        events = self.subscribed()
        await self.ask("close")
        events.clear()
        self.connection = await self.connect()
        await self.ask("stop", spec.uuid)
        await self.factory.pass_time(SOON)
        self.assertEqual(events, [], "close: no events come afterwards")
