"""What is measured, and in which order. Pure: a run that was cut asks it again and goes on with what is missing.

Rounds are what makes ratios honest, since a machine's speed changes within minutes: whatever a bar compares is measured
once in every round, in an order of chance, whichever input it is of. The others are measured in the first round only.
"""

from __future__ import annotations

import random
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.field.titles import (
    ENVELOPES,
    HUNDRED_K,
    MILLION,
    MILLION_ENVELOPES,
    NEW_KEYS,
    ONE_K,
    TRACE,
    TRACE_ENVELOPES,
    UNIFORM,
)

_STREAMS = ("kafka-streams", "kafka-streams-dedupe")
_PYTHON = ("quix", "bytewax", "faust")
BARRED: Mapping[str, Sequence[str]] = {
    ONE_K: ("meterline", "meterline-two", *_STREAMS, "flink-dedupe", "faust", "quix", "floor-decode"),
    ENVELOPES: ("meterline-envelopes", "floor-decode-envelopes"),
    MILLION: ("meterline",),
    MILLION_ENVELOPES: ("meterline-envelopes",),
}
"""Input -> who is measured with it in every round: both sides of every bar."""
ONCE: Mapping[str, Sequence[str]] = {
    ONE_K: ("kafka-streams-rocksdb", "kafka-streams-rocksdb-dedupe", "flink", "bytewax", "floor-fetch"),
    ENVELOPES: ("floor-fetch-envelopes",),
    HUNDRED_K: ("meterline", *_STREAMS, "flink-dedupe", "quix", "faust"),
    MILLION: (*_STREAMS, "kafka-streams-rocksdb", "flink-dedupe", "quix"),
    UNIFORM: ("meterline",),
    NEW_KEYS: ("meterline",),
    TRACE: ("meterline", *_STREAMS, "flink-dedupe", *_PYTHON),
    TRACE_ENVELOPES: ("meterline-envelopes",),
}
"""Input -> who is measured with it besides, in the first round."""
LEFT_OUT = (
    "stock Faust, 1,000,000 keys: one event of every key alone would take it minutes",
    "Bytewax, 100,000 and 1,000,000 keys: an event of each of 100,000 took it six minutes; of a million, not done after nine",
    "Flink without deduplication and Kafka Streams' other stores: 1,000 keys only, but for RocksDB without it at 1,000,000",
)
"""What even a full run has not."""
_QUICK = (ONE_K, ENVELOPES)
_TRACES = (TRACE, TRACE_ENVELOPES)
_SEED = 20_231_116


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. rounds: of speed. warm_s, run_s: CPU time that is not measured, and that is. events: of the
    largest input.

    others: all inputs; else 1,000 keys alone. latency_s: 0: none. crashes: how often each is killed.
    """

    rounds: int
    warm_s: float
    run_s: float
    events: int
    others: bool
    latency_s: float
    crashes: int


FULL = Plan(rounds=3, warm_s=2.0, run_s=3.0, events=2_800_000, others=True, latency_s=10.0, crashes=1)
QUICK = Plan(rounds=1, warm_s=1.0, run_s=2.0, events=800_000, others=False, latency_s=0.0, crashes=0)


class Step(NamedTuple):
    """One measurement. kind: speed, crash or latency. given: the title of its input. number: its round."""

    kind: str
    contestant: str
    given: str
    number: int


class Taking(NamedTuple):
    """What a plan has to know of who takes part. crashes: has totals, and can be judged. shows: running totals."""

    name: str
    packed: bool
    crashes: bool
    shows: bool


def steps(plan: Plan, members: Sequence[Taking], *, trace: bool) -> list[Step]:
    """All of them in order: a first round of what bars compare, and how soon; its other rounds, each in an order of its own;
    what is right after a kill; then whatever is measured once, and the same of those whose speed is known only by then. So
    a run that is cut has what matters most."""
    names = {member.name for member in members}
    one_k = [(member, ENVELOPES if member.packed else ONE_K) for member in members if member.name != "meterline-two"]

    def speeds(who: Mapping[str, Sequence[str]], number: int, order: str) -> list[Step]:
        pairs = [(given, name) for given, name in _pairs(who, names) if plan.others or given in _QUICK]
        pairs = [(given, name) for given, name in pairs if trace or given not in _TRACES]
        random.Random(f"{_SEED} {order}").shuffle(pairs)
        return [Step("speed", name, given, number) for given, name in pairs]

    def delays(some: Sequence[tuple[Taking, str]]) -> list[Step]:
        return [Step("latency", member.name, given, 0) for member, given in some if member.shows and plan.latency_s]

    def kills(some: Sequence[tuple[Taking, str]]) -> list[Step]:
        numbers = range(plan.crashes)
        return [
            Step("crash", member.name, given, number) for number in numbers for member, given in some if member.crashes
        ]

    barred = [(member, given) for member, given in one_k if member.name in BARRED[given]]
    others = [pair for pair in one_k if pair not in barred]
    found: list[Step] = []
    for number in range(plan.rounds):
        found += speeds(BARRED, number, str(number))
        if number == 0:
            found += delays(barred)
    return [*found, *kills(barred), *speeds(ONCE, 0, "once"), *delays(others), *kills(others)]


def parts(left: Sequence[Step]) -> list[list[Step]]:
    """What is left, cut behind each row of kills: several of those are looked at at once, behind all else of their part."""
    found: list[list[Step]] = [[]]
    for step in left:
        if found[-1] and found[-1][-1].kind == "crash" != step.kind:
            found.append([])
        found[-1].append(step)
    return [part for part in found if part]


def missing(planned: Sequence[Step], done: Container[Step]) -> list[Step]:
    """What a run that was cut has left."""
    return [step for step in planned if step not in done]


def _pairs(who: Mapping[str, Sequence[str]], names: Container[str]) -> list[tuple[str, str]]:
    return [(given, name) for given, some in who.items() for name in some if name in names]
