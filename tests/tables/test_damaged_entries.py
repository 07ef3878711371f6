"""An entry of a changelog that its stage never wrote is refused: no kernel sees it, and the partition says which record."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from schemas import blocks, changelog
from schemas.errors import PartitionStopped
from schemas.partials import RECORD_MAX, Contribution, encode_share
from schemas.texts import Texts
from schemas.windows import WindowKey, encode_key
from tables.dedupe import KnownIds
from tests.tables.ids import HOUR, NOON, count, in_lane, touched
from tests.usage import definitions, meter, usage
from tests.world import USAGE, ClosingProcess, MeteringProcess, World

NAME = bytes(range(16))
HEAD = (1).to_bytes(2, "big") + (7).to_bytes(8, "big")
KEY = encode_key(WindowKey("acme", "total", (), NOON, "PT1M"))


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        b"\x00",
        b"\x07" + HEAD + (1).to_bytes(4, "big") + NAME,
        b"\x00" + HEAD + (1).to_bytes(4, "big") + NAME[1:],
        b"\x00" + HEAD + (3).to_bytes(4, "big") + NAME,
        b"\x00" + HEAD + (1).to_bytes(4, "big") + NAME * 4,
        b"\x00" + (1).to_bytes(2, "big") + (1 << 60).to_bytes(8, "big") + (1).to_bytes(4, "big") + NAME,
        b"\x01\x00\x02\x03",
        b"\x01\x01" + NAME + b"\x02",
        b"\x01\x01" + NAME + b"\x02\x80",
        b"\x01\x01" + NAME + b"\x02" + b"\xff" * 9 + b"\x01",
        b"\x01\x01" + NAME + b"\x01\x03",
        b"\x01\x01" + NAME + b"\x02" + b"\xff" * 8 + b"\x7f",
        b"\x01" + b"\xff" * 8 + b"\x7f" + NAME + b"\x02\x03",
    ],
)
def test_what_is_no_piece_of_known_ids_is_refused(piece: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        KnownIds(HOUR).restore(piece)


def test_ids_of_times_that_no_log_has_together_are_refused() -> None:
    known = KnownIds(HOUR)
    with pytest.raises(OverflowError):
        for bucket in (7, 1 << 34):
            piece = b"\x00" + (1).to_bytes(2, "big") + bucket.to_bytes(8, "big") + (1).to_bytes(4, "big") + NAME
            known.restore(piece)


def test_a_piece_of_intervals_that_is_cut_anywhere_is_refused() -> None:
    known = KnownIds(HOUR)
    count(known, in_lane(1_000_000, 1_000_020), NOON)
    (piece,) = touched(known)
    for end in range(2, len(piece)):
        with pytest.raises(msgspec.DecodeError):
            KnownIds(HOUR).restore(piece[:end])
    KnownIds(HOUR).restore(piece)


def block(columns: int, key: bytes = KEY, **values: int) -> bytes:
    """Of one row. values: of columns, by their numbers from the last."""
    row = [1] * columns
    for name, value in values.items():
        row[-int(name[1:])] = value
    [found] = blocks.pack(Texts.of([key]), [np.array([value], np.int64) for value in row], RECORD_MAX)
    return found


def to_metering(kind: str, key: bytes, value: bytes) -> tuple[World, Callable[[World], object]]:
    """A world whose METERING has checkpointed such an entry."""
    made = World(definitions({"meters": [meter("total")]}))
    made.logs[USAGE, 0].append(b"{}", b"k", NOON)
    made.use(usage("a", NOON, n=1), at_ms=NOON)
    process = MeteringProcess(made)
    process.read()
    process.checkpoint()
    put(made, "metering-state", kind, key, value)
    return made, MeteringProcess


def to_closing(kind: str, key: bytes, value: bytes) -> tuple[World, Callable[[World], object]]:
    """A world whose CLOSING has checkpointed such an entry."""
    made, _ = to_metering(kind, key, value)
    process = ClosingProcess(made)
    process.read()
    process.checkpoint()
    put(made, "closing-state", kind, key, value)
    return made, ClosingProcess


def put(made: World, topic: str, kind: str, key: bytes, value: bytes) -> None:
    """One entry more in the last record."""
    records = made.logs[topic, 0].records
    chunk = changelog.decode(records[-1].value or b"")
    more = msgspec.structs.replace(chunk, entries=[*chunk.entries, (kind, key, value)])
    records[-1] = records[-1]._replace(value=changelog.encode(more))


@pytest.mark.parametrize(
    ("world_of", "kind", "value"),
    [
        (to_metering, "ids", b"\x01\x01" + NAME[:5]),
        (to_metering, "meta", b"hello"),
        (to_metering, "meta", b"\x96\x00\x90\x81\xa1\xff\x00\x90\x90"),
        (to_metering, "partial", b"hello"),
        (to_metering, "partials", block(9, b"k")),
        (to_metering, "partials", block(9, KEY[:-1])),
        (to_metering, "partials", block(9, KEY.replace(b"acme", b"a\xffme"))),
        (to_metering, "partials", block(9, _1=-2)),
        (to_metering, "partials", block(9, _1=19)),
        (to_metering, "partials", block(9, _7=-1)),
        (to_closing, "source", b"hello"),
        (to_closing, "members", NAME),
        (to_closing, "share", encode_share(1, Contribution(1, NAME, 0, 0))),
        (to_closing, "share", encode_share(1 << 63, Contribution(1, NAME, 0, 0))),
        (to_closing, "shares", block(9, _1=-2)),
        (to_closing, "shares", block(9, _1=19)),
        (to_closing, "shares", block(9, _7=-1)),
        (to_closing, "shares", block(9, _9=-1)),
    ],
)
def test_the_partition_stops_and_says_at_which_record(
    world_of: Callable[[str, bytes, bytes], tuple[World, Callable[[World], object]]], kind: str, value: bytes
) -> None:
    made, process = world_of(kind, {"source": b"1", "members": b"k"}.get(kind, KEY), value)
    with pytest.raises(PartitionStopped, match=r"record \d+ of .*-state is no chunk of a checkpoint"):
        process(made)
