"""What production shows beside what the oracle says: the difference, or nothing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from schemas.partials import NEVER
from schemas.records import Batch, Record
from schemas.times import parse_rfc3339
from simulation import pictures
from simulation.oracle import Expected, Oracle, Window
from streams.closing import Closing
from streams.metering import Metering

if TYPE_CHECKING:
    from simulation.world import World


class Broken(AssertionError):
    """A promise does not hold: which, and how the ledger differs."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


class Comparison:
    """One story's world and oracle, side by side."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.oracle = Oracle(world.document, world.sources)
        self._final_of: tuple[int, dict[Window, Expected]] = (0, {})
        self._newest_of: dict[Window, dict[str, Any]] = {}
        self._newest_read = 0
        self._revisions: dict[bytes, dict[str, Any]] = {}
        self._joint: list[tuple[float, int | None]] = []
        self._plain_metering: dict[int, Metering] = {}
        self._plain_closing: dict[int, Closing] = {}
        self._sizes = {
            (meter.slug, window.size): window.size_ms for meter in world.definitions.meters for window in meter.windows
        }

    def _same_share(
        self, key: Window, source: int, through: int, events: int, digest: str, first: int, promise: str
    ) -> None:
        told = self.oracle.share(key, source, through)
        said = (events, digest, first, through)
        if told is None or (told.events, hex_of(told.digest), told.first, told.through) != said:
            self._break(
                promise, f"{key} of source {source}: (events, digest, first, through) {said}, the oracle's {told}"
            )

    def _same_value(self, key: Window, throughs: Mapping[int, int], said: str, promise: str, aggregation: str) -> None:
        told, mine = self.oracle.value(key, throughs), pictures.quantity(said)
        # The members of a unique count come in pieces, each with the whole share: until all are there it may be behind.
        if mine != told and not (aggregation == "unique_count" and mine < told):
            self._break(promise, f"{key} shows {said}, the oracle {told} through {dict(throughs)}")

    def _plain_metering_at(self, source: int, position: int) -> Metering:
        """A stage that has folded the log in one go, up to a position."""
        stage = self._plain_metering.get(source)
        if stage is None or stage.table.position > position:
            stage = self._plain_metering[source] = self.world.plain_metering(source)
        fold_to(stage, self.world.usage_log(source).records, position)
        stage.dead_letters.clear()
        return stage

    def _plain_closing_at(self, partition: int, position: int) -> Closing:
        stage = self._plain_closing.get(partition)
        if stage is None or stage.table.position > position:
            stage = self._plain_closing[partition] = self.world.plain_closing(partition)
        fold_to(stage, self.world.partials_log(partition).records, position)
        return stage

    def _joint_watermark(self) -> int | None:
        marks = [self.oracle.watermark_ms(source, 1 << 60) for source in range(self.world.sources)]
        reached = [mark for mark in marks if mark is not None]
        return min(reached) if len(reached) == len(marks) else None

    def _newest(self) -> dict[Window, dict[str, Any]]:
        """Per window the highest revision that Service Bus took."""
        messages = self.world.messages(self._newest_read)
        self._newest_read += len(messages)
        for _, raw in messages:
            body = self._parsed(raw)
            key = key_of(body)
            if key not in self._newest_of or body["revision"] > self._newest_of[key]["revision"]:
                self._newest_of[key] = body
        return self._newest_of

    def _final(self) -> dict[Window, Expected]:
        """What every window must be in the end, as of the log's end now."""
        records = len(self._joint)
        if self._final_of[0] != records:
            self._final_of = (records, self.oracle.windows())
        return self._final_of[1]

    def _offset_of(self, source: int, watermark_ms: int) -> int:
        """The offset of the record that first brought a source's watermark to a time."""
        end = self.world.usage_log(source).end
        return bisect_right(
            range(end), False, key=lambda at: (self.oracle.watermark_ms(source, at + 1) or NEVER) >= watermark_ms
        )

    def _end_ms(self, key: Window) -> int:
        return key[3] + self._sizes[key[1], key[4]]

    def _messages(self) -> list[tuple[float, dict[str, Any]]]:
        return [(at_s, self._parsed(raw)) for at_s, raw in self.world.messages()]

    def _raw_messages(self) -> list[tuple[bytes, dict[str, Any]]]:
        return [(raw, self._parsed(raw)) for _, raw in self.world.messages()]

    def _read_revisions(self) -> list[dict[str, Any]]:
        return [self._parsed(raw) for _, raw in self.world.messages()]

    def _parsed(self, raw: bytes) -> dict[str, Any]:
        body = self._revisions.get(raw)
        if body is None:
            body = self._revisions[raw] = orjson.loads(raw)
        return body

    def _break(self, promise: str, what: str) -> None:
        raise Broken(promise, what)


def fold_to(stage: Metering | Closing, records: list[Record], position: int) -> None:
    at = stage.table.position
    if at < position:
        stage.step(Batch(at, position, records[at:position]))


def key_of(body: Mapping[str, Any]) -> Window:
    group = tuple(sorted(body["group"].items()))
    return (body["subject"], body["meter"], group, parse_rfc3339(body["window_start"]), body["window_size"])


def plain(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if not name.startswith("_")}


def hex_of(digest: int) -> str:
    return digest.to_bytes(16, "big").hex()


def or_none(watermark_ms: int) -> int | None:
    return None if watermark_ms == NEVER else watermark_ms
