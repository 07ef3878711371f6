"""CLOSING by itself: partials and watermarks written by hand, one line each. Times are seconds after noon."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from schemas import partials as wire
from schemas.events import event_id_digest
from schemas.partials import Contribution, Partial, Partials, Rows, Watermark
from schemas.windows import WindowKey
from tests.usage import NOON, SECOND, definitions, meter
from tests.world import PARTIALS, ClosingProcess, World

AGGREGATIONS = ("sum", "count", "min", "max", "avg", "latest", "unique_count")
DEFINITIONS = definitions(
    {
        "stream": {"max_delay": "none", "correct_for": "PT10M", "revise_every": "PT1M"},
        "meters": [meter(name, name, grace="PT5S") for name in AGGREGATIONS],
    }
)
END, CLOSES, SEALS = 60, 65, 660
"""Of the window that begins at noon."""


class Stage:
    """One CLOSING over one partials partition, fed record by record, with every revision it decides."""

    def __init__(self, sources: int = 1) -> None:
        self.world = World(DEFINITIONS, sources=sources)
        self.process = ClosingProcess(self.world)

    def partial(self, events: int, amount: object = None, meter: str = "sum", **more: Any) -> None:
        """One record with one partial."""
        self.pack(more.pop("source", 0), made(events, amount, meter, **more))

    def pack(self, source: int, *items: Partial, objects: bool = False) -> None:
        """Records of partials, as METERING makes them: rows, and objects where they carry more; or objects only."""
        rows, others = Rows.of(() if objects else items)
        for value in wire.pack_rows(source, rows):
            self._told(value)
        if objects or others:
            self._told(wire.encode(Partials(source, list(items) if objects else others)))

    def mark(self, second: float, through: int = 1000, source: int = 0, folds: int | None = None) -> None:
        """A watermark; its folds balance unless said otherwise."""
        joined = self.process.table.sources[source].joined
        self._told(
            wire.encode(Watermark(source, NOON + int(second * SECOND), through, joined if folds is None else folds))
        )

    def again(self, *offsets: int) -> None:
        """Records of the log once more, at its end."""
        for offset in offsets:
            self._told(self.world.logs[PARTIALS, 0].records[offset].value or b"")

    def revisions(self) -> list[dict[str, Any]]:
        """The documents decided so far."""
        return [*self.process.stage.revised]

    def last(self) -> tuple[int, str, str, str, int]:
        """Of the last revision: its number, value, delta, reason, events."""
        document = self.revisions()[-1]
        return tuple(document[name] for name in ("revision", "value", "delta", "reason", "events"))

    def alarms(self) -> list[str]:
        return [alarm.kind for alarm in self.process.stage.alarms]

    def _told(self, value: bytes) -> None:
        self.world.logs[PARTIALS, 0].append(value)
        self.process.read()


def made(
    events: int,
    amount: object = None,
    meter: str = "sum",
    *,
    subject: str = "acme",
    second: int = 0,
    first: int = 0,
    through: int | None = None,
    members: bytes = b"",
    at: tuple[int, int, int] | None = None,
) -> Partial:
    """What a source has contributed to a window: so many events, `through` their number unless said otherwise."""
    through = events if through is None else through
    value = None if amount is None else Decimal(str(amount))
    return Partial(
        subject, meter, (), NOON + second * SECOND, "PT1M", 1,
        Contribution(events, digest(events), first, through, value, at), members,
    )  # fmt: skip


def digest(events: int) -> bytes:
    """The sum of as many ids."""
    total = sum(int.from_bytes(event_id_digest("app", str(number)), "big") for number in range(events))
    return (total % wire.DIGEST_MOD).to_bytes(16, "big")


def member(name: int) -> bytes:
    return name.to_bytes(16, "big")


def key(name: str = "sum", subject: str = "acme") -> WindowKey:
    return WindowKey(subject, name, (), NOON, "PT1M")
