"""In binary mode half of an event is in its headers: a dead letter keeps them, so that it can be sent again."""

from __future__ import annotations

import base64

from tests.usage import NOON, definitions, meter
from tests.world import USAGE, MeteringProcess, World


def test_a_dead_letter_keeps_the_headers_of_its_record() -> None:
    world = World(definitions({"meters": [meter("sum")]}))
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"7"),
        ("ce_source", b"app"),
        ("ce_type", b"use"),
        ("x", b"\xff\x00"),
    ]
    world.logs[USAGE, 0].append(b'{"n":1}', b"k", NOON, headers)
    metering = MeteringProcess(world)
    metering.read()
    metering.emit()
    (letter,) = world.dead_letters()
    assert letter["reason"] == "invalid"
    assert base64.b64decode(letter["original_base64"]) == b'{"n":1}'
    assert {name: base64.b64decode(value) for name, value in letter["headers"].items()} == dict(headers)


def test_headers_without_end_do_not_break_the_bound_of_a_record() -> None:
    world = World(definitions({"meters": [meter("sum")]}))
    world.logs[USAGE, 0].append(b"no json" * 20_000, b"k", NOON, [(f"h{n}", b"v" * 100) for n in range(2000)])
    metering = MeteringProcess(world)
    metering.read()
    metering.emit()
    records = [record.value or b"" for record in world.logs["dead-letters", 0].records]
    assert max(map(len, records)) <= 64_000
    assert (
        b"".join(base64.b64decode(letter["original_base64"]) for letter in world.dead_letters()) == b"no json" * 20_000
    )
