"""What a worker shows of itself is what its stages and its sink hold now."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from streams import live
from streams.view import WorkerView
from tests.streams.running import Running, two_closed_windows, until
from tests.usage import ListSink
from tests.world import USAGE, World


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
