"""Random small worlds over the whole road, and what must be true of each in the end."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Context, Decimal, Inexact
from typing import Any

import orjson

from local.ledger import Key, Ledger
from local.reading import Record as Judged
from local.reading import Rules, parse_time
from schemas.errors import BrokerError
from schemas.partials import RECORD_MAX
from sinks.contract import DELIVERED, retry
from tables.effects import Commit, Effect, Produce
from tests import pictures
from tests.usage import MINUTE, NOON, SECOND, definitions, meter, usage
from tests.world import AFTER, BEFORE, PARTIALS, SINKS, USAGE, ClosingProcess, Fault, MeteringProcess, World, to_the_end

STREAM = {"max_delay": "none", "future_tolerance": "PT1M", "correct_for": "PT3M", "revise_every": "PT20S"}
TOTAL = meter("total", group_by={"model": "/model"}, windows=["PT1M", "PT2M"], grace="PT10S")
STORAGE = meter("storage", event_type="store", windows=["PT2M"], minimum=0)
DOCUMENTS: list[dict[str, Any]] = [
    {"stream": STREAM, "meters": meters}
    for meters in (
        [TOTAL, STORAGE],
        [meter("mean", "avg", grace="PT5S"), meter("calls", "count", grace="PT0S"), STORAGE],
        [meter("last", "latest"), meter("low", "min", grace="PT40S"), meter("high", "max", event_type="store")],
        [meter("users", "unique_count", value="/user"), STORAGE],
    )
]
DEFINITIONS = [definitions(document) for document in DOCUMENTS]
RULES = [Rules.of(document) for document in DOCUMENTS]
EXACT = Context(prec=200, traps=[Inexact])
FAR = NOON + 1000 * MINUTE


class Road:
    """One world of a seed: usage with everything that goes wrong, owners that die, zombies, and records that come late."""

    def __init__(self, seed: int, records: int = 9) -> None:
        self.rng = rng = random.Random(seed)
        self.rules = RULES[seed % len(RULES)]
        self.world = World(
            DEFINITIONS[seed % len(DEFINITIONS)],
            sources=rng.choice([1, 2, 2, 3]),
            targets=rng.choice([1, 2]),
            record=rng.choice([64, 64, 400, RECORD_MAX]),
            slice=rng.choice([1, 300, 5000]),
            snapshot_min=rng.choice([0, 2000, 100_000]),
        )
        for partition in range(self.world.sources):
            self._write_usage(partition, records)
        kinds: list[type[MeteringProcess | ClosingProcess]] = [MeteringProcess] * self.world.sources
        kinds += [ClosingProcess] * self.world.targets
        partitions = [*range(self.world.sources), *range(self.world.targets)]
        self.owners = [kind(self.world, partition) for kind, partition in zip(kinds, partitions, strict=True)]
        self.zombies: list[MeteringProcess | ClosingProcess] = []
        self.alarms: list[str] = []

    def run(self) -> Road:
        """All of its life, with records so small that a partial's members travel in pieces."""
        self._live(45)
        self._end()
        return self

    def _live(self, steps: int) -> None:
        """Chance decides who does what next, and what befalls it."""
        rng, world = self.rng, self.world
        for _ in range(steps):
            if world.late and rng.random() < 0.12:
                world.arrive(rng.randrange(len(world.late)))
            zombie = bool(self.zombies) and rng.random() < 0.25
            place = rng.randrange(len(self.zombies if zombie else self.owners))
            process = (self.zombies if zombie else self.owners)[place]
            what = rng.random()
            if not zombie and what < 0.08:  # the process dies, or is only taken for dead and goes on
                self.zombies += [process] if what < 0.04 else []
                self._replace(place)
                continue
            try:
                self._act(process, what)
            except BrokerError:
                if zombie:
                    self.zombies.pop(place)
                else:
                    self._replace(place)

    def _end(self) -> None:
        """Ticks far ahead seal every window; new owners bring everything home; then the judgement."""
        world = self.world
        for partition in range(world.sources):
            world.tick(FAR, partition)
        metering, closing = to_the_end(world, self.rng.choice([1, 1, 1, 2]))
        self._judge(metering, closing)

    def _act(self, process: MeteringProcess | ClosingProcess, what: float) -> None:
        rng, world = self.rng, self.world
        try:
            if what < 0.45:
                process.read(rng.randint(1, 5))
            elif what < 0.65:
                world.fault = self._misfortune(0.2)
                if isinstance(process, MeteringProcess):
                    process.emit(everywhere=rng.random() < 0.5)
                else:
                    self._deliver(process)
            elif what < 0.95:
                world.fault = self._misfortune(0.15)
                process.checkpoint(snapshot_due=rng.random() < 0.1)
            elif isinstance(process, MeteringProcess) and process.table.position == world.logs[USAGE, process.part].end:
                at_ms = max((r.timestamp_ms for r in world.logs[USAGE, process.part].records), default=NOON) + SECOND
                world.tick(at_ms - 5 * SECOND, process.part, at_ms)
        finally:
            world.fault = lambda effect: None
            if isinstance(process, ClosingProcess):
                self.alarms += [f"{alarm.kind}: {alarm.what}" for alarm in process.stage.alarms]
                process.stage.alarms.clear()

    def _deliver(self, process: ClosingProcess) -> None:
        """Some get an answer, some answers are lost: the revision is sent again later."""
        most = self.rng.randint(1, 6)
        process.deliver(
            self.rng.choice(SINKS),
            most=most,
            outcome=lambda revision: DELIVERED if self.rng.random() < 0.7 else retry("no answer"),
        )

    def _misfortune(self, chance: float) -> Any:
        rng = self.rng

        def befall(effect: Effect) -> Fault | None:
            if rng.random() > chance:
                return None
            if isinstance(effect, Produce) and rng.random() < 0.7:
                fates = [rng.choice(["kept", "lost", "late"]) for _ in effect.records]
                fates[rng.randrange(len(fates))] = rng.choice(["lost", "late"])
                return Fault("torn", tuple(fates))
            return rng.choice([BEFORE, AFTER]) if isinstance(effect, Produce | Commit) else BEFORE

        return befall

    def _replace(self, place: int) -> None:
        """A new owner. What it restores is what the log says up to the committed offset."""
        old = self.owners[place]
        new = self.owners[place] = type(old)(self.world, old.part)
        if isinstance(new, MeteringProcess):
            plain = pictures.plain_metering(self.world, new.part, new.table.position)
            assert pictures.of_metering(self.world, new.table) == plain
        else:
            assert pictures.of_closing(new.table) == pictures.plain_closing(self.world, new.part, new.table.position)
            assert pictures.missing_revisions(self.world, new) == []

    def _judge(self, metering: list[MeteringProcess], closing: list[ClosingProcess]) -> None:
        world = self.world
        ledger = Ledger(self.rules)
        for partition in range(world.sources):
            for record in world.logs[USAGE, partition].records:
                ledger.judge(Judged(partition, record.offset, record.timestamp_ms, record.value, record.headers))
        assert_conserved(world, ledger, metering)
        assert {
            (d["partition"], d["offset"], d["index"]): d["reason"] for d in world.dead_letters()
        } == ledger.dead_letters
        for sink in SINKS:
            assert final_windows(assert_revisions(world, sink)) == {
                key: (expected.value, expected.events) for key, expected in ledger.windows().items()
            }
        assert_same(world, "cosmos")
        for process in closing:
            self.alarms += [alarm.what for alarm in process.stage.alarms]
            assert not process.table.windows and not process.table.members and not process.table.outbox.items
            for source in metering:
                assert process.table.sources[source.part].joined == source.table.folds[process.part]
        assert self.alarms == []

    def _write_usage(self, partition: int, records: int) -> None:
        rng, world, now = self.rng, self.world, NOON
        subjects = rng.choice([["acme"], ["acme"], ["acme", "beta", "cora"]])
        known: list[dict[str, Any]] = []
        for _ in range(records):
            now += rng.choice([0, 1, 2, 5, 20, 40, 90]) * SECOND
            chance = rng.random()
            if chance < 0.06:
                world.use(rng.choice([b"not json", b"[]", b"{}", b"null"]), partition=partition, at_ms=now)
            elif chance < 0.18:
                world.tick(now + rng.choice([-60, -20, 0, 30, 61]) * SECOND, partition, now)
            else:
                events = [self._event(known, now, rng.choice(subjects)) for _ in range(rng.choice([1, 1, 4]))]
                world.use(*events, partition=partition, at_ms=now)

    def _event(self, known: list[dict[str, Any]], now: int, subject: str) -> dict[str, Any] | bytes:
        rng = self.rng
        if known and rng.random() < 0.25:
            again = rng.choice(known)
            return again if rng.random() < 0.6 else usage(again["id"], now, again["subject"], **again["data"])
        if rng.random() < 0.04:
            return b'{"specversion": "1.0", "id": 7}'
        time_ms = now - rng.choice([0, 0, 1, 15, 70, 150, 179, 180, 200, 400, -60, -61]) * SECOND
        data: dict[str, Any] = {"n": rng.choice([1, 2, "0.1", -3, 12.5, "x"] if rng.random() < 0.3 else [1, 2, "2.50"])}
        data |= {"user": rng.choice("abcdefghij"), "model": rng.choice(["m", "n"])} if rng.random() < 0.95 else {}
        kind = rng.choice(["use", "use", "use", "store", "unknown"])
        event = usage(f"{len(known)}-{rng.random()}", time_ms, subject, kind, **data)
        known.append(event)
        return event


def assert_conserved(world: World, ledger: Ledger, metering: list[MeteringProcess]) -> None:
    """Every counter of every partition is what the independent ledger counted."""
    names = {"tick": "ticks", "tick_refused": "ticks_refused"}
    reasons = {name: f"dead_lettered_{name}" for name in ("malformed", "invalid", "future", "too_late")}
    for process in metering:
        counts = ledger.counters()[process.part]
        ours = Counter(process.table.ledger.describe())
        assert {name: ours[(names | reasons).get(name, name)] for name in counts} == counts
        assert not process.table.partials


def assert_revisions(world: World, sink: str) -> dict[str, list[dict[str, Any]]]:
    """Per window: revisions from 1 without a gap, first seen in order, resent unchanged, deltas that sum to the value."""
    bodies: dict[str, bytes] = {}
    windows: dict[str, list[dict[str, Any]]] = {}
    for revision in world.received[sink]:
        if revision.message_id in bodies:
            assert bodies[revision.message_id] == revision.body, "two contents under one id"
            continue
        bodies[revision.message_id] = revision.body
        windows.setdefault(revision.window_id, []).append(orjson.loads(revision.body))
    for documents in windows.values():
        assert [document["revision"] for document in documents] == [*range(1, len(documents) + 1)]
        assert documents[0]["reason"] == "closed"
        assert {document["reason"] for document in documents[1:]} <= {"late", "seal"}
        told = Decimal(0)
        for document in documents:
            told = EXACT.add(told, Decimal(document["delta"]))
            assert told == Decimal(document["value"])
    return windows


def assert_same(world: World, sink: str) -> None:
    """What was delivered is, byte for byte, what the partials log says if it is folded once, without a crash."""
    told = {revision.message_id: revision for revision in world.received[sink]}
    decided = {}
    for target in range(world.targets):
        items = pictures.closing_fold(world, target, world.logs[PARTIALS, target].end).table.outbox.items
        decided.update({name: item.revision for name, item in items.items()})
    assert told == decided


def final_windows(windows: dict[str, list[dict[str, Any]]]) -> dict[Key, tuple[Decimal, int]]:
    """Value and events of each window's last revision."""
    last = [documents[-1] for documents in windows.values()]
    return {
        Key(d["subject"], d["meter"], tuple(d["group"].items()), parse_time(d["window_start"]), d["window_size"]): (
            Decimal(d["value"]),
            d["events"],
        )
        for d in last
    }
