"""The conservation equation between the stages, from the outside: folds sent = folds joined = folds that must be.

Reads the partials log as CLOSING does, adds up what is believed of it, and confronts the sum with what the generator's
ledger says each usage partition contributed. Zombies, resends and reordering may have left anything in that log; what is
believed (the highest `through` per source and window, design §2.5) must be right all the same, and two pieces of the same
`through` must say the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from local.checking import Mismatch
from local.readback import UsageLog
from local.stack import Stack
from schemas.hashing import partition_for
from schemas.partials import Contribution, StageRecord, Watermark, decode
from schemas.windows import WindowKey


class Joined:
    """What a reader of the partials log believes: per target, source and window the contribution with the highest `through`.

    contradictions: places where two contributions of the same `through` differ.
    """

    def __init__(self) -> None:
        self.shares: dict[tuple[int, int], dict[WindowKey, Contribution]] = defaultdict(dict)
        self.marks: dict[tuple[int, int], Watermark] = {}
        self.contradictions: list[str] = []

    def join(self, target: int, message: StageRecord) -> None:
        """One record of one partition of the partials topic."""
        place = (message.source, target)
        if not isinstance(message, Watermark):
            shares = self.shares[place]
            for partial in message.items:
                held = shares.get(partial.key)
                if held is not None and held.through == partial.share.through and held != partial.share:
                    self.contradictions.append(f"{partial.key} of usage partition {message.source} at {held.through}")
                if held is None or partial.share.through > held.through:
                    shares[partial.key] = partial.share
        elif place not in self.marks or message.through >= self.marks[place].through:
            self.marks[place] = message

    def compare(self, folds: Mapping[tuple[int, str], int], targets: int) -> list[Mismatch]:
        """Against the ledger's folds, (usage partition, subject) -> count; each source and target by itself."""
        expected: Counter[tuple[int, int]] = Counter()
        for (source, subject), count in folds.items():
            expected[source, partition_for(subject, targets)] += count
        found = [Mismatch("partials log", "one content per `through`", "one", place) for place in self.contradictions]
        for place in sorted({*expected, *self.shares, *self.marks}):
            where = f"usage partition {place[0]} to partials partition {place[1]}"
            joined = sum(share.events for share in self.shares[place].values())
            mark = self.marks.get(place)
            sent = mark.folds if mark is not None else 0
            if sent != expected[place]:
                found.append(Mismatch(where, "folds sent, as its last watermark says", expected[place], sent))
            if joined != expected[place]:
                found.append(Mismatch(where, "folds joined", expected[place], joined))
        return found


async def joined(stack: Stack) -> Joined:
    """What the partials log of a stack adds up to now."""
    result = Joined()
    async with UsageLog(stack.settings, stack.settings.partials_topic, stack.partials_partitions) as log:
        async for record in log.read():
            result.join(record.partition, decode(record.value or b""))
    return result
