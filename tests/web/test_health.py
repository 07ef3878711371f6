"""`/healthz` and `/readyz` tell an orchestrator what it may do with this worker."""

from __future__ import annotations

from tests.web.doubles import MemoryView, a_closing_task, a_task, workers


async def test_alive_while_restoring_stopped_and_without_a_broker() -> None:
    view = MemoryView(usage=[0], n=0, m=0)
    view.metering["0"] = a_task(state="stopped", reason="a gap")
    async with workers(view) as (worker,):
        assert (await worker.get("/healthz"))["alive"] is True


async def test_ready_once_every_owned_partition_runs() -> None:
    view = MemoryView(usage=[0, 1], partials=[0])
    view.metering["1"] = a_task(state="restoring", restored=0.42)
    view.closing["0"] = a_closing_task(state="restoring", restored=0)
    async with workers(view) as (worker,):
        body = await worker.get("/readyz", 503)
        assert body == {
            "ready": False,
            "reasons": ["metering of usage[1] restoring 42 %", "closing of partials[0] restoring 0 %"],
        }
        view.metering["1"] = a_task()
        view.closing["0"] = a_closing_task()
        assert await worker.get("/readyz") == {"ready": True, "reasons": []}


async def test_a_stopped_partition_says_why_and_how_to_mend_it() -> None:
    view = MemoryView(usage=[0])
    view.metering["0"] = a_task(
        state="stopped", reason="the log begins at 90, committed is 40", hint="restore retention"
    )
    async with workers(view) as (worker,):
        (reason,) = (await worker.get("/readyz", 503))["reasons"]
    assert reason == "metering of usage[0] stopped: the log begins at 90, committed is 40 -> restore retention"


async def test_not_ready_before_the_group_has_taken_the_worker_in() -> None:
    view = MemoryView(n=0, m=0)
    async with workers(view) as (worker,):
        view.urls = {}
        assert len((await worker.get("/readyz", 503))["reasons"]) == 2


async def test_a_worker_without_partitions_is_ready() -> None:
    async with workers(MemoryView()) as (worker,):
        assert (await worker.get("/readyz"))["ready"] is True


async def test_health_never_waits_for_a_peer() -> None:
    left, right = MemoryView(usage=[0]), MemoryView(usage=[1])
    async with workers(left, right) as (here, there):
        await there.stop()
        assert (await here.get("/readyz"))["ready"] is True
        assert (await here.get("/healthz"))["alive"] is True
