"""Events and meters to test with."""

from __future__ import annotations

from typing import Any

import orjson

from schemas.definitions import Aggregation, Definitions, Meter
from schemas.errors import DataError
from schemas.events import Malformed, RawEvent, decode
from schemas.pointers import Pointer
from schemas.reader import Measured, Reader

EVENT = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/shop",
    "type": "api.request",
    "subject": "contoso",
    "time": "2026-01-31T12:00:00Z",
    "data": {"tokens": 12, "model": "gpt-4o", "user": "u-1"},
}


def an_event(**changes: Any) -> dict[str, Any]:
    """A good event with attributes changed, or left out where the change is `...`."""
    return {name: value for name, value in {**EVENT, **changes}.items() if value is not ...}


def event_bytes(**changes: Any) -> bytes:
    """The same as one record's value."""
    return orjson.dumps(an_event(**changes))


def with_data(json_text: str) -> RawEvent:
    """A good event whose data is exactly this text."""
    return one(event_bytes(data=orjson.Fragment(json_text.encode())))


def one(value: bytes | None, *headers: tuple[str, bytes]) -> RawEvent:
    """The one good event of a record."""
    (event,) = decode(value, headers)
    assert isinstance(event, RawEvent), event
    return event


def reason(value: bytes | None, *headers: tuple[str, bytes]) -> str:
    """Why the one event of a record is malformed."""
    (event,) = decode(value, headers)
    assert isinstance(event, Malformed), event
    assert event.index == 0
    assert event.raw == (value or b"")
    return event.reason


def a_meter(aggregation: Aggregation = "sum", value: str | None = "/tokens", **changes: Any) -> Meter:
    """A meter over EVENT; `group_by` as a mapping of names to pointers."""
    groups = {name: Pointer(pointer) for name, pointer in changes.pop("group_by", {}).items()}
    fields = {"slug": "meter", "event_type": "api.request", **changes}
    return Meter(
        aggregation=aggregation,
        value=Pointer(value) if value is not None else None,
        group_by=tuple(sorted(groups.items())),
        **fields,
    )


def measure(event: RawEvent, *meters: Meter) -> Measured:
    """What an event means for some meters; for one that sums its tokens if none is given."""
    return Reader(Definitions(meters=meters or (a_meter(),))).measure(event)


def refusal(event: RawEvent, *meters: Meter) -> str:
    """Why an event is invalid for some meters."""
    try:
        measured = measure(event, *meters)
    except DataError as error:
        assert error.reason == "invalid"
        return error.detail
    raise AssertionError(f"not refused: {measured}")
