"""A record as it lies in a log, and one on its way there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

Headers = Sequence[tuple[str, bytes]]


class Record(NamedTuple):
    """One record read from a log. timestamp_ms: the broker's append time (LogAppendTime), ms UTC."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Batch(NamedTuple):
    """The records of one partition that one fetch brought.

    start: the offset the fetch began at; end: the offset after its last record. Between them there may be offsets
    without a record (control records), so `records[0].offset` may be above `start`.
    """

    start: int
    end: int
    records: Sequence[Record]

    def unread(self, position: int) -> Iterator[Record]:
        """The records from `position` on. A batch that begins behind it is never read over the gap (design §2.4)."""
        assert self.start <= position, f"a batch that begins at {self.start} leaves a gap behind {position}"
        return (record for record in self.records if record.offset >= position)


class Out(NamedTuple):
    """One record to be produced. partition: always explicit, nothing here is left to a partitioner."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
