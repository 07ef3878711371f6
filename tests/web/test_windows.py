"""`GET /v1/windows/{id}` finds a window with its receipt wherever it is."""

from __future__ import annotations

from tests.web.doubles import MemoryView, a_window, workers

RECEIPT = {"sources": {"0": {"events": 7, "first": 3, "last": 9, "digest": "ab"}}, "watermark": "2026-01-31T12:01:05Z"}


async def test_a_window_in_any_workers_memory_is_found_with_its_receipt() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    window = a_window(receipt=RECEIPT)
    right.put(window)
    async with workers(left, right) as started:
        for worker in started:
            found = await worker.get(f"/v1/windows/{window['id']}")
            assert found == window
            assert found["receipt"] == RECEIPT


async def test_a_window_that_left_memory_is_sealed_and_read_from_cosmos() -> None:
    view = MemoryView(partials=[0, 1])
    old = {k: v for k, v in a_window(revision=3).items() if k != "state"}
    view.stored[old["id"]] = old
    async with workers(view) as (worker,):
        found = await worker.get(f"/v1/windows/{old['id']}?subject=acme")
    assert found == {**old, "state": "sealed"}
    assert view.stored_calls == [{"window_id": old["id"], "subject": "acme"}]


async def test_an_unknown_window_is_a_404_that_says_where_ids_come_from() -> None:
    async with workers(MemoryView(partials=[0]), MemoryView(partials=[1])) as (worker, _):
        problem = await worker.get("/v1/windows/calls~PT1M~20260131T120000Z~aaaa", 404)
    assert problem["type"] == "urn:meterline:problem:no-such-window"
    assert "/v1/totals" in problem["hint"]


async def test_not_found_is_not_said_while_a_worker_that_may_have_it_is_away() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    window = a_window(revision=1)
    async with workers(left, right) as (here, there):
        await there.stop()
        await here.get(f"/v1/windows/{window['id']}", 503)
        left.stored[window["id"]] = window
        found = await here.get(f"/v1/windows/{window['id']}")
    assert found["complete"] is False
    assert found["state"] == "closed", "sealed is not claimed while a memory was not asked"


async def test_cosmos_down_is_a_503_with_what_to_do() -> None:
    view = MemoryView(partials=[0, 1])
    view.stored_down = "Cosmos does not answer"
    async with workers(view) as (worker,):
        problem = await worker.get("/v1/windows/calls~PT1M~x~y", 503)
    assert (problem["detail"], problem["hint"]) == ("Cosmos does not answer", "wait")


async def test_a_closed_window_has_an_etag_of_its_revision() -> None:
    view = MemoryView(partials=[0, 1])
    window = a_window(state="closed", revision=2)
    view.put(window)
    async with workers(view) as (worker,):
        path = f"/v1/windows/{window['id']}"
        async with worker.http.get(path) as response:
            tag = response.headers["ETag"]
            assert response.headers["Cache-Control"] == "private, no-cache"
        async with worker.http.get(path, headers={"If-None-Match": f'"other", W/{tag}'}) as response:
            assert (response.status, await response.read()) == (304, b"")
        view.put({**window, "revision": 3})
        async with worker.http.get(path, headers={"If-None-Match": tag}) as response:
            assert response.status == 200
            assert response.headers["ETag"] != tag


async def test_what_can_still_move_is_never_cached() -> None:
    view = MemoryView(partials=[0, 1])
    opened = a_window()
    pending = a_window("zeta", state="closed", revision=1, pending=True)
    view.put(opened, pending)
    async with workers(view) as (worker,):
        for window in (opened, pending):
            async with worker.http.get(f"/v1/windows/{window['id']}") as response:
                assert "ETag" not in response.headers
                assert response.headers["Cache-Control"] == "no-store"


async def test_a_sealed_window_may_be_kept_by_the_reader() -> None:
    view = MemoryView(partials=[0, 1])
    window = a_window(revision=2)
    view.stored[window["id"]] = window
    async with workers(view) as (worker,):
        async with worker.http.get(f"/v1/windows/{window['id']}") as response:
            assert response.headers["Cache-Control"].startswith("private, max-age=")
            assert response.headers["ETag"] == '"sealed-2"'


async def test_an_id_that_cannot_be_one_is_refused() -> None:
    async with workers(MemoryView(partials=[0, 1])) as (worker,):
        assert (await worker.get("/v1/windows/a%20b", 400))["parameter"] == "id"
        assert (await worker.get("/v1/windows/" + "x" * 300, 400))["parameter"] == "id"
        assert (await worker.get("/v1/windows/a%2Fb", 400))["parameter"] == "id"


async def test_of_a_sealed_window_the_newest_revision_is_found_whether_cosmos_has_it_yet() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[1])
    waiting = a_window(state="sealed", revision=2, value="9", receipt=RECEIPT)
    refused = a_window("zeta", state="sealed", revision=1, value="1")
    right.put(waiting, refused)
    stored = {**waiting, "revision": 1, "value": "8"}, {**refused, "revision": 2, "value": "2"}
    left.stored = right.stored = {w["id"]: w for w in stored}
    async with workers(left, right) as started:
        for worker in started:
            assert await worker.get(f"/v1/windows/{waiting['id']}") == waiting
            assert (await worker.get(f"/v1/windows/{refused['id']}"))["value"] == "2"
    assert {"window_id": waiting["id"], "subject": "acme"} in left.stored_calls, "its subject is known"


async def test_a_sealed_window_is_the_same_under_one_etag_before_and_after_cosmos_has_it() -> None:
    view = MemoryView(partials=[0, 1])
    document = {k: v for k, v in a_window(revision=2).items() if k != "state"}
    view.put({**document, "state": "sealed", "pending": False})
    found = []
    async with workers(view) as (worker,):
        for _ in range(2):
            async with worker.http.get(f"/v1/windows/{document['id']}") as response:
                found.append((response.status, response.headers["ETag"], await response.read()))
            view.stored, view.windows = {document["id"]: document}, {}
    assert found[0] == found[1]
    assert found[0][:2] == (200, '"sealed-2"')


async def test_what_a_worker_has_of_a_sealed_window_is_not_called_final_while_cosmos_is_down() -> None:
    view = MemoryView(partials=[0, 1])
    window = a_window(state="sealed", revision=2, pending=False)
    view.put(window)
    view.stored_down = "Cosmos does not answer"
    async with workers(view) as (worker,):
        async with worker.http.get(f"/v1/windows/{window['id']}") as response:
            found = await response.json()
    assert (response.status, found["revision"], found["state"], found["complete"]) == (200, 2, "closed", False)
    assert "ETag" not in response.headers
