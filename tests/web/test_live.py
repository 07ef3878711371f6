"""`GET /v1/live` streams running totals of all partitions, bounded, and resumes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import aiohttp
import orjson

from tests.web.doubles import QUICK, Json, MemoryView, Worker, a_window, workers
from web.feed import Reader

WAIT_S = 10


class Stream:
    """The events of one open feed."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments = 0
        self.ids: list[str] = []

    async def next(self, *wanted: str) -> tuple[str, Json]:
        """The next event whose name is in `wanted` (any, if empty)."""
        async with asyncio.timeout(WAIT_S):
            event = ""
            while True:
                raw = await self.response.content.readline()
                assert raw, "the feed ended"
                line = raw.decode().rstrip("\n")
                if line.startswith(":"):
                    self.comments += 1
                elif line.startswith("id:"):
                    self.ids.append(line[3:].strip())
                elif line.startswith("event:"):
                    event = line[6:].strip()
                elif line.startswith("data:") and (not wanted or event in wanted):
                    return event, orjson.loads(line[5:])

    async def total(self) -> Json:
        """The next window."""
        return (await self.next("total"))[1]

    async def snapshot(self) -> tuple[list[Json], Json]:
        """(windows of the snapshot, its end)."""
        windows: list[Json] = []
        while True:
            event, data = await self.next("total", "snapshot")
            if event == "snapshot":
                return windows, data
            windows.append(data)


@contextlib.asynccontextmanager
async def feed(worker: Worker, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    """An open feed of `worker`."""
    async with worker.http.get(f"/v1/live{query}", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield Stream(response)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what the test is about; fails after a time that is no measure of anything."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_feed_begins_with_a_snapshot_then_changes() -> None:
    view = MemoryView(partials=[0, 1])
    view.put(a_window("acme"), a_window("zeta", state="closed", revision=2))
    async with workers(view) as (worker,), feed(worker) as stream:
        windows, end = await stream.snapshot()
        assert [(w["subject"], w["provisional"]) for w in windows] == [("acme", True), ("zeta", False)]
        assert end == {"windows": 2, "complete": True, "truncated": False, "missing_workers": []}
        view.change(a_window("acme", value="43", events=8))
        change = await stream.total()
        assert (change["value"], change["provisional"], change["revision"]) == ("43", True, 0)
        view.change(a_window("acme", value="43", events=8, revision=1, state="closed"))
        final = await stream.total()
        assert (final["provisional"], final["revision"]) == (False, 1)
        assert stream.ids == sorted(stream.ids, key=int)


async def test_last_event_id_resumes_with_the_current_totals() -> None:
    view = MemoryView(partials=[0, 1])
    async with workers(view) as (worker,):
        async with feed(worker) as stream:
            await stream.snapshot()
            view.change(a_window(value="1", events=1))
            await stream.total()
            last = stream.ids[-1]
        view.change(a_window(value="2", events=2))
        async with feed(worker, "", **{"Last-Event-ID": last}) as stream:
            windows, _ = await stream.snapshot()
            assert [w["value"] for w in windows] == ["2"]


async def test_a_closed_window_with_pending_changes_is_provisional() -> None:
    view = MemoryView(partials=[0, 1])
    view.put(a_window(state="closed", revision=1, pending=True))
    async with workers(view) as (worker,), feed(worker) as stream:
        ((window,), _) = await stream.snapshot()
        assert window["provisional"] is True


async def test_a_feed_is_filtered_by_subject_meter_and_size() -> None:
    view = MemoryView(partials=[0, 1])
    view.put(a_window("acme"), a_window("zeta"))
    async with workers(view) as (worker,), feed(worker, "?subject=zeta&meter=calls&window_size=PT1H") as stream:
        assert (await stream.snapshot())[0] == []
        for subject, meter, size in (("acme", "calls", "PT1H"), ("zeta", "x", "PT1H"), ("zeta", "calls", "PT1M")):
            view.change(a_window(subject, meter, size))
        wanted = a_window("zeta", "calls", "PT1H")
        view.change(wanted)
        assert (await stream.total())["id"] == wanted["id"]


async def test_any_worker_gives_the_changes_of_all_partitions() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    right.put(a_window("zeta"))
    async with workers(left, right) as (here, _), feed(here) as stream:
        windows, end = await stream.snapshot()
        assert [w["subject"] for w in windows] == ["zeta"]
        assert end["complete"] is True
        right.change(a_window("zeta", value="50", events=9))
        assert (await stream.total())["value"] == "50"
        left.change(a_window("acme", value="51"))
        assert (await stream.total())["value"] == "51"


async def test_changes_are_relayed_once_and_not_in_circles() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    async with workers(left, right) as (here, there), feed(here) as one, feed(there) as other:
        await one.snapshot()
        await other.snapshot()
        left.change(a_window("acme"))
        right.change(a_window("zeta"))
        for stream in (one, other):
            assert {(await stream.total())["subject"], (await stream.total())["subject"]} == {"acme", "zeta"}
        left.change(a_window("last"))
        for stream in (one, other):
            assert (await stream.total())["subject"] == "last"
        assert len(left.listeners) == len(right.listeners) == 1, "one relay per peer, however many readers"


async def test_many_readers_share_one_relay_and_the_last_one_ends_it() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    async with workers(left, right) as (here, there):
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(feed(here)) for _ in range(5)]
            for stream in streams:
                await stream.snapshot()
            assert there.site.feed.readers == 1
            right.change(a_window("zeta"))
            for stream in streams:
                assert (await stream.total())["subject"] == "zeta"
        await until(lambda: here.site.feed.readers == 0)
        await until(lambda: there.site.feed.readers == 0)
        await until(lambda: not left.listeners and not right.listeners)


async def test_a_peer_that_goes_is_told_and_one_that_comes_is_relayed() -> None:
    left, right, late = MemoryView(partials=[0], m=3), MemoryView(partials=[1], m=3), MemoryView(partials=[2], m=3)
    async with workers(left, right, late) as (here, there, third):
        assert left.urls is not None
        third_owned = left.urls.pop(third.url)
        async with feed(here) as stream:
            await stream.snapshot()
            await there.stop()
            while (await stream.next("workers"))[1] != {"complete": False, "missing_workers": [there.url]}:
                pass
            left.urls = {here.url: left.urls[here.url], third.url: third_owned}
            await until(lambda: here.site.feed.connected == {third.url})
            while not (await stream.next("workers"))[1]["complete"]:
                pass
            late.change(a_window("third"))
            assert (await stream.total())["subject"] == "third"


async def test_a_peers_feed_that_broke_off_is_made_good_by_a_snapshot() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    async with workers(left, right) as (here, there), feed(here) as stream:
        await stream.snapshot()
        for reader in list(there.site.feed._readers):
            reader.end()
        right.put(a_window("missed", value="99"))
        windows, _ = await stream.snapshot()
        assert [w["value"] for w in windows] == ["99"]


async def test_the_workers_own_changes_come_again_after_they_broke_off() -> None:
    view = MemoryView(partials=[0, 1])
    async with workers(view) as (worker,), feed(worker) as stream:
        await stream.snapshot()
        view.put(a_window("missed"))
        view.listeners[0].put_nowait(RuntimeError("as if a task had been restarted"))
        windows, _ = await stream.snapshot()
        assert [w["subject"] for w in windows] == ["missed"]
        await until(lambda: bool(view.listeners))
        view.change(a_window("after"))
        assert (await stream.total())["subject"] == "after"


async def test_a_snapshot_without_a_worker_says_so() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    left.put(a_window("acme"))
    async with workers(left, right) as (here, there):
        await there.stop()
        async with feed(here) as stream:
            windows, end = await stream.snapshot()
    assert len(windows) == 1
    assert end["complete"] is False
    assert end["missing_workers"] == [{"worker": there.url, "reason": "cannot be reached"}]


async def test_a_snapshot_is_bounded_and_says_where_it_was_cut() -> None:
    view = MemoryView(partials=[0, 1])
    view.put(*(a_window(f"t{n:03d}") for n in range(25)))
    limits = replace(QUICK, snapshot_windows=20, page_max=8)
    async with workers(view, limits=limits) as (worker,), feed(worker) as stream:
        windows, end = await stream.snapshot()
    assert [w["subject"] for w in windows] == [f"t{n:03d}" for n in range(20)]
    assert (end["windows"], end["truncated"]) == (20, True)


async def test_an_idle_feed_has_heartbeats() -> None:
    view = MemoryView(partials=[0, 1])
    async with workers(view) as (worker,), feed(worker) as stream:
        await stream.snapshot()
        async with asyncio.timeout(WAIT_S):
            while not (await stream.response.content.readline()).startswith(b": heartbeat"):
                pass


async def test_one_reader_too_many_is_told_to_wait() -> None:
    view = MemoryView(partials=[0, 1])
    async with workers(view, limits=replace(QUICK, live_readers=1)) as (worker,), feed(worker):
        problem = await worker.get("/v1/live", 503)
    assert "another worker" in problem["hint"]


async def test_the_worker_ends_without_waiting_for_readers() -> None:
    view = MemoryView(partials=[0, 1])
    async with workers(view, limits=replace(QUICK, heartbeat_s=3600, live_interval_ms=60_000)) as (worker,):
        async with feed(worker) as idle, feed(worker) as resting:
            await idle.snapshot()
            await resting.snapshot()
            view.change(a_window())
            await resting.total()
            async with asyncio.timeout(WAIT_S):
                await worker._server.close()
                await idle.response.content.read()
                await resting.response.content.read()
    assert not view.listeners


async def test_changes_are_coalesced_and_a_slow_readers_backlog_is_bounded() -> None:
    reader = Reader(lambda _item: True, local=False, pending_max=3)
    for events in range(1, 1000):
        reader.offer(a_window("one", events=events))
    assert [w["events"] for w in reader.take()[0]] == [999]
    for n in range(10):
        reader.offer(a_window(f"t{n}"))
    items, dropped, _ = reader.take()
    assert [w["subject"] for w in items] == ["t7", "t8", "t9"]
    assert dropped == 7


async def test_a_reader_that_fell_behind_is_told_how_much_it_missed() -> None:
    view = MemoryView(partials=[0, 1])
    limits = replace(QUICK, live_pending=2)
    async with workers(view, limits=limits) as (worker,), feed(worker) as stream:
        await stream.snapshot()
        (reader,) = worker.site.feed._readers
        for n in range(5):
            reader.offer(a_window(f"t{n}"))
        event, data = await stream.next("gap", "total")
        assert (event, data) == ("gap", {"dropped": 3})
        assert [(await stream.total())["subject"] for _ in range(2)] == ["t3", "t4"]


async def test_what_the_view_could_not_give_is_told_to_readers_of_every_worker() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    async with workers(left, right) as (here, there), feed(here) as far, feed(there) as near:
        await far.snapshot()
        await near.snapshot()
        right.listeners[0].put_nowait({"dropped": 4})
        for stream in (far, near):
            assert (await stream.next("gap", "total")) == ("gap", {"dropped": 4})


async def test_in_a_flood_changes_are_taken_in_bursts() -> None:
    view = MemoryView(partials=[0, 1])
    limits = replace(QUICK, live_burst=3, live_interval_ms=3_600_000)
    async with workers(view, limits=limits) as (worker,), feed(worker, "?interval_ms=0") as stream:
        await stream.snapshot()
        for n in range(5):
            view.change(a_window(f"t{n}"))
        assert [(await stream.total())["subject"] for _ in range(3)] == ["t0", "t1", "t2"]
        assert view.listeners[0].qsize() == 2, "the rest waits in the view, where it is coalesced"


def test_a_snapshot_never_takes_a_newer_change_back() -> None:
    reader = Reader(lambda _item: True, local=False, pending_max=10)
    reader.offer(a_window("ahead", events=9))
    reader.offer(a_window("behind", events=5))
    assert reader.settle(a_window("ahead", events=8)) is False
    assert reader.settle(a_window("behind", events=6)) is True
    assert reader.settle(a_window("other")) is True
    assert [w["subject"] for w in reader.take()[0]] == ["ahead"]


async def test_a_bad_parameter_is_refused_before_the_feed_opens() -> None:
    async with workers(MemoryView(partials=[0, 1])) as (worker,):
        assert (await worker.get("/v1/live?window_size=hourly", 400))["parameter"] == "window_size"
        assert (await worker.get("/v1/live?limit=3", 400))["parameter"] == "limit"
