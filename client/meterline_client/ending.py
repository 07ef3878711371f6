"""What a flush and an end wait for, and where that goes which they waited for in vain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from meterline_client.accounts import Accounts
from meterline_client.clock import Clock, within
from meterline_client.errors import MeterlineClientError, SpoolError, StillSpooled, TransportError
from meterline_client.lane import Lane
from meterline_client.packing import Envelope
from meterline_client.spool import Spool

log = logging.getLogger("meterline.client")


async def until_settled(lanes: Sequence[Lane], clock: Clock, timeout_s: float | None) -> bool:
    """Send at once what is pending now; whether all of that has its outcome after `timeout_s` (None: wait for it)."""
    last = [envelope for lane in lanes if (envelope := lane.last) is not None]
    for lane in lanes:
        lane.hurry()
    if not last:
        return True
    waiting = asyncio.ensure_future(_all(last))
    try:
        return await within(clock, waiting, timeout_s)
    finally:
        waiting.cancel()


def put_away(lane: Lane, spool: Spool | None, accounts: Accounts) -> None:
    """What a lane has pending goes to disk, in order, or has failed. Nothing of it is on the road any more."""
    stay = 0
    behind_memory = False
    for envelope in list(lane.pending()):
        if spool is not None and not envelope.on_disk:
            try:
                _write(spool, envelope, accounts, fresh=not behind_memory)
            except SpoolError as error:
                log.error("%s", error)
            behind_memory = True
        else:
            behind_memory = False
        outcome: MeterlineClientError
        if envelope.on_disk:
            stay += envelope.events
            outcome = StillSpooled("?", lane.partition)
        else:
            outcome = TransportError("closed before the broker acknowledged it", retryable=False)
            accounts.settle(envelope, outcome)
        envelope.settle(None, outcome)
    if stay:
        log.warning("partition %d: %d events that are pending stay in the spool", lane.partition, stay)


def _write(spool: Spool, envelope: Envelope, accounts: Accounts, *, fresh: bool) -> None:
    span = spool.span(envelope.partition, envelope.position, fresh=fresh)
    try:
        for event in envelope.parts():
            span.append(envelope.key, event)
    except SpoolError:
        span.undo()
        raise
    accounts.memory_bytes -= envelope.memory_bytes
    envelope.moved_to(span)


async def _all(envelopes: Sequence[Envelope]) -> None:
    for envelope in envelopes:
        if not envelope.settled:
            await envelope.wait()
