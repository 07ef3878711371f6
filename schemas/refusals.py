"""Why a record is no event, in words, and where one event of an envelope ends: the slow, careful side of events.py."""

from __future__ import annotations

import msgspec

_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


def split_elements(value: bytes) -> list[bytes]:
    """The original bytes of each element of a JSON array. Raises ValueError, saying what was found, if it is none."""
    try:
        return [bytes(element) for element in _ELEMENTS.decode(value)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"found bytes that are not JSON ({error}), expected CloudEvents") from None


def explain(element: bytes, error: Exception) -> str:
    """What was found and what was expected, for an element whose typed decoding failed with `error`."""
    return f"found {error}, expected a CloudEvent"
