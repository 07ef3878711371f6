"""Every input of the field by its title, made when it is first asked for and kept as long as it is still wanted.

All contestants are given the same bytes. Names of a million keys, and where they lie, are made once for all inputs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.field import inputs, titles
from bench.field.inputs import Draw, Input, Keys

_SEED = 20_231_116
_KEYS = {titles.HUNDRED_K: 100_000, titles.MILLION: 1_000_000, titles.MILLION_ENVELOPES: 1_000_000}
_MILLION = 1_000_000
_TRACE_TIMES = 20


@dataclass(slots=True)
class Catalogue:
    """events: of the largest input, that of 1,000 keys; further ones have half of it after one event of every key.

    begin_ms: the hour that all of them lie in. trace: the directory of the trace, None where it is not asked for.
    """

    events: int
    begin_ms: int
    trace: Path | None
    _made: dict[str, Input] = field(default_factory=dict)
    _keys: dict[bool, Keys] = field(default_factory=dict)

    def given(self, title: str) -> Input:
        """The input of that title."""
        if title not in self._made:
            print(f"making the input: {title}", flush=True)
            gc.disable()  # millions of objects, and none of them is garbage
            try:
                self._made[title] = self._make(title)
            finally:
                gc.enable()
                gc.freeze()
        return self._made[title]

    def keep(self, wanted: Iterable[str]) -> None:
        """Only these are still wanted."""
        kept = set(wanted)
        self._made = {title: given for title, given in self._made.items() if title in kept}

    def flow(self, title: str, events: int, per_batch: int, *, envelopes: bool) -> Input:
        """1,000 keys with a probe at the end of every batch, for an even flow; not kept."""
        keys, draws = self._tenants(1_000, by_subject=envelopes), inputs.zipf(1_000, events, self.begin_ms, _SEED)
        return inputs.make(title, keys, draws, _SEED, envelopes=envelopes, batch_records=per_batch, probes=True)

    def _make(self, title: str) -> Input:
        envelopes = title.endswith(titles.PACKED)
        if title in (titles.TRACE, titles.TRACE_ENVELOPES):
            assert self.trace is not None
            names, draws, _ = inputs.trace(self.trace, _TRACE_TIMES, self.begin_ms)
            return inputs.make(title, Keys(names, by_subject=envelopes), draws, _SEED, envelopes=envelopes)
        count, opening, draws = self._draws(title)
        keys = self._tenants(count, by_subject=envelopes)
        closes = not opening and title != titles.NEW_KEYS
        return inputs.make(title, keys, draws, _SEED, envelopes=envelopes, opening=opening, closes=closes)

    def _draws(self, title: str) -> tuple[int, int, Iterator[Draw]]:
        """How many keys, how many events before anything is measured, and the events."""
        begin_ms, half = self.begin_ms, self.events // 2
        if title == titles.UNIFORM:
            return _MILLION, _MILLION, inputs.uniform(_MILLION, half, begin_ms, _SEED)
        if title == titles.NEW_KEYS:
            return half, 0, inputs.new_keys(half, begin_ms, _SEED)
        keys = _KEYS.get(title, 1_000)
        if keys == 1_000:
            return keys, 0, inputs.zipf(keys, self.events, begin_ms, _SEED)
        return keys, keys, inputs.zipf(keys, half, begin_ms, _SEED, live=True)

    def _tenants(self, count: int, *, by_subject: bool) -> Keys:
        """The first keys are the same, however many there are."""
        known = self._keys.get(by_subject)
        if known is None or len(known.names) < count:
            known = self._keys[by_subject] = Keys(inputs.tenants(max(count, _MILLION)), by_subject=by_subject)
        return known
