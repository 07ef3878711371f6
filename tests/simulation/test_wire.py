"""What befalls a request on the simulator's wire, and what has taken effect of it."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from simulation.loop import HOST, Host, VirtualLoop
from simulation.wire import Kind, Misfortune
from tests.simulation.sink_world import Script, tell, wire


def test_a_request_takes_effect_though_its_sender_is_cancelled_frozen_or_killed_meanwhile() -> None:
    async def story() -> None:
        applied: list[str] = []
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        async def ask(name: str) -> None:
            await wire().ask("s", "o", partial(applied.append, name))
            applied.append(f"{name} answered")

        task = asyncio.ensure_future(ask("cancelled"))
        await asyncio.sleep(0)
        task.cancel()
        hosts = {}
        for name in ("frozen", "killed"):
            hosts[name] = host = Host(name)
            token = HOST.set(host)
            host.tasks.append(loop.create_task(ask(name)))
            HOST.reset(token)
        await asyncio.sleep(0)
        hosts["frozen"].freeze()
        hosts["killed"].kill()
        await asyncio.sleep(100)
        assert sorted(applied) == ["cancelled", "frozen", "killed"]
        hosts["frozen"].thaw(loop)
        await asyncio.sleep(1)
        assert applied[-1] == "frozen answered" and len(applied) == 4

    tell(story)


@pytest.mark.parametrize(
    ("kind", "applied_at_once", "applied_in_the_end"),
    [
        (Kind.LOST_REQUEST, 0, 0),
        (Kind.LATE_REQUEST, 0, 1),
        (Kind.LOST_ANSWER, 1, 1),
        (Kind.TWICE, 1, 2),
        (Kind.THROTTLED, 0, 0),
        (Kind.DOWN, 0, 0),
        (Kind.UNAVAILABLE, 0, 0),
        (Kind.UNSURE, 1, 1),
    ],
)
def test_each_misfortune_applies_what_it_says_when_it_says(
    kind: Kind, applied_at_once: int, applied_in_the_end: int
) -> None:
    async def story() -> None:
        applied: list[int] = []
        asking = wire(Script("o", Misfortune(kind, late_s=30.0))).ask(
            "s", "o", partial(applied.append, 1), patience_s=5
        )
        [result] = await asyncio.gather(asking, return_exceptions=True)
        assert (result is None) == (kind is Kind.TWICE)
        assert len(applied) == applied_at_once
        await asyncio.sleep(60)
        assert len(applied) == applied_in_the_end

    tell(story)
