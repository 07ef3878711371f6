"""Watches a story while it is told, and at its end, and says which promise was broken (the L numbers are docs/proof.md's).

====  ===================================================================================================================
L1    every event in the log met the one fate that design §4 gives it, by id and place
L2    per window: revisions contiguous from 1, each the oracle's value of what was folded so far, the last one of all of it
L3    running totals are the oracle's of counted events alone, after every step
L4    nothing closes before its watermark, nor without what that watermark covers
L5    a committed offset never goes back, and what is recovered is the state of the log up to exactly there
L6    (a zombie's writes change nothing: every other promise holds in worlds that have zombies)
L7    after the faults stop, every window due is closed and in both sinks within a bounded virtual time
L8    consumers that honour MessageId see each revision once, with one content; both regions converge to the highest
L9    replaying the partials gives the same revisions byte for byte, replaying the usage the same final values
L10   what is remembered is what live windows and `correct_for` ask for, and the changelog stays in proportion
====  ===================================================================================================================
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from schemas.errors import Way
from schemas.ids import Ids
from schemas.partials import RECORD_MAX
from schemas.records import Batch, Record
from schemas.times import parse_rfc3339
from simulation import pictures
from simulation.cluster import Log
from simulation.comparison import Comparison, fold_to, hex_of, key_of, or_none, plain
from simulation.oracle import Window
from streams.closing import Closing
from streams.metering import Metering
from streams.tasks import ClosingTask, MeteringTask

if TYPE_CHECKING:
    from simulation.world import World


LOST_LOGS: frozenset[Way] = frozenset((
    "records-removed-before-they-were-counted",
    "an-empty-changelog",
    "a-changelog-cut-below-its-snapshot",
    "a-changelog-that-cannot-be-read",
    "checkpoints-that-do-not-link",
    "a-changelog-without-an-offset",
    "an-offset-before-the-snapshot",
))  # fmt: skip
"""The ways to stop that what is cut or forgotten here can lead to. A record that cannot be folded is never one of them."""


class Judge(Comparison):
    """Everything it is told by the world it compares at once; the first promise broken ends the story."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.stops: dict[str, str] = {}
        self.checks = 0
        self.recoveries = 0
        self._ids = [[Ids.of([])] for _ in range(world.sources)]
        self._committed: dict[tuple[str, int], int] = {}
        self._checkpoints: dict[int, list[tuple[int, int]]] = {}
        self._chance = random.Random(f"{world.seed}/judge")
        self._grace = {meter.slug: meter.grace_ms for meter in world.definitions.meters}

    # -- while the story is told

    def appended(self, source: int, record: Record) -> None:
        """A record of usage is in the log."""
        self.oracle.read(source, record.offset, record.timestamp_ms, record.key, record.value)
        self._ids[source].append(pictures.ids_in([record]))
        self._joint.append((self.world.loop.time(), self._joint_watermark()))

    def metering_stepped(self, source: int, stage: Metering) -> None:
        """L1 and the ledger, after every step of any owner."""
        table = stage.table
        self.checks += 1
        told, said = self.oracle.counters(source, table.position), table.ledger.describe()
        wrong = {name: (said.get(name, 0), count) for name, count in told.items() if said.get(name, 0) != count}
        if wrong:
            self._break("L1", f"usage[{source}] at {table.position}: counters (ours, the oracle's) {wrong}")
        mine, theirs = or_none(table.watermark_ms), self.oracle.watermark_ms(source, table.position)
        if mine != theirs:
            self._break("L4", f"usage[{source}] at {table.position}: watermark {mine}, the oracle's {theirs}")
        if sum(table.folds) != self.oracle.folds(source, table.position):
            self._break("L3", f"usage[{source}] at {table.position}: folds {sum(table.folds)}, not the oracle's")
        letters = {(letter.offset, letter.index, letter.reason) for letter in stage.dead_letters}
        if extra := letters - self.oracle.dead_letters(source, table.position):
            self._break("L1", f"usage[{source}]: dead letters that should be none {sorted(extra)}")

    def closing_stepped(self, partition: int, stage: Closing) -> None:
        """L3 and the joined watermark, after every step of any owner."""
        table = stage.table
        self.checks += 1
        for alarm in stage.alarms:
            self._break("L1", f"an alarm for nothing: {alarm.kind} at {alarm.where}: {alarm.what}")
        for number, known in enumerate(table.sources):
            theirs = self.oracle.watermark_ms(number, known.through + 1)
            if known.through >= 0 and or_none(known.watermark_ms) != theirs:
                self._break("L4", f"partials[{partition}]: watermark of source {number} is not that of {known.through}")
        for key in stage.changed:
            window = table.windows.get(key)
            shown = stage.describe(key)
            if window is None or shown is None:
                continue
            throughs = {}
            for source, share in window.shares.items():
                throughs[source] = share.through
                self._same_share(key, source, share.through, share.events, share.digest.hex(), share.first, "L3")
            self._same_value(key, throughs, str(shown["value"]), "L3", str(shown["aggregation"]))

    def committed(self, place: tuple[str, int], offset: int) -> None:
        """L5, at every commit that the coordinator took."""
        before = self._committed.get(place, -1)
        if offset < before:
            self._break("L5", f"{place} was committed at {offset} after {before}")
        self._committed[place] = offset
        if place[0] == self.world.settings.partials_topic:
            self._checkpoints.setdefault(place[1], []).append((offset, self.world.closing_changelog(place[1]).end))

    def offset_forgotten(self, place: tuple[str, int]) -> None:
        """The group's committed offset is gone: an owner may commit what it will, if any goes on."""
        self._committed.pop(place, None)

    def metering_recovered(self, task: MeteringTask) -> None:
        """L5: the state of the log up to exactly the committed offset."""
        self.recoveries += 1
        table = task.metering.table
        plain = self._plain_metering_at(task.partition, table.position)
        ids = self._ids_of(task.partition)
        mine, theirs = pictures.of_metering(table, ids), pictures.of_metering(plain.table, ids)
        if found := pictures.difference(mine, theirs):
            self._break("L5", f"usage[{task.partition}] recovered at {table.position}: {found}")

    def closing_recovered(self, task: ClosingTask) -> None:
        """L5, and that no revision is nowhere: in the outbox for every sink that has not got it."""
        self.recoveries += 1
        table = task.closing.table
        plain = self._plain_closing_at(task.partition, table.position)
        if found := pictures.difference(pictures.of_closing(table), pictures.of_closing(plain.table)):
            self._break("L5", f"partials[{task.partition}] recovered at {table.position}: {found}")
        for name, decided in plain.table.outbox.items.items():
            held = table.outbox.items.get(name)
            if held is not None and held.revision != decided.revision:
                self._break("L2", f"{name} was recovered with another content")
            for sink in ("servicebus", "cosmos"):
                waits = held is not None and sink not in held.marks
                if not waits and not self.world.sink_has(sink, name):
                    self._break("L7", f"{name} is neither in the outbox nor in {sink}")

    def ticked(self, source: int, position: int, end: int | None) -> None:
        """L4: whoever promises that nothing older is to be expected has read what there is."""
        if position != end:
            self._break("L4", f"usage[{source}]: a tick by an owner at {position} who knows that the log goes to {end}")

    def metering_accepted(self, source: int, stage: Metering) -> None:
        """L10: what METERING remembers is what its own watermark asks for."""
        table, position = stage.table, stage.table.position
        self._changelog_in_proportion(f"usage[{source}]", stage, self.world.metering_changelog(source))
        live = self.oracle.live(source, position)
        if set(table.partials) != live:
            odd = sorted(set(table.partials) ^ live)[:3]
            self._break("L10", f"usage[{source}] at {position} remembers {len(table.partials)} partials: {odd}")
        known, theirs = pictures.known_ids(table, self._ids_of(source)), self.oracle.known(source, position)
        if known != theirs:
            self._break(
                "L1", f"usage[{source}] at {position} knows {len(known)} ids, and not the oracle's {len(theirs)}"
            )
        if len(table.ids) > 2 * len(theirs):  # an id that two owners held otherwise is there twice
            self._break(
                "L10", f"usage[{source}] at {position} holds {len(table.ids)} ids, of which {len(theirs)} are known"
            )

    def _ids_of(self, source: int) -> Ids:
        """Every id of a usage partition so far."""
        parts = self._ids[source]
        parts[:] = [Ids.joined(parts)]
        return parts[0]

    def closing_accepted(self, partition: int, stage: Closing) -> None:
        """L10: no window is held past its seal."""
        self._changelog_in_proportion(f"partials[{partition}]", stage, self.world.closing_changelog(partition))
        table, stream = stage.table, self.world.definitions.stream
        late = [key for key in table.windows if self._end_ms(key) + stream.correct_for_ms <= table.watermark_ms]
        if late:
            self._break("L10", f"partials[{partition}] holds {len(late)} windows past their seal, as {late[0]}")

    def stopped(self, where: str, why: str, way: str) -> None:
        """A partition stopped: right where retention or a hand took something from its own logs, and as that is told."""
        self.stops[where] = why
        if where not in self.world.taken_from or way not in LOST_LOGS:
            self._break("L7", f"{where} stopped for nothing: {why}")

    # -- at its end

    def all_delivered(self) -> bool:
        """Whether both sinks have the final value of every window there is."""
        final, newest = self._final(), self._newest()
        if len(newest) != len(final):
            return False
        for key, expected in final.items():
            body = newest.get(key)
            if body is None or (body["events"], body["receipt"]["digest"]) != (
                expected.events,
                hex_of(expected.digest),
            ):
                return False
        return all(self.world.shows(body["id"]) >= body["revision"] for body in newest.values())

    def what_lacks(self) -> str:
        """Why `all_delivered` says no, for L7."""
        final, newest = self._final(), self._newest()
        lacking = [key for key in final if key not in newest]
        behind = [
            f"{key}: {newest[key]['events']} of {expected.events} events"
            for key, expected in final.items()
            if key in newest and newest[key]["events"] != expected.events
        ]
        cosmos = [body["id"] for body in newest.values() if self.world.shows(body["id"]) < body["revision"]]
        return (
            f"{len(lacking)} of {len(final)} windows not closed {lacking[:2]}; {len(behind)} behind {behind[:2]}; "
            f"{len(cosmos)} not in cosmos; open: {self.world.describe()}"
        )

    def at_the_end(self, complete: bool) -> None:
        """Everything that only the whole story can say. complete: no partition stopped, all is delivered."""
        self._contents_and_values()
        self._regions()
        if complete:
            self._fates()
            self._last_words()
            self._replays()

    def _contents_and_values(self) -> None:
        """L2, L4, L8 over every message that Service Bus took, resends too."""
        consumer = self.world.consumer
        if consumer.conflicts:
            self._break("L8", f"{consumer.conflicts[0][0]} was delivered with two contents")
        revisions: dict[Window, dict[int, tuple[float, dict[str, Any]]]] = {}
        for at_s, body in self._messages():
            revisions.setdefault(key_of(body), {}).setdefault(body["revision"], (at_s, body))
        for key, said in revisions.items():
            if sorted(said) != list(range(1, len(said) + 1)):
                self._break("L2", f"{key} has the revisions {sorted(said)}")
            arrived = [number for number, _ in sorted(said.items(), key=lambda item: item[1][0])]
            if arrived != sorted(arrived):
                self._break("L2", f"{key}: revisions arrived in the order {arrived}")
            before: dict[str, Any] | None = None
            for number in sorted(said):
                at_s, body = said[number]
                self._revision(key, at_s, body, before)
                before = body

    def _revision(self, key: Window, at_s: float, body: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
        receipt = body["receipt"]
        throughs = {}
        name = f"{key} revision {body['revision']}"
        for line in receipt["sources"]:
            throughs[line["partition"]] = line["last_offset"]
            self._same_share(
                key, line["partition"], line["last_offset"], line["events"], line["digest"], line["first_offset"], "L2"
            )
        self._same_value(key, throughs, body["value"], "L2", body["aggregation"])
        if body["events"] != receipt["events"] or body["events"] != sum(line["events"] for line in receipt["sources"]):
            self._break("L2", f"{name}: its receipt does not add up")
        said_ms = parse_rfc3339(receipt["watermark"])
        end_ms = self._end_ms(key)
        if said_ms < end_ms + self._grace[key[1]]:
            self._break("L4", f"{name} was made at the watermark {said_ms}, before {end_ms + self._grace[key[1]]}")
        joint = self._joint[max(0, bisect_right(self._joint, at_s, key=lambda entry: entry[0]) - 1)][1]
        if joint is None or said_ms > joint:
            self._break("L4", f"{name} was made at the watermark {said_ms}, the log had reached {joint} by then")
        for source in range(self.world.sources):
            covered = self._offset_of(source, said_ms)
            due = self.oracle.share(key, source, covered)
            counted = self.oracle.share(key, source, throughs.get(source, -1))
            if due is not None and (counted is None or counted.events < due.events):
                self._break("L4", f"{name} lacks usage of source {source} that its watermark covers")
        revise_ms = self.world.definitions.stream.revise_every_ms
        early = before is not None and said_ms < parse_rfc3339(before["receipt"]["watermark"]) + revise_ms
        if early and body["reason"] == "late":
            self._break("L2", f"{name} came sooner than revise_every after the one before")

    def _regions(self) -> None:
        """L8: every region shows the highest revision, and the ledger holds each once, as Service Bus said it."""
        shown_by: dict[tuple[str, str], int] = {}
        for write in self.world.document_writes():
            if write.revision < shown_by.get((write.region, write.id), 0):
                self._break("L8", f"{write.id} went back to revision {write.revision} in {write.region}")
            shown_by[write.region, write.id] = write.revision
        highest: dict[str, int] = {}
        bodies: dict[str, dict[str, Any]] = {}
        for body in self._read_revisions():
            bodies[f"{body['id']}:{body['revision']}"] = body
            highest[body["id"]] = max(highest.get(body["id"], 0), body["revision"])
        for region, documents in self.world.cosmos_documents().items():
            for name, document in documents.items():
                content = bodies.get(f"{name}:{document['revision']}")
                if content is not None and plain(document) != content:
                    self._break("L8", f"{name} in {region} is not what the message of its revision says")
                if content is None and not self.stops and self.world.settled:
                    self._break(
                        "L8", f"{name} in {region} shows revision {document['revision']}, which no message says"
                    )
            if self.world.settled and not self.stops:
                shown = {name: document["revision"] for name, document in documents.items()}
                if shown != highest:
                    odd = [name for name in {**shown, **highest} if shown.get(name) != highest.get(name)]
                    self._break("L8", f"{region} shows {shown.get(odd[0])} of {odd[0]}, not {highest.get(odd[0])}")
        for region, items in self.world.cosmos_ledger().items():
            for name, item in items.items():
                if name in bodies and plain(item) | {"id": bodies[name]["id"]} != bodies[name]:
                    self._break("L8", f"the ledger's {name} in {region} is not what the message says")
            if self.world.settled and not self.stops and set(items) != set(bodies):
                self._break("L8", f"the ledger of {region} has {len(items)} revisions, {len(bodies)} were made")

    def _fates(self) -> None:
        """L1, record by record, over the whole log; and the dead letters that were written, by place."""
        for source in range(self.world.sources):
            log = self.world.usage_log(source)
            stage = self.world.plain_metering(source)
            for record in log.records:
                stage.step(Batch(record.offset, record.offset + 1, [record]))
                self.metering_stepped(source, stage)
        if extra := self._letters_written() - self._letters_due():
            self._break("L1", f"dead letters that should be none: {sorted(extra)[:3]}")

    def dead_letters_lacking(self) -> list[tuple[int, int, int, str]]:
        """Those that are due and not written (source, offset, index, reason)."""
        return sorted(self._letters_due() - self._letters_written())

    def _letters_due(self) -> set[tuple[int, int, int, str]]:
        return {
            (source, *place)
            for source in range(self.world.sources)
            for place in self.oracle.dead_letters(source, self.world.usage_log(source).end)
        }

    def _letters_written(self) -> set[tuple[int, int, int, str]]:
        letters = [orjson.loads(record.value or b"") for record in self.world.dead_letters()]
        return {(letter["partition"], letter["offset"], letter["index"], letter["reason"]) for letter in letters}

    def _last_words(self) -> None:
        """L2: the last revision of each window says all of it."""
        final, newest = self._final(), self._newest()
        for key, expected in final.items():
            body = newest[key]
            if pictures.quantity(body["value"]) != expected.value:
                self._break("L2", f"{key} ends as {body['value']}, not {expected.value}")

    def _replays(self) -> None:
        """L9. From a checkpoint of each partition of CLOSING, and from nothing."""
        for partition, checkpoints in sorted(self._checkpoints.items()):
            for committed, changelog_end in self._chance.sample(checkpoints, min(1, len(checkpoints))):
                self._replay_from(partition, committed, changelog_end)
        bodies = {f"{body['id']}:{body['revision']}": raw for raw, body in self._raw_messages()}
        for partition in range(self.world.targets):
            stage = self._plain_closing_at(partition, self.world.partials_log(partition).end)
            for name, item in stage.table.outbox.items.items():
                if name in bodies and bodies[name] != item.revision.body:
                    self._break("L9", f"replaying partials[{partition}] gives another {name}")
                bodies.pop(name, None)
        if bodies:
            self._break("L9", f"replaying the partials does not give {sorted(bodies)[:3]}")
        replayed, final = self.world.replay_usage(), self._final()
        if odd := sorted(replayed.keys() ^ final.keys()):
            self._break("L9", f"replaying the usage gives {len(replayed)} windows, not {len(final)}, as {odd[0]}")
        for key, expected in replayed.items():
            told = final[key]
            if expected != (told.value, told.events, told.digest):
                self._break("L9", f"replaying the usage gives {expected} for {key}, not {told}")

    def _replay_from(self, partition: int, committed: int, changelog_end: int) -> None:
        """Recovered as of then, the rest of the partials gives what was delivered."""
        stage = self.world.recovered_closing(partition, committed, changelog_end)
        fold_to(stage, self.world.partials_log(partition).records, self.world.partials_log(partition).end)
        whole = self._plain_closing_at(partition, self.world.partials_log(partition).end)
        for name, item in stage.table.outbox.items.items():
            told = whole.table.outbox.items.get(name)
            if told is None or told.revision.body != item.revision.body:
                self._break("L9", f"replaying partials[{partition}] from {committed} gives another {name}")
        if found := pictures.difference(pictures.of_closing(stage.table), pictures.of_closing(whole.table)):
            self._break("L9", f"replaying partials[{partition}] from {committed}: {found}")

    def _changelog_in_proportion(self, where: str, stage: Metering | Closing, log: Log) -> None:
        """L10: what a recovery reads is a few times what is live, or the least that a snapshot is made for."""
        limits, durable = self.world.scale.limits, stage.durable
        if limits.slice < 1_000_000 or limits.record < RECORD_MAX:
            return  # a snapshot that rolls in slivers takes as long as it takes, and small records are mostly labels
        sizes = [len(record.value or b"") for record in log.records[durable.snapshot[0] :]]
        live = sum(
            len(e.key) + len(e.value or b"") for unit in durable.table.units() for e in durable.table.slice(unit)
        )
        most = 4 * (max(live, limits.snapshot_min) + max(sizes, default=0)) + 12_000
        if sum(sizes) > most:
            self._break("L10", f"{where}: a recovery reads {sum(sizes)} bytes for a state of {live}")
