"""meterline in the field, as its users run it: `app.py worker` on a stack with Service Bus and Cosmos DB, everything on.

The worker has the measured core to itself; the servers of its stack share the broker's, as the broker does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import aiohttp
import orjson

from bench.field import job
from bench.field.contestants import Contestant, Running, Where, pinned
from bench.field.feeding import Feed
from bench.field.inputs import Place
from bench.field.judge import Found
from local import stages
from local.ports import free_port
from local.process import Child
from local.stack import Stack
from local.workers import WorkerProcess
from schemas.errors import BrokerError
from schemas.times import parse_rfc3339
from settings import Settings

_ASKED_MOST = 20_000
"""More windows than this are read from what METERING told CLOSING, not over HTTP, page by page."""
_SLUGS = {kind.replace(".", "_"): kind for kind in job.TYPES}
_NEARLY = 0.999


@dataclass(frozen=True)
class Meterline(Contestant):
    """workers: how many, all on the measured core."""

    workers: int = 1

    def lacks(self) -> str | None:
        """Nothing: it is here."""
        return None

    def on(self, where: Where) -> Running:
        """Ready to start there."""
        return MeterlineRunning(self.workers, where)


class MeterlineRunning(Running):
    """See `Running`. settings: what is not as a worker has it by default."""

    def __init__(self, workers: int, where: Where, **settings: Any) -> None:
        self.where = where
        directory = where.directory / where.name
        directory.mkdir(parents=True)
        meters = directory / "meters.yaml"
        meters.write_text(meters_yaml())
        names = {f"{topic}_topic": f"{topic}-{where.name}".replace("_", "-") for topic in _TOPICS}
        base = replace(Settings(app_id=where.name, **settings), meters=str(meters), **names)  # type: ignore[arg-type]
        self._stack = Stack(
            directory / "stack",
            kafka=where.bootstrap,
            usage_partitions=job.PARTITIONS,
            partials_partitions=job.PARTITIONS,
            base=base,
        )
        self._workers = [WorkerProcess(self._stack, number, free_port()) for number in range(1, workers + 1)]
        for worker in self._workers:
            worker.process.command = pinned(worker.process.command, where.core)
        assert base.usage_topic == where.usage

    async def prepare(self, feed: Feed) -> None:
        """The stack: topics, Service Bus, Cosmos DB."""
        await self._stack.start()

    def children(self) -> Sequence[Child]:
        """The workers."""
        return [worker.process for worker in self._workers]

    async def start(self) -> None:
        """The workers."""
        for worker in self._workers:
            await worker.start()

    async def stop(self) -> None:
        """The workers, then the stack."""
        for child in self.children():
            await child.stop(10)
        await self._stack.close()

    async def share(self, feed: Feed, records: int, events: int) -> float:
        """What its ledger has read; all only when that is committed, and joined by CLOSING."""
        statuses = await self._statuses()
        if statuses is None:
            return 0.0
        read = sum(int(p["read"]) for status in statuses for p in status["audit"].get("partitions", {}).values())
        tasks = [task for status in statuses for task in status["status"]["metering"].values()]
        behind = [task for status in statuses for task in status["status"]["closing"].values() if task["lag"]]
        if read >= events and (behind or any(task["committed"] != task["position"] for task in tasks)):
            return _NEARLY
        return min(read / events, 1.0 if len(tasks) == job.PARTITIONS else _NEARLY)

    async def settled(self, feed: Feed, records: int, events: int) -> float:
        """What its group has committed, which the broker says; its own core answers only when that may be all."""
        committed = await feed.committed(self.where.name, self.where.usage)
        if committed < records:
            return min(committed / records, _NEARLY)
        return await self.share(feed, records, events)

    async def told(self, feed: Feed) -> int:
        """Windows that have closed."""
        statuses = await self._statuses() or []
        return sum(task["windows_closed"] for s in statuses for task in s["status"]["closing"].values())

    async def totals(self) -> dict[Place, Found]:
        """Over HTTP, or, where that are too many pages, joined from the partials log as CLOSING does."""
        statuses = await self._statuses() or []
        if sum(task["partials"] for s in statuses for task in s["status"]["metering"].values()) > _ASKED_MOST:
            return await self._joined()
        found: dict[Place, Found] = {}
        after = ""
        while True:
            page = await self._workers[0].get(f"/v1/totals?limit=1000{after}")
            if "items" not in page:
                raise BrokerError(f"/v1/totals: {page}")
            for item in page["items"]:
                place = Place(f"{item['subject']}/{_SLUGS[item['meter']]}", parse_rfc3339(item["window_start"]))
                found[place] = Found(item["events"], Decimal(item["value"]), item["state"] != "open")
            if page["next"] is None:
                return found
            after = f"&cursor={page['next']}"

    async def watch(self, subjects: Sequence[str]) -> AsyncGenerator[tuple[str, int], None]:
        """The live feed, one reader per subject: its own core is asked nothing, it says when a total is another."""
        seen: asyncio.Queue[tuple[str, int] | None] = asyncio.Queue()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            readers = [asyncio.create_task(self._follow(session, subject, seen)) for subject in subjects]
            try:
                while True:
                    told = await seen.get()
                    if told is None:
                        raise BrokerError("the live feed has ended, or failed")
                    yield told
            finally:
                for reader in readers:
                    reader.cancel()
                await asyncio.gather(*readers, return_exceptions=True)

    async def _follow(
        self, session: aiohttp.ClientSession, subject: str, seen: asyncio.Queue[tuple[str, int] | None]
    ) -> None:
        """Puts what it reads; None at its end, whatever that was."""
        asked = {"subject": subject, "interval_ms": "0"}
        try:
            async with session.get(self._workers[0].url + "/v1/live", params=asked) as response:
                response.raise_for_status()
                name = b""
                async for line in response.content:
                    if line.startswith(b"event: "):
                        name = line[7:].strip()
                    elif line.startswith(b"data: ") and name == b"total":
                        await seen.put((subject, int(orjson.loads(line[6:])["events"])))
        finally:
            seen.put_nowait(None)

    async def _joined(self) -> dict[Place, Found]:
        sums: dict[Place, tuple[int, Decimal]] = {}
        joined = await stages.joined(self._stack)
        for shares in joined.shares.values():
            for key, share in shares.items():
                place = Place(f"{key.subject}/{_SLUGS[key.meter]}", key.start_ms)
                count, amount = sums.get(place, (0, Decimal(0)))
                sums[place] = count + share.events, amount + (share.amount or 0)
        return {place: Found(count, amount, closed=False) for place, (count, amount) in sums.items()}

    async def _statuses(self) -> list[Any] | None:
        """Of all workers, or None while one does not answer yet. Raises BrokerError where one has ended."""
        self.check()
        try:
            return [await worker.get("/v1/status?local=1") for worker in self._workers]
        except BrokerError:
            return None


def meters_yaml() -> str:
    """The job as a meters file: one sum per type; how many events they were stands beside every total."""
    lines = ["# The clock is the data's: what is metered lies in the past.", "stream: { max_delay: none }", "meters:"]
    for slug, kind in _SLUGS.items():
        lines.append(
            f"  - {{ slug: {slug}, unit: tokens, event_type: {kind}, aggregation: sum, value: /tokens, windows: [PT1H], "
            f"grace: PT{job.GRACE_MS // 1000}S }}"
        )
    return "\n".join(lines) + "\n"


_TOPICS = ("usage", "partials", "metering_state", "closing_state", "dead_letters")
_EVERYTHING = (
    "`app.py worker` with its defaults on Service Bus and Cosmos DB (README): dedupe, exact decimals, changelogs, strict "
    "commit, conservation ledger"
)
MEMBERS = (
    Meterline("meterline", "meterline", _EVERYTHING, deduplicates=True, shows="live feed"),
    Meterline(
        "meterline-envelopes", "meterline, envelopes", _EVERYTHING, envelopes=True, deduplicates=True, shows="live feed"
    ),
)
TWO_WORKERS = Meterline("meterline-two", "meterline, two workers", _EVERYTHING, deduplicates=True, workers=2)
