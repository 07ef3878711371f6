"""The same road, headless, to its end: send, meter, close, deliver, read everything back, and compare.

In this order, and why:

1. a fresh stack, and workers whose meters file is a copy with `max_delay: none`: the clock is the data's (design §3);
2. everything is sent and acknowledged, generated usage with pauses until what is sent so far is counted and its windows
   are closed, so that late events find closed windows, and revise them; then the usage log is read back, since only the
   broker knows offsets and append times;
3. the ledger judges the log, and so knows the last window; ticks past its end go to every partition;
4. the workers are asked until they have read all of it, every window due has closed and every outbox is empty;
5. every message and every document of both regions is read with the Azure SDKs, and compared with the ledger; so is what
   the stages told each other, and nobody may have raised an alarm.

What befalls workers and servers meanwhile is the caller's to say (`local/chaos.py`): the comparison is the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from local import readback, stages
from local.checking import Mismatch, Outcome, compare, compare_counters, compare_dead_letters, first_copies, totals
from local.generator import compressed
from local.ledger import Expected, Key, Ledger
from local.reading import Rules
from local.stack import Stack
from local.waiting import closes_behind, until, waits_for
from local.witness import Court, Witness
from local.workers import Fleet
from schemas.errors import ConfigurationError
from schemas.meters import load as load_meters
from settings import Settings
from transport.sending import UsageProducer

PAUSES = 3
REPLICATED_S = 30.0
SOURCE = "/meterline/once"
_DAY_MS = 86_400_000
_EVENT_MS = 60
_LEAST_SPAN_MS = 10 * 60_000
_MOST_SPAN_MS = 3 * 3_600_000

Pause = Callable[[int], Awaitable[None]]
"""Told how many events were sent so far, returns when they are counted and the windows that are due by then are closed."""
Feed = Callable[[UsageProducer, Pause], Awaitable[int]]
"""Sends everything there is to send; how many events that was."""
Check = Callable[[Rules, Mapping[Key, Expected], int], list[Mismatch]]
"""A further opinion on what the final values must be: rules, windows, partitions of the usage topic."""

Meanwhile = Callable[[Stack, Fleet], Coroutine[Any, Any, None]]
"""What happens to servers and workers while they work. When it returns, all that are up must be on their way back."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. data_dir: where to, not used before. meters: path of the meters file.

    worker_environ: settings of the workers that win over the stack's, as where they speak to the broker another way.
    max_delay: the workers' clock, as a meters file has it. duplicate_detection: of the queue; without it every copy of a
    message arrives, and is compared with the first.
    """

    data_dir: Path
    meters: Path
    partitions: int = 4
    workers: int = 1
    kafka: str | None = None
    worker_environ: Mapping[str, str] = field(default_factory=dict)
    max_delay: str = "none"
    duplicate_detection: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `numbers` is what `--json` prints. court: what it saw in the usage log.

    copies: how many messages came again, where the queue does not look for duplicates.
    """

    numbers: dict[str, Any]
    mismatches: Sequence[Mismatch]
    court: Court
    copies: int

    @property
    def good(self) -> bool:
        """No mismatch, the equation of the ledger included."""
        return not self.mismatches


async def once(
    options: Options,
    base: Settings,
    feed: Feed,
    tell: Callable[[str], None],
    check: Check | None = None,
    meanwhile: Meanwhile | None = None,
) -> Report:
    """Run it. Raises MeterlineError where it cannot be run to its end; nothing is left running in any case."""
    began_s = time.monotonic()
    if options.data_dir.exists() and any(options.data_dir.iterdir()):
        raise ConfigurationError(
            f"{options.data_dir} is not empty",
            where="--data-dir",
            hint="a checked run begins with nothing: a new directory",
        )
    meters = rendered(options.meters, options.data_dir, options.max_delay)
    rules = Rules.of(yaml.safe_load(meters.read_text()))
    ledger = Ledger(rules)
    tell("starting broker, Service Bus and Cosmos DB")
    stack = Stack(
        options.data_dir,
        kafka=options.kafka,
        usage_partitions=options.partitions,
        base=replace(base, meters=str(meters)),
        duplicate_detection=options.duplicate_detection,
    )
    async with stack, _fleet(stack, options) as fleet, _meanwhile(meanwhile, stack, fleet) as happening:
        async with Witness(stack.settings) as producer:
            tell("sending usage")

            async def pause(so_far: int) -> None:
                await producer.flush()
                await until(stack, fleet, lambda status: closes_behind(status, so_far))

            sent = await feed(producer, pause)
            await happening
            await producer.flush()
            usage = readback.UsageLog(stack.settings, stack.settings.usage_topic, producer.partitions)
            async with usage:
                court = Court(usage, ledger, producer.sent)
                await court.sit()
                due_ms = _due_ms(rules, ledger)
                await producer.tick(due_ms, SOURCE)
                tell(f"{sent} events sent; metering, closing, delivering")
                status, audit = await _settled(stack, fleet, court, ledger, due_ms)
        tell("reading everything back")
        outcome = await _read_back(stack, status, audit)
        joined = await stages.joined(stack)
    found = court.verdict() + joined.compare(ledger.folds(), stack.partials_partitions)
    found += [Mismatch(alarm["where"], "alarm", "none", alarm["what"]) for alarm in status["alarms"]]
    found += [Mismatch("worker's log", "alarm", "none", line) for line in fleet.complaints()]
    windows = {key: expected for key, expected in ledger.windows().items() if _end_ms(rules, key) <= due_ms}
    copies = len(outcome.messages)
    if not options.duplicate_detection:
        messages, differing = first_copies(outcome.messages)
        outcome, found = replace(outcome, messages=messages), found + differing
    copies -= len(outcome.messages)
    found += compare(windows, outcome)
    found += compare_counters(ledger.counters(), outcome.audit)
    found += compare_dead_letters(ledger.dead_letters, outcome.dead_letters)
    if check is not None:
        found += check(rules, windows, options.partitions)
    return Report(_numbers(sent, outcome, found, time.monotonic() - began_s), found, court, copies)


def generated(rules: Rules, events: int, seed: int) -> Feed:
    """Sends the generator's compressed usage: minutes to hours around the last midnight but one, so that days close, too.

    The more events, the longer, so that windows hold several events, and a run stays short.
    """
    span_ms = min(max(events * _EVENT_MS, _LEAST_SPAN_MS), _MOST_SPAN_MS)

    async def feed(producer: UsageProducer, pause: Pause) -> int:
        now_ms = time.time_ns() // 1_000_000
        midnight_ms = (now_ms - rules.settle_ms) // _DAY_MS * _DAY_MS
        sent = paused = 0
        for planned in compressed(
            rules,
            seed=seed,
            partitions=producer.partitions,
            events=events,
            start_ms=midnight_ms - _DAY_MS - span_ms // 2,
            span_ms=span_ms,
            now_ms=now_ms,
        ):
            await producer.send(planned.partition, planned.key, planned.value, planned.headers)
            sent += planned.events
            if paused < PAUSES and sent * (PAUSES + 1) // events > paused:
                paused += 1
                await pause(sent)
        return sent

    return feed


def rendered(meters: Path, directory: Path, max_delay: str = "none") -> Path:
    """A copy of the meters file with that `max_delay`. Raises ConfigurationError for a file that is wrong."""
    load_meters(meters)
    document = yaml.safe_load(meters.read_text())
    document["stream"] = {**(document.get("stream") or {}), "max_delay": max_delay}
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "meters.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    load_meters(path)
    return path


@asynccontextmanager
async def _fleet(stack: Stack, options: Options) -> AsyncIterator[Fleet]:
    """The workers, started; whatever happens, none is left."""
    fleet = Fleet(stack, options.worker_environ)
    try:
        await fleet.scale(options.workers)
        yield fleet
    finally:
        await fleet.stop()


@asynccontextmanager
async def _meanwhile(what: Meanwhile | None, stack: Stack, fleet: Fleet) -> AsyncIterator[Awaitable[None]]:
    """It happens; ended with the body, which awaits it."""
    happening = asyncio.create_task(what(stack, fleet) if what is not None else asyncio.sleep(0))
    try:
        yield happening
    finally:
        happening.cancel()
        await asyncio.gather(happening, return_exceptions=True)


def _due_ms(rules: Rules, ledger: Ledger) -> int:
    """The time of the last ticks: what must have closed by it.

    A tick may not be ahead of the clock by more than the tolerance: windows that end later stay open, as they must.
    """
    # Past the last end by one more period, so that the last change of a window that was late has left as well.
    due_ms = max((_end_ms(rules, key) for key in ledger.windows()), default=0) + rules.revise_every_ms
    return min(due_ms, time.time_ns() // 1_000_000 + rules.future_tolerance_ms // 2)


async def _settled(
    stack: Stack, fleet: Fleet, court: Court, ledger: Ledger, due_ms: int
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """`/v1/status` and `/v1/audit` once nothing is lacking, and nothing was added to the log meanwhile by the workers."""
    while True:
        await court.sit()
        read, ends = ledger.total().get("read", 0), dict(court.ends)
        status = await until(stack, fleet, lambda status: waits_for(status, read, due_ms, ends))  # noqa: B023
        audit = await fleet.up[0].get("/v1/audit")
        if not await court.sit():
            return status, audit


async def _read_back(stack: Stack, status: Mapping[str, Any], audit: Mapping[str, Any]) -> Outcome:
    settings = stack.settings
    letters = await readback.dead_letters(settings)
    messages = asyncio.create_task(readback.messages(settings))
    try:
        revisions = sum(task["revisions"] for task in status["closing"].values())
        items = await readback.regions(
            settings, stack.cosmos_endpoints, settings.cosmos_revisions_container, revisions, REPLICATED_S
        )
        documents = await readback.regions(settings, stack.cosmos_endpoints, settings.cosmos_container, 0, REPLICATED_S)
        return Outcome(await messages, documents, items, audit, letters)
    finally:
        messages.cancel()


def _numbers(sent: int, outcome: Outcome, found: Sequence[Mismatch], seconds: float) -> dict[str, Any]:
    total = outcome.audit["total"]
    return {
        "events_sent": sent,
        "counted": total["counted"],
        "duplicates": total["duplicate"],
        "late": total["late"],
        "dead_lettered": total["dead_lettered"],
        "unmatched": total["unmatched"],
        "windows_closed": len({message.body["window_id"] for message in outcome.messages}),
        "revisions": len(outcome.revisions[0]),
        "invoice_messages": len(outcome.messages),
        "cosmos_documents": len(outcome.documents[0]),
        "totals": totals(outcome.documents[0]),
        "mismatches": len(found),
        "seconds": round(seconds, 1),
    }


def _end_ms(rules: Rules, key: Key) -> int:
    """When a window is due: its end and its meter's grace."""
    for meter in rules.meters:
        for size, size_ms in meter.windows:
            if (meter.slug, size) == (key.meter, key.size):
                return key.start_ms + size_ms + meter.grace_ms
    raise AssertionError(f"no meter {key.meter} with {key.size}")
