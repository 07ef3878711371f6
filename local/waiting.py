"""Waits for a deployment, by asking it: nothing sleeps for a fixed time, and only a standstill is given up on.

`until` asks the workers' own `/v1/status` until a condition has nothing left to wait for; the conditions are pure and say
in words what is lacking.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from local.reading import parse_time
from local.stack import Stack
from local.workers import Fleet
from schemas.errors import BrokerError, MeterlineError

log = logging.getLogger("meterline.once")

STALLED_S = 90.0
"""Give up when nothing has moved for so long."""
_POLL_S = 0.2

Waits = Callable[[Mapping[str, Any]], list[str]]
"""What a `/v1/status` still lacks, in words. Empty: nothing."""


async def until(stack: Stack, fleet: Fleet, waits: Waits) -> Mapping[str, Any]:
    """Asks the first worker, which answers for all, until nothing is lacking; the answer that lacks nothing.

    Raises BrokerError if nothing moves any more, or where a server or a worker has died.
    """
    seen: object = None
    waiting = ["the worker does not answer"]
    moved_s = time.monotonic()
    while True:
        for child in (*stack.processes.values(), *(worker.process for worker in fleet.up)):
            if not child.running:
                raise BrokerError(child.obituary())
        try:
            status: Mapping[str, Any] | None = await fleet.up[0].get("/v1/status")
        except MeterlineError:
            status = None  # not up yet, or starting over
        if status is not None:
            waiting = waits(status)
            if not waiting:
                return status
            if (progress := _progress(status)) != seen:
                seen, moved_s = progress, time.monotonic()
                log.info("waiting: %s", "; ".join(waiting))
        if time.monotonic() - moved_s > STALLED_S:
            raise BrokerError(f"nothing moves any more: {'; '.join(waiting)}\n{fleet.up[0].process.tail()}")
        await asyncio.sleep(_POLL_S)


def closes_behind(status: Mapping[str, Any], read: int) -> list[str]:
    """What is lacking until everything sent so far is counted and CLOSING has heard of it.

    Raises BrokerError for a partition that has stopped: it never will.
    """
    lacking = _running(status, read)
    heard = [task["watermark"] for task in status["metering"].values()]
    if not lacking and all(heard):
        behind_ms = min(map(parse_time, heard))
        lacking += _below(status, behind_ms)
    return lacking


def waits_for(status: Mapping[str, Any], read: int, due_ms: int, ends: Mapping[int, int] | None = None) -> list[str]:
    """What is lacking until the end: all read, all due windows closed, all outboxes empty.

    ends: of the usage log, where it matters that the ticks at its end are read as well. Raises BrokerError for a partition
    that has stopped: it never will.
    """
    lacking = _running(status, read) + _below(status, due_ms)
    for partition, end in (ends or {}).items():
        position = status["metering"].get(str(partition), {}).get("position", 0)
        if position < end:
            lacking.append(f"metering {partition} is at {position} of {end}")
    for partition, task in status["closing"].items():
        left = sum(task.get("outbox", {}).values())
        if left:
            lacking.append(f"closing {partition} has {left} revisions in its outbox")
    return lacking


def _running(status: Mapping[str, Any], read: int) -> list[str]:
    """Partitions that do not run yet, and events that are not read."""
    lacking = [] if status["complete"] else ["not every partition has an owner"]
    for stage in ("metering", "closing"):
        for partition, task in status[stage].items():
            if task["state"] == "stopped":
                raise BrokerError(f"{stage} {partition} stopped: {task['reason']}", hint=task["hint"])
            if task["state"] != "running":
                lacking.append(f"{stage} {partition} is {task['state']}")
    found = status["audit"]["total"]["read"]
    if found != read:
        lacking.append(f"{found} of {read} events read")
    return lacking


def _below(status: Mapping[str, Any], time_ms: int) -> list[str]:
    """Closing partitions whose watermark is not yet there."""
    return [
        f"closing {partition} is at {task['watermark']}"
        for partition, task in status["closing"].items()
        if task["watermark"] is None or parse_time(task["watermark"]) < time_ms
    ]


def _progress(status: Mapping[str, Any]) -> object:
    return [
        [(task.get("position"), task.get("restored"), task.get("delivered")) for task in status[stage].values()]
        for stage in ("metering", "closing")
    ]
