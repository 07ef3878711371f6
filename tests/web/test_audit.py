"""`GET /v1/audit` is the whole ledger, and says when it is not whole or does not balance."""

from __future__ import annotations

from tests.web.doubles import MemoryView, a_ledger, a_task, workers


async def test_the_audit_gathers_every_partition_and_sums_them() -> None:
    left, right = MemoryView(usage=[0]), MemoryView(usage=[1])
    left.ledgers = {"0": a_ledger(10, duplicate=2, late=1)}
    right.ledgers = {"1": a_ledger(5, unmatched=1, dead_lettered=3, dead_lettered_invalid=3)}
    async with workers(left, right) as started:
        for worker in started:
            body = await worker.get("/v1/audit")
            assert body["total"] == {
                "read": 21,
                "counted": 15,
                "duplicate": 2,
                "unmatched": 1,
                "dead_lettered": 3,
                "late": 1,
            }
            assert list(body["partitions"]) == ["0", "1"]
            assert body["partitions"]["1"]["dead_lettered_invalid"] == 3
            assert (body["balanced"], body["complete"], body["missing"]) == (True, True, [])


async def test_an_imbalance_in_one_partition_is_not_hidden_by_another() -> None:
    view = MemoryView(usage=[0, 1])
    view.ledgers = {"0": a_ledger(10, read=11), "1": a_ledger(10, read=9)}
    async with workers(view) as (worker,):
        body = await worker.get("/v1/audit")
    assert body["total"]["read"] == body["total"]["counted"] == 20
    assert body["balanced"] is False
    assert [p["balanced"] for p in body["partitions"].values()] == [False, False]


async def test_a_partition_that_nobody_answers_for_is_named() -> None:
    left, right = MemoryView(usage=[0, 2], n=3), MemoryView(usage=[1], n=3)
    async with workers(left, right) as (here, there):
        await there.stop()
        body = await here.get("/v1/audit")
    assert (body["complete"], body["missing"], body["balanced"]) == (False, [1], True)
    assert [w["worker"] for w in body["missing_workers"]] == [there.url]


async def test_of_a_partition_that_two_hold_the_one_that_read_more_counts() -> None:
    left, right = MemoryView(usage=[0, 1]), MemoryView(usage=[1])
    left.ledgers["1"] = a_ledger(4)
    right.ledgers["1"] = a_ledger(6)
    async with workers(left, right) as (here, there):
        for worker in (here, there):
            assert (await worker.get("/v1/audit"))["total"]["read"] == 6


async def test_before_the_broker_has_told_nothing_is_complete() -> None:
    async with workers(MemoryView(n=0)) as (worker,):
        body = await worker.get("/v1/audit")
    assert (body["partitions"], body["complete"]) == ({}, False)


async def test_partitions_are_in_order_of_their_numbers() -> None:
    view = MemoryView(usage=range(12), n=12)
    async with workers(view) as (worker,):
        assert list((await worker.get("/v1/audit"))["partitions"]) == [str(p) for p in range(12)]


async def test_a_partition_that_stopped_before_it_was_restored_is_missing_and_not_zero() -> None:
    view = MemoryView(usage=[0, 1])
    view.ledgers = {"0": a_ledger(3), "1": a_ledger(0)}
    view.metering["1"] = a_task(state="stopped", restored=0.3)
    async with workers(view) as (worker,):
        body = await worker.get("/v1/audit")
        assert (list(body["partitions"]), body["missing"], body["complete"]) == (["0"], [1], False)
        view.metering["1"] = a_task(state="stopped", restored=1.0)
        assert (await worker.get("/v1/audit"))["complete"] is True, "it stopped later: what it counted stands"


async def test_what_was_never_counted_is_in_the_audit_of_every_worker() -> None:
    left, right = MemoryView(usage=[0], partials=[0]), MemoryView(usage=[1], partials=[1])
    gap = {"from": 36, "to": 44, "accepted_at": "2026-01-01T12:00:00Z", "reason": "retention was a day"}
    later = {**gap, "from": 50, "to": 51}
    right.metering["1"]["gaps"] = [gap, later]
    left.closing["0"]["gaps"] = [gap]
    async with workers(left, right) as started:
        for worker in started:
            assert (await worker.get("/v1/audit"))["gaps"] == [
                {"stage": "metering", "partition": 1, **gap},
                {"stage": "metering", "partition": 1, **later},
                {"stage": "closing", "partition": 0, **gap},
            ]


async def test_a_gap_of_a_partition_that_two_hold_is_named_once() -> None:
    left, right = MemoryView(usage=[0, 1]), MemoryView(usage=[1])
    gap = {"from": 36, "to": 44, "accepted_at": "2026-01-01T12:00:00Z", "reason": ""}
    left.metering["1"]["gaps"] = right.metering["1"]["gaps"] = [gap]
    async with workers(left, right) as (worker, _):
        assert (await worker.get("/v1/audit"))["gaps"] == [{"stage": "metering", "partition": 1, **gap}]


async def test_without_a_gap_the_audit_says_so() -> None:
    async with workers(MemoryView(usage=[0])) as (worker,):
        assert (await worker.get("/v1/audit"))["gaps"] == []
