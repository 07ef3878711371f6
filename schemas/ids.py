"""Ids of events as columns: what stands for each (design §4), and, where it ends in a counter, its lane and its number there.

A *lane* is all ids of one source that have one text before their counter: `run-7/3-` of `run-7/3-1`, `run-7/3-2`, … What
remembers ids can hold a lane as intervals, which cost next to nothing while its counters come in order.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas import kernels
from schemas.texts import Texts

ID_BYTES = 16

Words = npt.NDArray[np.uint64]
"""(2, n): of each digest the first and the last eight bytes, as big-endian numbers."""
Integers = npt.NDArray[np.int64]

_SECRET = secrets.randbits(62) | 1
_SOURCES = 1024


class Ids(NamedTuple):
    """Ids in the log's order. words: (2, n), as `schemas.events.event_id_digest` has each.

    lanes: of each id the number of its lane in `names`, -1 where it does not end in a counter: a text whose last character
    is no hexadecimal digit (or many a UUID would be a lane), then 1 to 18 decimal digits that do not begin with a needless 0.
    counters: the number that those digits are. names: the digest of source and text; no lane is there twice, one may be
    there for nothing.
    """

    words: Words
    lanes: Integers
    counters: Integers
    names: Sequence[bytes]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Ids:
        """Of events that were read one by one: each its source and its id."""
        numbers = {source: number for number, source in enumerate(dict.fromkeys(source for source, _ in pairs))}
        codes = np.fromiter((numbers[source] for source, _ in pairs), np.int64, len(pairs))
        return ids_of(Texts.of([id.encode() for _, id in pairs]), codes, list(numbers))

    @classmethod
    def joined(cls, parts: Sequence[Ids]) -> Ids:
        """One behind the other."""
        if len(parts) == 1:
            return parts[0]
        numbers: dict[bytes, int] = {}
        lanes = []
        for part in parts:
            renamed = [numbers.setdefault(name, len(numbers)) for name in part.names]
            lanes.append(np.array([*renamed, -1], np.int64)[part.lanes])  # -1 is the last
        words = [part.words for part in parts] or [np.empty((2, 0), np.uint64)]
        return cls(
            np.concatenate(words, 1),
            np.concatenate(lanes) if lanes else np.empty(0, np.int64),
            np.concatenate([part.counters for part in parts]) if parts else np.empty(0, np.int64),
            list(numbers),
        )

    def only(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Ids:
        """Some of them, in the order of `rows`."""
        return Ids(np.ascontiguousarray(self.words[:, rows]), self.lanes[rows], self.counters[rows], self.names)


def ids_of(texts: Texts, codes: Integers, sources: Sequence[str]) -> Ids:
    """The ids of events, UTF-8. codes: of each the number of its source in `sources`."""
    letters = texts.letters.view()
    letters.flags.writeable = False  # whatever it was: a kernel is compiled anew for each kind of array
    starts, stops, codes = (np.ascontiguousarray(column) for column in (texts.starts, texts.stops, codes))
    many = len(starts)
    lanes, counters, firsts, ends = np.empty((4, many), np.int64)
    found = kernels.lanes_of(letters, starts, stops, codes, _SECRET, lanes, counters, firsts, ends)
    words = _digests(letters, starts, stops, codes, sources)
    firsts = firsts[:found]
    named = _digests(letters, starts[firsts], ends[:found], codes[firsts], sources)
    return Ids(words, lanes, counters, digests_of(named))


def digests_of(words: Words) -> list[bytes]:
    """16 bytes of each."""
    raw = words.T.astype(">u8").tobytes()
    return [raw[at : at + ID_BYTES] for at in range(0, len(raw), ID_BYTES)]


def _digests(
    letters: npt.NDArray[np.uint8], starts: Integers, stops: Integers, codes: Integers, sources: Sequence[str]
) -> Words:
    words = np.empty((2, len(starts)), np.uint64)
    if len(starts):
        begun = [_begun(source) for source in sources]
        kernels.digests(
            letters,
            starts,
            stops,
            codes,
            np.array([state for state, _, _, _ in begun]),
            np.array([tail for _, tail, _, _ in begun]),
            np.array([hashed for _, _, hashed, _ in begun]),
            np.array([length for _, _, _, length in begun]),
            words,
        )
    return words


@lru_cache(_SOURCES)
def _begun(source: str) -> tuple[Words, Words, int, int]:
    """The digest of an id, begun: the source has gone into it."""
    text = source.encode()
    begins = np.frombuffer(b"%d:%b" % (len(text), text), np.uint8)
    state, tail = np.empty(8, np.uint64), np.empty(16, np.uint64)
    hashed = kernels.begin(begins, state, tail)
    return state, tail, hashed, len(begins)
