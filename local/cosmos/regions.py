"""Two write regions, as pure values: what a replica keeps of an item, and who wins.

A replica holds, per item, the *siblings*: the versions none of which knew of another. A write knows all it can see and
replaces them. A version that arrives from the other region removes what it knew of, and is itself dropped if it was
known. What a reader sees is the winner among the siblings. That keeps both regions convergent however their queues
interleave, and it keeps Azure's rule that last-writer-wins is for *concurrent* writes only: inside one region a plain
overwrite by a lower number stands (Microsoft, conflict-resolution-policies).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

REGIONS = 2


@dataclass(frozen=True, slots=True)
class Version:
    """One write of one item.

    clock: per region, how many of its writes (to this container) the version knew of, its own included.
    origin: the region that wrote it. priority: the number at the container's conflictResolutionPath, -inf if there is
    none. ts: `_ts`, seconds. body: the item as stored, None for a deletion.
    """

    clock: tuple[int, ...]
    origin: int
    priority: float
    ts: int
    body: bytes | None

    def knew(self, other: Version) -> bool:
        """Whether `other` happened before this, or is this."""
        return all(mine >= theirs for mine, theirs in zip(self.clock, other.clock, strict=True))


Siblings = tuple[Version, ...]


def write(
    siblings: Siblings, origin: int, sequence: int, *, priority: float, ts: int, body: bytes | None
) -> tuple[Siblings, Version]:
    """What `siblings` become when region `origin` writes its `sequence`-th change of the container here."""
    clock = [max((version.clock[region] for version in siblings), default=0) for region in range(REGIONS)]
    assert clock[origin] < sequence, "a region's sequence only grows"
    clock[origin] = sequence
    version = Version(tuple(clock), origin, priority, ts, body)
    return (version,), version


def receive(siblings: Siblings, incoming: Version) -> Siblings:
    """What `siblings` become when a version arrives from the other region. Receiving twice is receiving once."""
    if any(version.knew(incoming) for version in siblings):
        return siblings
    return (*(version for version in siblings if not incoming.knew(version)), incoming)


def winner(siblings: Iterable[Version]) -> Version | None:
    """The version a reader sees: deletes win, then the highest priority.

    A tie is Azure's to pick; here the later `_ts`, then the first region: any rule does that both regions share.
    """
    return max(siblings, key=lambda v: (v.body is None, v.priority, v.ts, -v.origin, v.clock), default=None)
