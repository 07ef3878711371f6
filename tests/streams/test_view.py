"""What a worker shows of itself is what its stages and its sink hold now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from schemas.windows import Revision
from sinks.contract import DELIVERED, Outcome, refused, retry
from streams import live
from streams.view import WorkerView
from tests.streams.running import METERS, AnsweringSink, Running, two_closed_windows, until
from tests.usage import MINUTE, NOON, ListSink, usage
from tests.world import PARTIALS, USAGE, ClosingProcess, MeteringProcess, World


@pytest.fixture
def world() -> World:
    return two_closed_windows()


class ReadableSink(ListSink):
    """A sink whose documents can be read again, as Cosmos'."""

    async def read_window(self, window_id: str, subject: str | None) -> dict[str, Any] | None:
        found = [r for r in self.received if r.window_id == window_id and subject in (None, r.subject)]
        return {"id": window_id, "revision": found[-1].revision} if found else None

    async def read_subject(self, subject: str, *_: object, **__: object) -> list[dict[str, Any]]:
        return [{"id": r.window_id, "revision": r.revision} for r in self.received if r.subject == subject]


async def ready(running: Running, sink: ListSink) -> WorkerView:
    """Once both closed windows are delivered."""
    await until(lambda: len(sink.received) == 2)
    return WorkerView(running.worker, lambda: {"http://a": {USAGE: [0]}})


async def test_a_window_is_shown_by_its_id_while_it_is_in_memory(world: World) -> None:
    sink = ReadableSink()
    async with Running(world, sink) as running:
        view = await ready(running, sink)
        shown = list(view.totals("acme", "total", "PT1M"))
        assert [(window["state"], window["value"]) for window in shown] == [
            ("closed", "1"),
            ("closed", "2"),
            ("open", "3"),
        ]
        assert [view.window(window["id"]) for window in shown] == shown
        assert view.window("total~PT1M~20260101T000000Z~aaaaaaaaaaaaaaaaaaaaaaaaaa") is None
        assert view.window("nothing of ours") is None
        assert list(view.totals("acme", None, None, state="open")) == shown[2:]
        assert list(view.totals(None, None, None, after=("acme", shown[0]["id"]))) == shown[1:]


async def test_what_is_no_more_in_memory_is_asked_of_the_sink_that_keeps_it(world: World) -> None:
    sink = ReadableSink()
    async with Running(world, sink) as running:
        view = await ready(running, sink)
        name = sink.received[0].window_id
        assert await view.stored_window(name, "acme") == {"id": name, "revision": 1}
        assert await view.stored_window(name, "another") is None
        found = await view.stored_totals("acme", None, None)
        assert [document["state"] for document in found] == ["sealed", "sealed"]


def sealed_windows() -> World:
    """Usage of three minutes, and of one a day later, which seals those. The first of them was closed with 1, and is sealed
    with 1001."""
    world, later_ms = World(METERS), NOON + 24 * 60 * MINUTE + 5 * MINUTE
    for number, at_ms in enumerate((NOON, NOON + MINUTE, NOON + 2 * MINUTE)):
        world.use(usage(f"e{number}", at_ms, n=number + 1), at_ms=at_ms)
    world.tick(NOON + 4 * MINUTE)
    world.use(usage("late", NOON, n=1000), at_ms=NOON + 4 * MINUTE)
    world.use(usage("new", later_ms, n=7), at_ms=later_ms)
    owner = MeteringProcess(world)
    while owner.table.position < world.logs[USAGE, 0].end:
        owner.read(1)
        owner.emit()
    owner.checkpoint()
    closing = ClosingProcess(world)
    closing.read()
    assert closing.table.counters.windows_sealed == 3 and closing.table.counters.revisions == 4
    return world


async def sealed(running: Running, settled: Callable[[], bool]) -> WorkerView:
    """Once the three windows are sealed, and their revisions were given to the sink."""
    await running.read(PARTIALS)
    table = running.worker.closing[0].task.closing.table
    await until(lambda: table.counters.windows_sealed == 3 and settled())
    return WorkerView(running.worker, lambda: {"http://a": {USAGE: [0]}})


async def test_a_sealed_window_is_shown_while_its_last_revision_is_not_everywhere() -> None:
    sink = AnsweringSink(answer=lambda revision: retry("429"))
    async with Running(sealed_windows(), sink) as running:
        view = await sealed(running, lambda: bool(sink.received))
        shown = list(view.totals("acme", "total", "PT1M"))
        assert [(window["state"], window["revision"], window["value"]) for window in shown] == [
            ("sealed", 2, "1001"),
            ("sealed", 1, "2"),
            ("sealed", 1, "3"),
            ("open", 0, "7"),
        ]
        assert not any(window["pending"] for window in shown)
        assert [view.window(window["id"]) for window in shown] == shown
        assert list(view.totals(None, None, None)) == shown
        assert list(view.totals("acme", None, None, state="sealed")) == shown[:3]
        assert list(view.totals("acme", None, None, state="open")) == shown[3:]
        assert list(view.totals("acme", None, None, state="closed")) == []
        assert list(view.totals(None, None, None, after=("acme", shown[1]["id"]))) == shown[2:]
        for subject, meter, size in (("nobody", None, None), (None, "another", None), (None, None, "PT1H")):
            assert list(view.totals(subject, meter, size)) == []


async def test_a_sealed_window_whose_last_revision_was_refused_is_shown_as_that_has_it() -> None:
    def answer(revision: Revision) -> Outcome:
        return refused("403") if revision.revision == 2 else DELIVERED

    sink = AnsweringSink(answer=answer)
    async with Running(sealed_windows(), sink) as running:
        view = await sealed(running, lambda: len(sink.received) == 4)
        (shown,) = view.totals("acme", None, None, state="sealed")
        assert (shown["revision"], shown["value"], shown["delta"]) == (2, "1001", "1000")
        assert view.window(shown["id"]) == shown
        assert view.window(sink.received[1].window_id) is None, "everybody has it"


async def test_a_closed_window_is_shown_once_whatever_waits_of_it(world: World) -> None:
    sink = AnsweringSink(answer=lambda revision: retry("429"))
    async with Running(world, sink) as running:
        await until(lambda: bool(sink.received))
        view = WorkerView(running.worker, lambda: {"http://a": {USAGE: [0]}})
        assert [window["state"] for window in view.totals("acme", None, None)] == ["closed", "closed", "open"]
        assert list(view.totals("acme", None, None, state="sealed")) == []


async def test_without_such_a_sink_nothing_is_stored(world: World) -> None:
    sink = ListSink("servicebus")
    async with Running(world, sink) as running:
        view = await ready(running, sink)
        assert await view.stored_window(sink.received[0].window_id, None) is None
        assert await view.stored_totals("acme", None, None) == []
        assert view.status()["sinks"]["cosmos"]["state"] == "unconfigured"


async def test_the_live_feed_says_what_is_provisional_and_what_was_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HELD_MAX", 2)
    sink = ReadableSink()
    async with Running(world, sink) as running:
        view = await ready(running, sink)
        by_state = {window["state"]: window for window in view.totals(None, None, None)}
        stage = running.worker.closing[0].task.closing
        keys = sorted(stage.table.windows, key=lambda key: key.start_ms)
        stream = view.live()
        listening = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        running.worker.live.tell(np.array([stage.table.windows.slot(key) for key in keys]), stage.describe_slot)
        assert await listening == {"dropped": 1}
        told = [await anext(stream), await anext(stream)]
        assert told == [{**by_state["closed"], "provisional": False}, {**by_state["open"], "provisional": True}]
