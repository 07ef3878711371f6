"""Notices that this worker has been in no group for longer than any rebalance can take, and starts over.

Nothing below does: Faust and aiokafka wait for a join, or for whatever holds one up in this process, without end. The
partitions are with other workers meanwhile, so nothing is lost; but a worker that never comes back is a worker less.
"""

from __future__ import annotations

from collections.abc import Callable

from settings import Settings
from streams.clock import Clock

LOOK_S = 1.0


def longest_join_s(settings: Settings) -> float:
    """Longer than a join may take: the group waits at most the rebalance timeout, for a dead member at most its session.

    Twice the former, since a rebalance may begin anew while one is going on.
    """
    return 2 * settings.rebalance_timeout_s + settings.session_timeout_s


async def watch(clock: Clock, limit_s: float, in_group: Callable[[], bool], start_over: Callable[[str], None]) -> None:
    """Looks every second, for ever; `start_over` is told once it was not `in_group` for `limit_s` without a break.

    A process that slept, or was frozen, did not look: what it missed does not count.
    """
    without_s = 0.0
    while without_s < limit_s:
        await clock.sleep(LOOK_S)
        without_s = 0.0 if in_group() else without_s + LOOK_S
    start_over(f"in no consumer group for {without_s:.0f} s, longer than any rebalance takes")
