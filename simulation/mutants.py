"""The prover proven: production's rules broken one by one, each by a line or two; every one must be noticed.

A mutant is an edit of production's own text, applied while its module is loaded, in a process of its own. If the line is not
there any more, the mutant says so instead of passing. `python -m simulation.mutants NAME SEEDS` hunts one.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule broken. source: the design's section, or the Faust defect it is like. edits: (text, what it becomes) in `path`.

    seeds: within so many it must be noticed. worlds: of which kind (`simulation/bent.py`).
    """

    name: str
    source: str
    path: str
    edits: tuple[tuple[str, str], ...]
    seeds: int = 200
    worlds: str = "any"


def _one(name: str, source: str, path: str, old: str, new: str, seeds: int = 200, worlds: str = "any") -> Mutant:
    return Mutant(name, source, path, ((old, new),), seeds, worlds)


MUTANTS = (
    # -- what stock Faust does
    _one(
        "a window closes as soon as one partition has passed its end", "Faust: stream time of one partition",
        "tables/closing.py", "return min(source.watermark_ms for source", "return max(source.watermark_ms for source",
    ),
    _one(
        "late usage is dropped", "Faust: late events", "streams/counting.py",
        "judged.before_ms - stream.correct_for_ms)", "judged.before_ms)",
    ),
    _one(
        "a recovered window never closes", "Faust: recovered windows", "tables/closing.py",
        "        self._schedule(slots, ends)\n        closed =", "        closed =",
    ),
    _one(
        "windows close by the wall clock", "Faust: wall-clock expiry", "streams/closing.py",
        "        watermark_ms = table.watermark_ms\n        for key, slot in table.in_order(table.take_due",
        "        import asyncio\n"
        "        watermark_ms = 1767268800000 + int(asyncio.get_running_loop().time() * 1000)\n"
        "        for key, slot in table.in_order(table.take_due",
    ),
    _one(
        "the last partial wins, an old owner's too", "Faust: writes of a former owner; §2.5", "tables/closing_kernels.py",
        "if newest_first or through < held or (through == held and events >= before):", "if newest_first:",
    ),
    _one(
        "a commit runs past what was folded", "Faust #606", "tables/durable.py",
        "        yield Commit(end)\n", "        yield Commit(end + 1)\n",
    ),
    _one(
        "a flush returns before it is acknowledged", "Faust: flush", "streams/driver.py",
        "            failure = error\n",
        "            failure, result = (None, [0]) if type(error).__name__ == 'SendFailed' else (error, None)\n",
    ),
    _one(
        "what was counted and not committed is counted again", "Faust: changelog ahead of the offset; §2.3",
        "tables/replay.py", "if label.end > self.through or label.end < self.floor:", "if label.end < self.floor:",
    ),
    # -- §2: every hop may be repeated
    _one(
        "of two values of a key the last in the log wins", "§2.3", "tables/replay.py",
        "kept.sort(key=lambda chunk: chunk[:2])", "kept.sort(key=lambda chunk: chunk[1])", 600,
    ),
    _one(
        "of two shares of a window the older holds", "§2.3", "tables/closing_kernels.py",
        "if newest_first or through < held or (through == held and events >= before):",
        "if not newest_first and (through < held or (through == held and events >= before)):",
    ),
    _one(
        "a partial that is gone comes back", "§2.3", "tables/metering.py",
        "            self._gone_since.slots_of(keys, True)\n", "",
    ),
    _one(
        "of two states of a partial the older holds", "§2.3", "tables/metering.py",
        "        slots, columns = slots[new], [column[new] for column in columns]\n",
        "        new[:] = True\n",
    ),
    _one(
        "a window that is gone comes back", "§2.3", "tables/closing.py",
        "        self._gone_since.slots_of(keys, True)\n", "",
    ),
    _one(
        "chunks older than the snapshot count", "§2.3", "tables/replay.py",
        "if label.end > self.through or label.end < self.floor:", "if label.end > self.through:", 600, "snapshots",
    ),
    _one(
        "a snapshot is named before it is whole", "§2.2", "tables/durable.py",
        "        if rolling is not None and not rolling.rest:\n            self.snapshot = (",
        "        if rolling is not None and rolling.rest:\n"
        "            self.snapshot = (rolling.log_offset, rolling.source_offset)\n"
        "        if rolling is not None and not rolling.rest:\n            self.snapshot = (",
    ),
    _one(
        "no snapshot is ever begun", "§2.2", "tables/durable.py",
        "if rolling is None and (snapshot_due or self._since_snapshot >",
        "if rolling is None and (False and self._since_snapshot >", 200, "snapshots",
    ),
    _one(
        "a checkpoint begins without an emit", "§2.2", "streams/metering.py",
        "        yield from self.emit()\n        written =", "        written =",
    ),
    _one(
        "what a window's seal forgets is not sent first", "§2.2", "tables/metering.py",
        "for slot in slots[self._marks[slots] & _DIRTY != 0].tolist():", "for slot in ():", 600,
    ),
    _one(
        "only what has changed its value is in a checkpoint", "§2.2", "tables/metering.py",
        "*gone_entries(gone, self.block_max), ", "",
    ),
    _one(
        "a watermark is sent along with what it covers", "§2.5", "streams/metering.py",
        "        if records:\n            yield Produce(records)\n        marks =", "        marks =",
    ),
    _one(
        "a watermark is believed whatever came before it", "§2.5", "tables/closing.py",
        "source.watermark_ms = max(source.watermark_ms, mark.watermark_ms)", "source.watermark_ms = mark.watermark_ms",
    ),
    _one(
        "members of an older partial are dropped", "§2.5", "tables/closing.py",
        "if slot >= 0 and partial.members:", "if share >= 0 and partial.members:", 600,
    ),
    _one(
        "a sealed window is made anew", "§2.5", "streams/closing.py",
        "sealed = table.watermark_ms >= ends.ends_ms + self._stream.correct_for_ms", "sealed = ends.ends_ms < 0", 600,
    ),
    _one(
        "a commit is sent again under the next generation", "§2.4", "simulation/broker.py",
        "member, generation = self._membership.member_id, self._membership.generation",
        "member, generation = next(iter(group.members), ''), group.generation", 600,
    ),
    Mutant(
        "a batch is folded over a gap", "§2.4", "streams/tasks.py",
        (("        if batch.start > self.position:\n", "        if False:\n"),
         ("self._step(Batch(self.position, ", "self._step(Batch(min(self.position, part[0].offset), ")),
    ),
    _one(
        "a batch that comes twice is folded twice", "§2.4", "schemas/records.py",
        "PackedRecords.of(self.records).since(position)", "PackedRecords.of(self.records)",
    ),
    _one(
        "after a failed effect the state is checkpointed all the same", "§2.4", "streams/tasks.py",
        "            if self._broken:\n                return False\n", "", 600,
    ),
    _one(
        "a lost acknowledgement is taken for a delivery", "§2.6", "streams/delivery.py",
        'if outcome.kind == "delivered":', 'if outcome.kind in ("delivered", "retry"):',
    ),
    _one(
        "a revision that is not in a checkpoint is lost with its owner", "§2.6", "tables/closing.py",
        "        entries += outbox\n", "",
    ),
    _one(
        "a zombie's line of revisions turns the order around", "§2.6", "tables/outbox.py",
        "sorted(self.items.items(), key=lambda pair: pair[1].order)",
        "sorted(self.items.items(), key=lambda pair: -pair[1].order)", 200, "outages",
    ),
    _one(
        "a plain upsert instead of the guarded write", "§2.7", "sinks/cosmos.py",
        'if held >= revision.revision:', "if False:", 600, "outages",
    ),
    _one(
        "a message's id does not name its revision", "§2.7", "schemas/windows.py",
        'return f"{self.window_id}:{self.revision}"', 'return f"{self.window_id}:1"',
    ),
    # -- §3: time
    _one(
        "what is decided depends on where a batch begins", "§2.1", "streams/counting.py",
        "recorded_ms, marks[:-1], int(marks[-1])", "recorded_ms, marks[:-1] * 0 + marks[0], int(marks[-1])",
    ),
    _one(
        "the future is judged by the wall clock", "§3", "streams/counting.py",
        "(times_ms > recorded_ms + self._stream.future_tolerance_ms)",
        "(times_ms > 1767268800000 + __import__('asyncio').get_running_loop().time() * 1000"
        " + self._stream.future_tolerance_ms)",
    ),
    _one(
        "a tick is written before the log was read to its end", "§3", "streams/metering.py",
        "if max_delay_ms is None or self.table.position != log_end:", "if max_delay_ms is None:", 600,
    ),
    _one(
        "a fast clock raises the watermark as far as it likes", "§3", "streams/counting.py",
        "np.where(is_tick, times_ms, np.minimum(times_ms, recorded_ms))", "times_ms.copy()",
    ),
    _one(
        "a window is revised at every watermark", "§3", "streams/closing.py",
        "take_revisable(watermark_ms, self._stream.revise_every_ms)", "take_revisable(watermark_ms, 0)",
    ),
    _one(
        "what is pending at the seal is dropped", "§3", "streams/closing.py",
        "                yield from self._revise(key, slot, \"seal\", watermark_ms)\n", "                pass\n", 200, "long",
    ),
    # -- §4: one event, one fate
    _one(
        "an id is forgotten too early", "§4", "tables/dedupe.py",
        "(watermarks_ms - self._correct_for_ms) // self._bucket_ms", "watermarks_ms // self._bucket_ms",
    ),
    _one(
        "an id is known for longer than it may be", "§4", "tables/dedupe.py",
        "(watermarks_ms - self._correct_for_ms) // self._bucket_ms",
        "(watermarks_ms - 2 * self._correct_for_ms) // self._bucket_ms", 200, "long",
    ),
    _one(
        "an id is known to the millisecond only", "§4", "tables/dedupe.py",
        "(watermarks_ms - self._correct_for_ms) // self._bucket_ms",
        "(watermarks_ms - self._correct_for_ms - 1) // self._bucket_ms + 1", 200, "long",
    ),
    _one(
        "what came of a lane before it was one is not looked for", "§4", "tables/dedupe.py",
        "                self._shelves.find(astray, ids.words, elsewhere)\n", "                pass\n", 200,
    ),
    _one(
        "the last counter of an interval is not in it", "§4", "tables/lane_kernels.py",
        "if below > 0 and counter <= stops[place]:", "if below > 0 and counter < stops[place]:", 60,
    ),
    _one(
        "an interval grows over a gap", "§4", "tables/lane_kernels.py",
        "stops[place - 1] + 1 == start", "stops[place - 1] + 2 >= start", 60,
    ),
    _one(
        "an id in a table is known whatever its time", "§4", "tables/id_kernels.py",
        "if (code != 0 and code >= floors[row])", "if (code != 0)", 200, "long",
    ),
    _one(
        "the intervals of lanes are in no checkpoint", "§2.2", "tables/dedupe.py",
        "for piece in self._lanes.touched(self._swept):", "for piece in ():", 200,
    ),
    _one(
        "the id of a dead letter is remembered as counted", "§4", "streams/counting.py",
        "        known = event if isinstance(event, RawEvent) else None\n",
        "        known = event if isinstance(event, RawEvent) else None\n"
        "        if known:\n"
        "            at = np.array([record.timestamp_ms])\n"
        "            self.table.ids.count(Ids.of([(known.source, known.id)]), at, at)\n",
    ),
    _one(
        "a duplicate does not move the clock", "§3", "streams/counting.py",
        "table.raise_watermark(judged.after_ms)",
        "raised = np.where(events, np.minimum(judged.times_ms, judged.recorded_ms), judged.times_ms)\n"
        "        raised[future] = NEVER\n"
        "        if len(chosen): raised[chosen[duplicate]] = NEVER\n"
        "        table.raise_watermark(max(table.watermark_ms, int(raised.max())))",
    ),
    _one(
        "the balance between the stages is asked too early", "§4", "streams/closing.py",
        "if mark.through >= source.partial_through and", "if",
    ),
    _one(
        "of the latest values the last folded wins", "§5", "tables/share_kernels.py",
        "                        later = moments[part, row] > held_moments[slot, part]\n",
        "                        later = True\n",
    ),
    _one(
        "what looks alike is taken for the same", "§4", "schemas/shape_kernels.py",
        "if at + size > end or not same(letters, at, constants, constant, size):", "if at + size > end:",
    ),
    _one(
        "where the point stands in a quantity is forgotten", "§5", "streams/folding.py",
        "fold(aggregation, slots, totals, amounts.places,", "fold(aggregation, slots, totals, 0,",
    ),
    _one(
        "what is sealed is remembered for ever", "§6", "tables/metering.py",
        "        self.ids.evict(time_ms)\n", "",
    ),
)  # fmt: skip
"""Not here, since rule 1 makes them harmless: delivering before acceptance (the same revision comes again), a removal from the
outbox that does not compete in recovery (again the same), delivery marks by the last instead of the maximum, a zombie that goes
on after a refused commit; and sending the members of a unique count once instead of until a checkpoint has them, since a flush
that is not acknowledged ends the membership, and the next owner folds and sends them again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant. seeds: how many stories it took. error: why it could not be hunted."""

    mutant: Mutant
    promise: str | None
    seeds: int
    error: str = ""

    @property
    def killed(self) -> bool:
        """Whether a promise broke within the seeds it may take."""
        return self.promise is not None and not self.error


def hunt(told: Callable[[int, int], None], python: str, only: Sequence[str] = ()) -> list[Verdict]:
    """Hunts them all, as many at once as there are cores. told: how many are done, how many of them survived."""
    chosen = [mutant for mutant in MUTANTS if not only or mutant.name in only]
    verdicts: list[Verdict] = []
    lock = threading.Lock()

    def one(mutant: Mutant) -> Verdict:
        verdict = _hunted(mutant, python)
        with lock:
            verdicts.append(verdict)
            told(len(verdicts), sum(not verdict.killed for verdict in verdicts))
        return verdict

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(one, chosen))


def table(verdicts: Sequence[Verdict]) -> str:
    """Mutant, rule, the promise it broke and how many seeds that took."""
    width = max(len(verdict.mutant.name) for verdict in verdicts)
    rows = [f"{'mutant':{width}}  {'seeds':>5}  promise  source"]
    for verdict in verdicts:
        told = verdict.promise or verdict.error or "SURVIVED"
        rows.append(f"{verdict.mutant.name:{width}}  {verdict.seeds:>5}  {told:7}  {verdict.mutant.source}")
    alive = [verdict for verdict in verdicts if not verdict.killed]
    rows.append(f"{len(verdicts) - len(alive)} of {len(verdicts)} mutants killed")
    return "\n".join(rows)


def _hunted(mutant: Mutant, python: str) -> Verdict:
    command = [python, "-m", "simulation.mutants", mutant.name, str(mutant.seeds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return Verdict(mutant, None, 0, f"could not be hunted: {last}")
    said = json.loads(done.stdout)
    return Verdict(mutant, said["promise"], said["seeds"])


class _Finder(importlib.abc.MetaPathFinder):
    """Loads the mutant's module from its edited text."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = mutant.path.removesuffix(".py").replace("/", ".")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        location = str(ROOT / self._mutant.path)
        loader = _Loader(fullname, location)
        loader.mutant = self._mutant
        return importlib.util.spec_from_file_location(fullname, location, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        return compile(mutated(self.mutant), self.path, "exec")


def mutated(mutant: Mutant) -> str:
    """The module's text with the mutant's edits. Raises LookupError where a text is not there exactly once."""
    text = (ROOT / mutant.path).read_text()
    for old, new in mutant.edits:
        if text.count(old) != 1:
            raise LookupError(f"{mutant.path} has {text.count(old)} times, not once: {old.strip()!r}")
        text = text.replace(old, new)
    return text


def main(arguments: Sequence[str]) -> int:
    """Hunts one mutant in this process: prints the promise that broke and after how many seeds, as JSON."""
    name, seeds = arguments
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    mutated(mutant)
    if mutant.path.endswith("kernels.py"):  # as it is written: what is compiled is kept, and must never be a mutant
        assert "numba" not in sys.modules, "its settings are read when it is imported"
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    sys.meta_path.insert(0, _Finder(mutant))
    logging.disable(logging.CRITICAL)
    from simulation.bent import BENT
    from simulation.world import tell

    for seed in range(int(seeds)):
        ending = tell(seed, **BENT[mutant.worlds](seed))
        if ending.promise is not None:
            print(json.dumps({"promise": ending.promise, "seeds": seed + 1, "what": ending.what}))
            return 0
    print(json.dumps({"promise": None, "seeds": int(seeds), "what": ""}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
