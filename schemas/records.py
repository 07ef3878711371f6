"""A record as it lies in a log, and one on its way there."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, overload

Headers = Sequence[tuple[str, bytes]]


class Record(NamedTuple):
    """One record read from a log. timestamp_ms: the broker's append time (LogAppendTime), ms UTC."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class PackedRecords(Sequence[Record]):
    """Records in columns, as a fetch brings thousands of them: each is made only when it is asked for.

    All lists are of one length, offsets ascending. headers: None where no record has any.
    """

    __slots__ = ("headers", "keys", "offsets", "timestamps_ms", "values")

    def __init__(
        self,
        offsets: Sequence[int],
        timestamps_ms: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        headers: Sequence[Headers] | None,
    ) -> None:
        self.offsets = offsets
        self.timestamps_ms = timestamps_ms
        self.keys = keys
        self.values = values
        self.headers = headers

    @classmethod
    def of(cls, records: Iterable[Record]) -> PackedRecords:
        """The same records in columns."""
        if isinstance(records, PackedRecords):
            return records
        rows = list(records)
        if not rows:
            return cls((), (), (), (), None)
        offsets, timestamps_ms, keys, values, headers = zip(*rows, strict=True)
        return cls(offsets, timestamps_ms, keys, values, headers if any(headers) else None)

    def since(self, position: int) -> PackedRecords:
        """Those from an offset on."""
        at = bisect_left(self.offsets, position)
        return self if at == 0 else self[at:]

    def parts(self, most_records: int, most_bytes: int) -> Iterator[PackedRecords]:
        """Itself in pieces of so many records and bytes of values at most; a record that is larger is a piece of its own."""
        lengths = map(len, self.values) if None not in self.values else (len(value or b"") for value in self.values)  # type: ignore[arg-type]
        sizes = [*accumulate(lengths, initial=0)]
        start = 0
        while start < len(self):
            end = bisect_right(sizes, sizes[start] + most_bytes) - 1
            end = min(max(end, start + 1), start + most_records, len(self))
            yield self if end - start == len(self) else self[start:end]
            start = end

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> PackedRecords: ...
    def __getitem__(self, at: Any) -> Any:
        headers = self.headers
        if isinstance(at, slice):
            return PackedRecords(
                self.offsets[at],
                self.timestamps_ms[at],
                self.keys[at],
                self.values[at],
                None if headers is None else headers[at],
            )
        return Record(
            self.offsets[at], self.timestamps_ms[at], self.keys[at], self.values[at], headers[at] if headers else ()
        )


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

    def packed(self, position: int) -> PackedRecords:
        """The same records, in columns."""
        assert self.start <= position, f"a batch that begins at {self.start} leaves a gap behind {position}"
        return PackedRecords.of(self.records).since(position)


class Out(NamedTuple):
    """One record to be produced. partition: always explicit, nothing here is left to a partitioner."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
