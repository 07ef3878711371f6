"""The same road, headless, to its end: send, meter, close, deliver, read everything back, and compare.

In this order, and why:

1. a fresh stack, and workers whose meters file is a copy with `max_delay: none`: the clock is the data's (design §3);
2. everything is sent and acknowledged, generated usage with pauses until what is sent so far is counted and its windows
   are closed, so that late events find closed windows, and revise them; then the usage log is read back, since only the
   broker knows offsets and append times;
3. the ledger judges the log, and so knows the last window; ticks past its end go to every partition;
4. the workers are asked until they have read all of it, every window due has closed and every outbox is empty;
5. every message and every document of both regions is read with the Azure SDKs, and compared with the ledger.

Nothing sleeps for a fixed time: what is waited for is asked for, and gives up only when nothing moves any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from local import readback
from local.checking import Mismatch, Outcome, compare, compare_counters, compare_dead_letters, totals
from local.generator import compressed
from local.ledger import Expected, Key, Ledger
from local.reading import Rules, parse_time
from local.stack import Stack
from local.workers import WorkerProcess, ports
from schemas.errors import BrokerError, ConfigurationError, MeterlineError
from schemas.meters import load as load_meters
from settings import Settings
from transport.sending import UsageProducer

log = logging.getLogger("meterline.once")

PAUSES = 3
STALLED_S = 90.0
"""Give up when nothing has moved for so long."""
REPLICATED_S = 30.0
SOURCE = "/meterline/once"
_POLL_S = 0.2
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

Meanwhile = Callable[[list[WorkerProcess]], Coroutine[Any, Any, None]]
"""What happens to the workers while they work; one that it ends, it takes out of the list. The first stays."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. data_dir: where to, not used before. meters: path of the meters file.

    worker_environ: settings of the workers that win over the stack's, as where they speak to the broker another way.
    """

    data_dir: Path
    meters: Path
    partitions: int = 4
    workers: int = 1
    kafka: str | None = None
    worker_environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `numbers` is what `--json` prints."""

    numbers: dict[str, Any]
    mismatches: Sequence[Mismatch]

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
    meters = rendered(options.meters, options.data_dir)
    rules = Rules.of(yaml.safe_load(meters.read_text()))
    tell("starting broker, Service Bus and Cosmos DB")
    stack = Stack(
        options.data_dir,
        kafka=options.kafka,
        usage_partitions=options.partitions,
        base=replace(base, meters=str(meters)),
    )
    async with stack:
        web = ports(options.workers)
        workers = [WorkerProcess(stack, n, port, options.worker_environ) for n, port in enumerate(web, start=1)]
        started = tuple(workers)
        try:
            for worker in started:
                await worker.start()
            happening = asyncio.create_task(meanwhile(workers)) if meanwhile is not None else None
            ledger = Ledger(rules)
            async with UsageProducer(stack.settings) as producer:
                tell("sending usage")

                async def pause(so_far: int) -> None:
                    await producer.flush()
                    await _until(stack, workers, lambda status: closes_behind(status, so_far))

                sent = await feed(producer, pause)
                await producer.flush()
                due_ms = await _judge_and_tick(stack, rules, ledger, producer)
            tell(f"{sent} events sent; metering, closing, delivering")
            read = ledger.total().get("read", 0)
            if happening is not None:
                await happening
            await _until(stack, workers, lambda status: waits_for(status, read, due_ms))
            tell("reading everything back")
            outcome = await _read_back(stack, workers[0])
        finally:
            await asyncio.gather(*(worker.stop() for worker in started))
    windows = {key: expected for key, expected in ledger.windows().items() if _end_ms(rules, key) <= due_ms}
    found = compare(windows, outcome)
    found += compare_counters(ledger.counters(), outcome.audit)
    found += compare_dead_letters(ledger.dead_letters, outcome.dead_letters)
    if ledger.total().get("read", 0) != sent:
        found.append(Mismatch("usage log", "events", sent, ledger.total().get("read", 0)))
    if check is not None:
        found += check(rules, windows, options.partitions)
    return Report(_numbers(sent, outcome, found, time.monotonic() - began_s), found)


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


def rendered(meters: Path, directory: Path) -> Path:
    """A copy of the meters file with `max_delay: none`. Raises ConfigurationError for a file that is wrong."""
    load_meters(meters)
    document = yaml.safe_load(meters.read_text())
    document["stream"] = {**(document.get("stream") or {}), "max_delay": "none"}
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "meters.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    load_meters(path)
    return path


async def _judge_and_tick(stack: Stack, rules: Rules, ledger: Ledger, producer: UsageProducer) -> int:
    """Judges the log, appends the last ticks and judges them, too; the time of the ticks: what must have closed by it.

    A tick may not be ahead of the clock by more than the tolerance: windows that end later stay open, as they must.
    """
    async with readback.UsageLog(stack.settings, stack.settings.usage_topic, producer.partitions) as usage:
        async for record in usage.read():
            ledger.judge(record)
        # Past the last end by one more period, so that the last change of a window that was late has left as well.
        due_ms = max((_end_ms(rules, key) for key in ledger.windows()), default=0) + rules.revise_every_ms
        due_ms = min(due_ms, time.time_ns() // 1_000_000 + rules.future_tolerance_ms // 2)
        await producer.tick(due_ms, SOURCE)
        async for record in usage.read():
            ledger.judge(record)
    return due_ms


async def _until(
    stack: Stack, workers: Sequence[WorkerProcess], waits: Callable[[Mapping[str, Any]], list[str]]
) -> None:
    """Asks the first worker, which answers for all, until nothing is waited for; raises BrokerError if nothing moves."""
    seen: object = None
    waiting = ["the worker does not answer"]
    moved_s = time.monotonic()
    while True:
        for child in (*stack.processes.values(), *(worker.process for worker in workers)):
            if not child.running:
                raise BrokerError(child.obituary())
        try:
            status = await workers[0].get("/v1/status")
        except MeterlineError:
            status = None  # not up yet, or starting over
        if status is not None:
            waiting = waits(status)
            if not waiting:
                return
            if (progress := _progress(status)) != seen:
                seen, moved_s = progress, time.monotonic()
                log.info("waiting: %s", "; ".join(waiting))
        if time.monotonic() - moved_s > STALLED_S:
            raise BrokerError(f"nothing moves any more: {'; '.join(waiting)}\n{workers[0].process.tail()}")
        await asyncio.sleep(_POLL_S)


def closes_behind(status: Mapping[str, Any], read: int) -> list[str]:
    """What a `/v1/status` still lacks until everything sent so far is counted and CLOSING has heard of it. Empty: nothing.

    Raises BrokerError for a partition that has stopped: it never will.
    """
    lacking = _running(status, read)
    heard = [task["watermark"] for task in status["metering"].values()]
    if not lacking and all(heard):
        behind_ms = min(map(parse_time, heard))
        lacking += _below(status, behind_ms)
    return lacking


def waits_for(status: Mapping[str, Any], read: int, due_ms: int) -> list[str]:
    """What a `/v1/status` still lacks for the end: all read, all due windows closed, all outboxes empty. Empty: the end.

    Raises BrokerError for a partition that has stopped: it never will.
    """
    lacking = _running(status, read) + _below(status, due_ms)
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


async def _read_back(stack: Stack, worker: WorkerProcess) -> Outcome:
    settings = stack.settings
    audit = await worker.get("/v1/audit")
    letters = await readback.dead_letters(settings)
    messages = asyncio.create_task(readback.messages(settings))
    try:
        status = await worker.get("/v1/status")
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


def _progress(status: Mapping[str, Any]) -> object:
    return [
        [(task.get("position"), task.get("restored"), task.get("delivered")) for task in status[stage].values()]
        for stage in ("metering", "closing")
    ]


def _end_ms(rules: Rules, key: Key) -> int:
    """When a window is due: its end and its meter's grace."""
    for meter in rules.meters:
        for size, size_ms in meter.windows:
            if (meter.slug, size) == (key.meter, key.size):
                return key.start_ms + size_ms + meter.grace_ms
    raise AssertionError(f"no meter {key.meter} with {key.size}")
