"""`GET /v1/status` shows all workers, and never fails because something else did."""

from __future__ import annotations

from tests.web.doubles import NOW_MS, MemoryView, a_closing_task, a_ledger, a_task, a_window, workers


async def test_tasks_of_all_workers_are_shown_with_their_worker() -> None:
    left, right = MemoryView(usage=[0], partials=[1]), MemoryView(usage=[1], partials=[0])
    right.metering["1"] = a_task(lag=7)
    async with workers(left, right) as (here, there):
        body = await here.get("/v1/status")
    assert list(body["metering"]) == list(body["closing"]) == ["0", "1"]
    assert (body["metering"]["1"]["lag"], body["metering"]["1"]["worker"]) == (7, there.url)
    assert [w["answered"] for w in body["workers"]] == [True, True]
    assert body["workers"][0]["owned"].keys() == {"usage", "partials"}
    assert (body["complete"], body["alarms"], body["now_ms"]) == (True, [], NOW_MS)


async def test_a_sink_shows_its_most_worrying_worker_and_the_sums() -> None:
    left, right = MemoryView(), MemoryView()
    left.sinks = {"cosmos": {"state": "up", "error": None, "retry_in_s": 0, "waiting": 1, "delivered": 5, "parked": 0}}
    right.sinks = {
        "cosmos": {"state": "retrying", "error": "429", "retry_in_s": 2.5, "waiting": 4, "delivered": 6, "parked": 1}
    }
    async with workers(left, right) as started:
        for worker in started:
            assert (await worker.get("/v1/status"))["sinks"]["cosmos"] == {
                "state": "retrying",
                "error": "429",
                "retry_in_s": 2.5,
                "waiting": 5,
                "delivered": 11,
                "parked": 1,
            }


async def test_a_silent_worker_and_its_partitions_are_alarms() -> None:
    left, right = MemoryView(usage=[0], partials=[0]), MemoryView(usage=[1], partials=[1])
    async with workers(left, right) as (here, there):
        await there.stop()
        body = await here.get("/v1/status")
    assert [a["kind"] for a in body["alarms"]] == ["worker_silent", "partition_unowned", "partition_unowned"]
    assert there.url in body["alarms"][0]["what"]
    assert all(a["hint"] for a in body["alarms"])
    assert (body["complete"], body["missing"]) == (False, {"metering": [1], "closing": [1]})
    assert {w["worker"]: w["answered"] for w in body["workers"]} == {here.url: True, there.url: False}


async def test_an_imbalance_is_an_alarm_once() -> None:
    view = MemoryView(usage=[0, 1], partials=[0, 1])
    view.ledgers["1"] = a_ledger(5, read=6)
    view.alarm_list = [
        {"kind": "imbalance", "where": "usage[1]", "what": "x", "hint": "y"},
        {"kind": "stopped", "where": "usage[0]", "what": "a gap", "hint": "mend it"},
    ]
    async with workers(view) as (worker,):
        body = await worker.get("/v1/status")
    assert [a["kind"] for a in body["alarms"]] == ["imbalance", "stopped"]
    assert "read 6" in body["alarms"][0]["what"]


async def test_newest_dead_letters_and_revisions_of_all_workers_come_first() -> None:
    left, right = MemoryView(), MemoryView()
    left.letters = [{"reason": "invalid", "time": f"2026-01-31T12:00:{s:02d}Z"} for s in range(58, -1, -2)] * 2
    left.letters.sort(key=lambda letter: letter["time"], reverse=True)
    right.letters = [{"reason": "malformed", "time": f"2026-01-31T12:00:{s:02d}Z"} for s in range(59, 0, -2)]
    left.revisions = [a_window(receipt={"watermark": "2026-01-31T12:03:00Z"}), a_window(receipt={})]
    right.revisions = [a_window("zeta", receipt={"watermark": "2026-01-31T12:02:00Z"})]
    async with workers(left, right) as (worker, _):
        body = await worker.get("/v1/status")
    times = [letter["time"] for letter in body["dead_letters"]]
    assert len(times) == 50
    assert times == sorted(times, reverse=True)
    assert [r["subject"] for r in body["recent_revisions"]] == ["acme", "zeta", "acme"]


async def test_of_two_owners_the_running_task_is_shown() -> None:
    left, right = MemoryView(partials=[0]), MemoryView(partials=[0])
    left.closing["0"] = a_closing_task(state="restoring", position=99)
    async with workers(left, right) as started:
        for worker in started:
            assert (await worker.get("/v1/status"))["closing"]["0"]["state"] == "running"


async def test_no_answer_holds_a_secret() -> None:
    view = MemoryView(usage=[0, 1], partials=[0, 1])
    async with workers(view) as (worker,):
        for path in ("/v1/status", "/v1/audit", "/openapi.json", "/readyz"):
            async with worker.http.get(path) as response:
                text = await response.text()
            assert "SharedAccessKey" not in text
            assert "connection_string" not in text
