"""A record as it lies in a log, and one on its way there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np

from schemas.texts import Flags, Places, Texts

T = TypeVar("T")

Headers = Sequence[tuple[str, bytes]]


class Record(NamedTuple):
    """One record read from a log. timestamp_ms: the broker's append time (LogAppendTime), ms UTC."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class PackedRecords(Sequence[Record]):
    """Records in columns, as a fetch brings thousands of them: objects are made only of what is asked for.

    All columns are of one length, offsets ascending. Arrays to compute with:

    offset_column, timestamp_column: int64, of each record its offset and the broker's append time, ms UTC.
    texts: the values, anywhere in one array of bytes, which is read-only and contiguous and may hold much besides
    (`texts.letters` is the whole fetch; never copy it). A null value is empty there (start == stop).
    nulls: which values are null. keyless: which keys are. key_texts: the keys, as the values.

    The same as lists, made when first asked for: `offsets`, `timestamps_ms` (ints), `keys`, `values` (bytes or None).
    headers: a sequence of headers per record; None where no record has any.
    """

    __slots__ = ("_made", "headers", "key_texts", "keyless", "nulls", "offset_column", "texts", "timestamp_column")

    def __init__(
        self,
        offset_column: Places,
        timestamp_column: Places,
        key_texts: Texts,
        keyless: Flags,
        texts: Texts,
        nulls: Flags,
        headers: Sequence[Headers] | None,
    ) -> None:
        self.offset_column = offset_column
        self.timestamp_column = timestamp_column
        self.key_texts = key_texts
        self.keyless = keyless
        self.texts = texts
        self.nulls = nulls
        self.headers = headers
        self._made: dict[str, list[Any]] = {}

    @classmethod
    def of(cls, records: Iterable[Record]) -> PackedRecords:
        """The same records in columns."""
        if isinstance(records, PackedRecords):
            return records
        rows = list(records)
        if not rows:
            return cls.of_lists((), (), (), (), None)
        offsets, timestamps_ms, keys, values, headers = zip(*rows, strict=True)
        return cls.of_lists(offsets, timestamps_ms, keys, values, headers if any(headers) else None)

    @classmethod
    def of_lists(
        cls,
        offsets: Sequence[int],
        timestamps_ms: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        headers: Sequence[Headers] | None,
    ) -> PackedRecords:
        """Of records that are columns of objects already."""
        return cls(
            np.array(offsets, np.int64),
            np.array(timestamps_ms, np.int64),
            Texts.of([key or b"" for key in keys]),
            np.array([key is None for key in keys], bool),
            Texts.of([value or b"" for value in values]),
            np.array([value is None for value in values], bool),
            headers,
        )

    @property
    def offsets(self) -> list[int]:
        """Of each record its offset."""
        return self._once("offsets", self.offset_column.tolist)

    @property
    def timestamps_ms(self) -> list[int]:
        """Of each record the broker's append time."""
        return self._once("timestamps_ms", self.timestamp_column.tolist)

    @property
    def keys(self) -> list[bytes | None]:
        """Of each record its key."""
        return self._once("keys", lambda: _objects(self.key_texts, self.keyless))

    @property
    def values(self) -> list[bytes | None]:
        """Of each record its value."""
        return self._once("values", lambda: _objects(self.texts, self.nulls))

    @property
    def end(self) -> int:
        """The offset after the last record. There must be one."""
        return int(self.offset_column[-1]) + 1

    def since(self, position: int) -> PackedRecords:
        """Those from an offset on."""
        at = int(np.searchsorted(self.offset_column, position))
        return self if at == 0 else self[at:]

    def parts(self, most_records: int, most_bytes: int) -> Iterator[PackedRecords]:
        """Itself in pieces of so many records and bytes of values at most; a record that is larger is a piece of its own."""
        ends = np.cumsum(self.texts.stops - self.texts.starts)
        start, begun = 0, 0
        while start < len(self):
            end = int(np.searchsorted(ends, begun + most_bytes, side="right"))
            end = min(max(end, start + 1), start + most_records, len(self))
            yield self if end - start == len(self) else self[start:end]
            start, begun = end, int(ends[end - 1])

    def __len__(self) -> int:
        return len(self.offset_column)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> PackedRecords: ...
    def __getitem__(self, at: Any) -> Any:
        headers = self.headers
        if isinstance(at, slice):
            return PackedRecords(
                self.offset_column[at],
                self.timestamp_column[at],
                self.key_texts.only(at),
                self.keyless[at],
                self.texts.only(at),
                self.nulls[at],
                None if headers is None else headers[at],
            )
        return Record(
            int(self.offset_column[at]),
            int(self.timestamp_column[at]),
            None if self.keyless[at] else self.key_texts.text(at),
            None if self.nulls[at] else self.texts.text(at),
            headers[at] if headers else (),
        )

    def _once(self, name: str, make: Callable[[], list[T]]) -> list[T]:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = make()
        return made


def _objects(texts: Texts, nulls: Flags) -> list[bytes | None]:
    found: list[bytes | None] = [*texts.tolist()]
    for at in np.flatnonzero(nulls).tolist():
        found[at] = None
    return found


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
