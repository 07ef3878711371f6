"""JSON pointers (RFC 6901) into an event's `data`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

MISSING: Final = object()
"""What `Pointer.find` gives where nothing is; null is a value, this is none."""

_INDEX = re.compile(r"(?:0|[1-9]\d{0,8})\Z", re.ASCII)
_BAD_ESCAPE = re.compile(r"~(?![01])")


@dataclass(frozen=True, slots=True)
class Pointer:
    """A compiled pointer. `text` is what was written, `tokens` its unescaped steps; equal texts are equal pointers."""

    text: str
    tokens: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError, with what was found and expected, for a text that points to nothing inside `data`."""
        if not self.text.startswith("/"):
            raise ValueError(f"{self.text[:60]!r} is not a JSON pointer; expected one like /tokens or /usage/total")
        if _BAD_ESCAPE.search(self.text):
            raise ValueError(f"{self.text[:60]!r} has a ~ that is neither ~0 (for ~) nor ~1 (for /)")
        steps = self.text[1:].split("/")
        object.__setattr__(self, "tokens", tuple(step.replace("~1", "/").replace("~0", "~") for step in steps))

    def find(self, document: object) -> object:
        """The value it points to, or MISSING. Objects by key, arrays by index (`/items/0/price`); `-` never exists."""
        for token in self.tokens:
            if type(document) is dict:
                document = document.get(token, MISSING)
                if document is MISSING:
                    return MISSING
            elif type(document) is list and _INDEX.match(token) and int(token) < len(document):
                document = document[int(token)]
            else:
                return MISSING
        return document
