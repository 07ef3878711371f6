"""Dead letters: what could not be counted, with its reason, its place and its original bytes (design §4, §6).

One JSON document a record, key `topic/partition/offset/index`: writing one twice is no second one. An original too large
for one record travels in parts, `part` of `parts`, joined in order.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from schemas.compact import compact
from schemas.times import LAST_WRITTEN_MS, format_rfc3339

RECORD_MAX = 64_000
"""Bytes of one record, as of every packed one: Event Hubs bills and meters by 64 KB (azure-docs: Event Hubs FAQ)."""
HEADERS_MAX = 8_000
_PART_FIELDS = 64
"""Bytes that `part`, `parts` and the name of the original take."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One event that met the fate `reason`: `malformed`, `invalid`, `future` or `too_late`.

    detail: what was found and what was expected. recorded_ms: the record's own timestamp (append time), ms UTC; where a
    producer could set it, it may be any number, and is described as the nearest from 1970 to 9999.
    index: place in the envelope, 0 for a single event. original: the bytes of this event, or of the undecodable record.
    headers: the record's, since in binary mode they are half of the event; as much of them as fits into 8 KB.
    """

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    index: int
    recorded_ms: int
    original: bytes
    event_id: str | None = None
    event_source: str | None = None
    event_type: str | None = None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def key(self) -> str:
        """The identity: `topic/partition/offset/index`."""
        return f"{self.topic}/{self.partition}/{self.offset}/{self.index}"

    def describe(self) -> dict[str, object]:
        """Everything but the original, for people and for the record."""
        return {
            "reason": self.reason,
            "detail": self.detail[:2000],
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "index": self.index,
            "time": format_rfc3339(min(max(self.recorded_ms, 0), LAST_WRITTEN_MS)),
            "event_id": _short(self.event_id),
            "event_source": _short(self.event_source),
            "event_type": _short(self.event_type),
        }

    def records(self) -> Iterator[bytes]:
        """The record values, at most 64 KB each: the original has what room the description leaves, as base64."""
        described = {**self.describe(), "headers": self._headers()}
        part_max = (RECORD_MAX - _PART_FIELDS - len(orjson.dumps(described))) // 4 * 3
        parts = max(1, -(-len(self.original) // part_max))
        for part in range(parts):
            piece = self.original[part * part_max : (part + 1) * part_max]
            yield compact(
                {
                    **described,
                    "part": part + 1,
                    "parts": parts,
                    "original_base64": base64.b64encode(piece).decode(),
                }
            )

    def _headers(self) -> dict[str, str]:
        """Name -> value in base64."""
        kept: dict[str, str] = {}
        room = HEADERS_MAX
        for name, value in self.headers:
            encoded = base64.b64encode(value or b"").decode()
            room -= len(orjson.dumps(name)) + len(encoded) + 4
            if room < 0:
                break
            kept[name] = encoded
        return kept


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= 1024 else text[:1024]
