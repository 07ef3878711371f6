"""Kafka as the workers see it: partitions of records with append time and retention, committed offsets, one consumer group.

All of it is plain state that changes at one moment; what befalls a request on its way there and back is `simulation/broker.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.records import Headers, Record

Place = tuple[str, int]
"""Topic and partition."""


class Log:
    """One partition. Every record is kept for the judge; `begin` is the first that retention has left."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.begin = 0

    @property
    def end(self) -> int:
        """The next offset to be written."""
        return len(self.records)

    def read(self, offset: int, end: int, most: int) -> list[Record]:
        """Records from `offset` on, below `end`, at most so many. Raises LookupError where retention took them."""
        if offset < self.begin:
            raise LookupError(f"offset {offset} is out of range, the log begins at {self.begin}")
        return self.records[offset : min(end, offset + most)]


class Assignment(NamedTuple):
    """What a member is told when a generation begins."""

    generation: int
    member: str
    places: tuple[Place, ...]


@dataclass(slots=True)
class _Member:
    heard_s: float
    waiting: asyncio.Future[Assignment] | None = None


class Refused(Exception):
    """The coordinator does not know this member, or it is of another generation."""


class Group:
    """A consumer group with eager rebalances, as the coordinator of Kafka keeps it.

    A member that is not heard of for `session_s` is out; a rebalance waits `rebalance_s` for members to join again.
    """

    def __init__(self, topics: Mapping[str, int], session_s: float, rebalance_s: float, rng: random.Random) -> None:
        self.generation = 0
        self.committed: dict[Place, int] = {}
        self.members: dict[str, _Member] = {}
        self.topics = topics
        self._session_s = session_s
        self._rebalance_s = rebalance_s
        self._rng = rng
        self._rebalancing = False
        self._number = 0

    def join(self, member: str | None) -> tuple[str, asyncio.Future[Assignment]]:
        """A member asks to be assigned something; its name, and the answer to come."""
        loop = asyncio.get_running_loop()
        if member is None or member not in self.members:
            self._number += 1
            member = f"member-{self._number}"
            self.members[member] = _Member(loop.time())
            self._watch(member)
        known = self.members[member]
        known.heard_s, known.waiting = loop.time(), loop.create_future()
        waiting = known.waiting
        self._begin()
        self._complete_if_all_joined()
        return member, waiting

    def leave(self, member: str) -> None:
        """A member goes; the others share what it had."""
        known = self.members.pop(member, None)
        if known is not None:
            if known.waiting is not None and not known.waiting.done():
                known.waiting.set_exception(Refused(f"{member} has left"))
            self._begin()
            self._complete_if_all_joined()

    def heartbeat(self, member: str, generation: int) -> bool:
        """Whether all is well; False: join again. Raises Refused where the member is not known (any more)."""
        known = self.members.get(member)
        if known is None or generation != self.generation:
            raise Refused(f"{member} of generation {generation} is not known")
        known.heard_s = asyncio.get_running_loop().time()
        return not self._rebalancing

    def commit(self, member: str, generation: int, place: Place, offset: int) -> None:
        """Raises Refused where the member or its generation is over."""
        if member not in self.members or generation != self.generation:
            raise Refused(f"generation {generation} of {member} is over, the group is at {self.generation}")
        self.committed[place] = offset

    def _begin(self) -> None:
        if not self._rebalancing and self.members:
            self._rebalancing = True
            asyncio.get_running_loop().call_later(self._rebalance_s, self._complete, self.generation)

    def _complete_if_all_joined(self) -> None:
        if self._rebalancing and all(known.waiting is not None for known in self.members.values()):
            self._complete(self.generation)

    def _complete(self, generation: int) -> None:
        if generation != self.generation or not self._rebalancing:
            return
        self.members = {name: known for name, known in self.members.items() if known.waiting is not None}
        self._rebalancing = False
        if not self.members:
            return
        self.generation += 1
        names = list(self.members)
        self._rng.shuffle(names)
        owned: dict[str, list[Place]] = {name: [] for name in names}
        places = [(topic, partition) for topic, count in self.topics.items() for partition in range(count)]
        for index, place in enumerate(places):
            owned[names[index % len(names)]].append(place)
        for name, known in self.members.items():
            known.heard_s = asyncio.get_running_loop().time()
            waiting, known.waiting = known.waiting, None
            assert waiting is not None
            if not waiting.done():
                waiting.set_result(Assignment(self.generation, name, tuple(owned[name])))

    def _watch(self, member: str) -> None:
        known = self.members.get(member)
        if known is None:
            return
        loop = asyncio.get_running_loop()
        silent_s = loop.time() - known.heard_s
        if known.waiting is None and silent_s >= self._session_s:
            self.leave(member)
            return
        loop.call_later(max(0.5, self._session_s - silent_s), self._watch, member)


@dataclass(slots=True)
class Cluster:
    """Topics and the group. now_ms: the broker's clock. appended: told of each record, as soon as it is in its log."""

    topics: Mapping[str, int]
    group: Group
    now_ms: Callable[[], int]
    appended: Callable[[str, int, Record], None]
    logs: dict[Place, Log] = field(init=False)

    def __post_init__(self) -> None:
        self.logs = {(topic, partition): Log() for topic, count in self.topics.items() for partition in range(count)}

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers = ()) -> int:
        """The record's offset."""
        log = self.logs[topic, partition]
        record = Record(log.end, self.now_ms(), key, value, headers)
        log.records.append(record)
        self.appended(topic, partition, record)
        return record.offset

    def cut(self, topic: str, partition: int, offset: int) -> None:
        """Retention removes what is below an offset."""
        log = self.logs[topic, partition]
        log.begin = max(log.begin, min(offset, log.end))
