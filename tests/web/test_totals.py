"""`GET /v1/totals` answers for all partitions, in pages, or says what is missing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.web.doubles import QUICK, Json, MemoryView, Worker, a_closing_task, a_window, workers


async def _all_pages(worker: Worker, path: str) -> list[Json]:
    items: list[Json] = []
    cursor = ""
    while True:
        page = await worker.get(f"{path}{cursor}")
        items += page["items"]
        if page["next"] is None:
            return items
        cursor = f"&cursor={page['next']}"


async def test_any_worker_answers_for_all_partitions() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    left.put(a_window("acme"))
    right.put(a_window("zeta"))
    async with workers(left, right) as started:
        for worker in started:
            body = await worker.get("/v1/totals")
            assert [i["subject"] for i in body["items"]] == ["acme", "zeta"]
            assert body["next"] is None
            assert body["complete"] is True


async def test_a_total_carries_the_documents_fields_and_its_state() -> None:
    view = MemoryView(partials=[0, 1])
    window = a_window(value="12345678901234567890.000000000000000001")
    view.put(window)
    async with workers(view) as (worker,):
        body = await worker.get("/v1/totals")
    assert body["items"] == [window]


async def test_filters_select_by_subject_meter_size_and_state() -> None:
    view = MemoryView(partials=[0, 1])
    view.put(
        a_window("acme", "calls"),
        a_window("acme", "calls", "PT1H", state="closed", revision=1),
        a_window("acme", "bytes"),
        a_window("x/y?#&=%", "bytes"),
    )
    async with workers(view) as (worker,):
        assert len((await worker.get("/v1/totals?subject=acme"))["items"]) == 3
        assert len((await worker.get("/v1/totals?meter=bytes"))["items"]) == 2
        assert len((await worker.get("/v1/totals?window_size=PT60M"))["items"]) == 1
        assert len((await worker.get("/v1/totals?state=closed"))["items"]) == 1
        assert len((await worker.get("/v1/totals?subject=x%2Fy%3F%23%26%3D%25"))["items"]) == 1


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_give_every_window_once_and_in_order(limit: int) -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    for n in range(23):
        (left if n % 3 else right).put(a_window(f"tenant-{n % 5}", start=f"2026-01-31T12:{n:02d}:00Z"))
    async with workers(left, right) as (_, worker):
        items = await _all_pages(worker, f"/v1/totals?limit={limit}")
    ids = [(i["subject"], i["id"]) for i in items]
    assert ids == sorted({(i["subject"], i["id"]) for view in (left, right) for i in view.windows.values()})


async def test_a_page_is_stable_while_windows_come_and_go() -> None:
    view = MemoryView(partials=[0, 1])
    view.put(*(a_window(f"t{n}") for n in range(4)))
    async with workers(view) as (worker,):
        first = await worker.get("/v1/totals?limit=2")
        view.put(a_window("t00"))
        del view.windows[first["items"][1]["id"]]
        second = await worker.get(f"/v1/totals?limit=2&cursor={first['next']}")
    assert [i["subject"] for i in first["items"] + second["items"]] == ["t0", "t1", "t2", "t3"]
    assert second["next"] is None


async def test_with_a_subject_sealed_windows_come_from_cosmos_and_memory_wins() -> None:
    view = MemoryView(partials=[0, 1])
    in_memory = a_window(start="2026-01-31T12:01:00Z", state="closed", revision=2, value="9")
    view.put(in_memory)
    old = a_window(start="2026-01-30T12:00:00Z", revision=1, value="5")
    view.stored = {w["id"]: w for w in (old, {**in_memory, "revision": 1, "value": "8"})}
    async with workers(view) as (worker,):
        body = await worker.get("/v1/totals?subject=acme")
        assert [(i["state"], i["value"]) for i in body["items"]] == [("sealed", "5"), ("closed", "9")]
        sealed = await worker.get("/v1/totals?subject=acme&state=sealed")
        assert [i["id"] for i in sealed["items"]] == [old["id"]]
        before = len(view.stored_calls)
        await worker.get("/v1/totals?subject=acme&state=closed")
        await worker.get("/v1/totals?meter=api_tokens")
        assert len(view.stored_calls) == before, "nothing sealed was asked for"


async def test_of_a_sealed_window_the_newest_revision_is_shown_whether_cosmos_has_it_yet() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    waiting = a_window(start="2026-01-31T12:01:00Z", state="sealed", revision=2, value="9")
    refused = a_window(start="2026-01-31T12:02:00Z", state="sealed", revision=1, value="1")
    unstored = a_window(start="2026-01-31T12:03:00Z", state="sealed", revision=1, value="4")
    right.put(waiting, refused, unstored)
    stored = {**waiting, "revision": 1, "value": "8"}, {**refused, "revision": 2, "value": "2"}
    left.stored = right.stored = {w["id"]: w for w in stored}
    async with workers(left, right) as started:
        for worker in started:
            for query in ("subject=acme", "subject=acme&state=sealed"):
                body = await worker.get(f"/v1/totals?{query}")
                assert body["complete"] is True
                assert [(i["state"], i["revision"], i["value"]) for i in body["items"]] == [
                    ("sealed", 2, "9"),
                    ("sealed", 2, "2"),
                    ("sealed", 1, "4"),
                ]


async def test_what_is_in_memory_wins_over_any_document_in_cosmos() -> None:
    view = MemoryView(partials=[0, 1])
    counted_again = a_window(state="closed", revision=1, value="5")
    view.put(counted_again)
    view.stored[counted_again["id"]] = {**counted_again, "revision": 3, "value": "7"}
    async with workers(view) as (worker,):
        assert (await worker.get("/v1/totals?subject=acme"))["items"] == [counted_again]
        assert (await worker.get("/v1/totals?subject=acme&state=sealed"))["items"] == []


async def test_a_worker_that_has_sealed_a_window_wins_over_one_that_has_not_yet() -> None:
    left, right = MemoryView(partials=[0, 1]), MemoryView(partials=[1])
    left.put(a_window(state="closed", revision=1))
    right.put(a_window(state="sealed", revision=1))
    async with workers(left, right) as started:
        for worker in started:
            assert [i["state"] for i in (await worker.get("/v1/totals"))["items"]] == ["sealed"]


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
async def test_pages_run_through_memory_and_cosmos_alike(limit: int) -> None:
    view = MemoryView(partials=[0, 1])
    every = [a_window(start=f"2026-01-31T12:{n:02d}:00Z", revision=1, state="closed") for n in range(12)]
    view.put(*every[7:])
    view.stored = {w["id"]: w for w in every[:9]}
    async with workers(view) as (worker,):
        items = await _all_pages(worker, f"/v1/totals?subject=acme&limit={limit}")
        sealed = await _all_pages(worker, f"/v1/totals?subject=acme&state=sealed&limit={limit}")
    assert [i["id"] for i in items] == [w["id"] for w in every]
    assert [i["state"] for i in items] == ["sealed"] * 7 + ["closed"] * 5
    assert [i["id"] for i in sealed] == [w["id"] for w in every[:7]]
    assert {call["limit"] for call in view.stored_calls} == {limit + 1, 1001}, "Cosmos is read by pages, too"


async def test_cosmos_down_costs_the_history_and_not_the_running_totals() -> None:
    view = MemoryView(partials=[0, 1])
    view.put(a_window())
    view.stored_down = "Cosmos does not answer"
    async with workers(view) as (worker,):
        body = await worker.get("/v1/totals?subject=acme")
    assert len(body["items"]) == 1
    assert body["complete"] is False
    assert body["stored"] == "Cosmos does not answer"


async def test_sealed_without_a_subject_is_refused_with_the_reason() -> None:
    async with workers(MemoryView(partials=[0, 1])) as (worker,):
        body = await worker.get("/v1/totals?state=sealed", 400)
    assert body["parameter"] == "state"
    assert "subject" in body["hint"]


async def test_a_worker_that_is_gone_makes_it_503_unless_a_part_is_accepted() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    left.put(a_window("acme"))
    right.put(a_window("zeta"))
    async with workers(left, right) as (here, there):
        await there.stop()
        problem = await here.get("/v1/totals", 503)
        assert problem["missing_partitions"] == [1]
        assert problem["missing_workers"] == [{"worker": there.url, "reason": "cannot be reached"}]
        assert problem["type"] == "urn:meterline:problem:incomplete"
        part = await here.get("/v1/totals?partial=true")
        assert [i["subject"] for i in part["items"]] == ["acme"]
        assert part["complete"] is False
        assert part["missing_partitions"] == [1]


async def test_a_dead_worker_whose_partitions_have_moved_is_not_missed() -> None:
    left, right = MemoryView(partials=[0, 1]), MemoryView(partials=[1])
    async with workers(left, right) as (here, there):
        await there.stop()
        assert (await here.get("/v1/totals"))["complete"] is True


async def test_a_restoring_partition_does_not_pass_for_an_empty_one() -> None:
    view = MemoryView(partials=[0, 1])
    view.closing["1"] = a_closing_task(state="restoring", restored=0.4)
    async with workers(view) as (worker,):
        assert (await worker.get("/v1/totals", 503))["missing_partitions"] == [1]


async def test_before_the_broker_has_told_the_partitions_nothing_passes_for_complete() -> None:
    async with workers(MemoryView(n=0, m=0)) as (worker,):
        assert "all" in (await worker.get("/v1/totals", 503))["detail"]


async def test_a_worker_that_hangs_is_given_up_in_bounded_time() -> None:
    async def hang(_request: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    released = asyncio.Event()
    app = web.Application()
    app.router.add_get("/v1/totals", hang)
    stuck = TestServer(app)
    await stuck.start_server()
    view = MemoryView(partials=[0])
    async with workers(view, limits=replace(QUICK, gather_timeout_s=0.1)) as (worker,):
        url = str(stuck.make_url("")).rstrip("/")
        view.urls = {worker.url: {}, url: {}}
        problem = await worker.get("/v1/totals", 503)
        released.set()
    await stuck.close()
    assert problem["missing_workers"] == [{"worker": url, "reason": "no answer within 0.1 s"}]


async def test_of_a_window_that_two_workers_hold_the_newest_state_is_shown() -> None:
    left, right = MemoryView(partials=[0, 1]), MemoryView(partials=[1])
    left.put(a_window(value="1", events=1))
    right.put(a_window(value="3", events=3))
    async with workers(left, right) as started:
        for worker in started:
            assert [i["value"] for i in (await worker.get("/v1/totals"))["items"]] == ["3"]


@pytest.mark.parametrize(
    ("query", "parameter", "says"),
    [
        ("subjekt=acme", "subjekt", "known are"),
        ("subject=", "subject", "leave subject out"),
        ("subject=" + "x" * 513, "subject", "512"),
        ("subject=a&subject=b", "subject", "once"),
        ("limit=0", "limit", "from 1 to 1000"),
        ("limit=1001", "limit", "from 1 to 1000"),
        ("limit=ten", "limit", "whole number"),
        ("limit=٣", "limit", "whole number"),
        ("window_size=1h", "window_size", "PT1H"),
        ("window_size=P1M", "window_size", "not supported yet"),
        ("state=shut", "state", "open, closed, sealed"),
        ("cursor=zz", "cursor", "next"),
        ("cursor=5b5d", "cursor", "next"),
        ("partial=perhaps", "partial", "true or false"),
    ],
)
async def test_a_bad_parameter_is_a_400_that_says_what_where_and_what_to_do(
    query: str, parameter: str, says: str
) -> None:
    async with workers(MemoryView(partials=[0, 1])) as (worker,):
        async with worker.http.get(f"/v1/totals?{query}") as response:
            body = await response.json(content_type="application/problem+json")
    assert (response.status, body["status"], body["parameter"]) == (400, 400, parameter)
    assert set(body) == {"type", "title", "status", "detail", "hint", "parameter"}
    assert says in f"{body['detail']} {body['hint']}"
