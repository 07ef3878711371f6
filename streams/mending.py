"""Mending a partition that stopped (design §2.3), as procedures of effects: what `python app.py mend` and the simulator run.

They are run while the deployment's workers are stopped, by a performer that acts from outside the group. Each refuses
(NotMended) where its result would not be proven; docs/mending.md says for each way to stop which one mends it.

What they rest on: state is a function of the log (design §2.1), so any whole chain of checkpoints proves it, and so does
the log itself, folded from where the partition began. A partial is cumulative and a revision has its content and its id from
the log (§2.5 to §2.7), so whatever is sent again changes nothing. What is written is nothing until it is committed.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas import partials as wire
from schemas.errors import NotMended, PartitionStopped
from schemas.hashing import partition_for
from schemas.partials import NEVER, Contribution, Partial
from schemas.records import Out
from schemas.windows import WindowKey
from streams.closing import Closing
from streams.deployment import Deployment, StageName
from streams.diagnosis import FOREIGN, NEW_TOPICS, diagnose, refusal, sent_ahead
from streams.metering import Metering
from streams.refolding import (
    Stuck,
    behind,
    first_offset,
    fold,
    forget,
    keep,
    passing_over,
    proven,
    recognised,
    told_definitions,
    told_watermarks,
)
from tables.effects import Commit, Procedure, Produce, ReadBounds, ReadCommitted, rehearsed
from tables.gaps import Gap


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done, and what is to be done then."""

    what: str
    then: str = ""


def mend_offset(deployment: Deployment, stage: StageName, partition: int) -> Procedure[Mended]:
    """Commits the newest offset that the changelog proves: where the group's is missing, or leads nowhere.

    Exact, wherever the true offset was. The end of a chain of whole checkpoints from the newest accepted snapshot is
    state at that offset of the log, whether or not it was ever committed (design §2.2).

    METERING: a checkpoint's chunks were written after the emit through its end was acknowledged, so nothing is missing
    between the stages. If the true offset was further, the usage in between is folded again, and its partials are sent
    again with the same `through`.
    CLOSING: what the chain decided is in its outbox, or was delivered to everybody who needed it; a revision that nobody has
    seen yet leaves now, one that was seen leaves again with its id and its content. If the true offset was further, the same
    revisions are decided again.
    Refused where the changelog proves nothing, and where the source log is not the one that was folded.
    """
    found = yield from diagnose(deployment, stage, partition, 0)
    if f"mend offset {stage} {partition}" not in found.commands:
        raise refusal(found, "offset")
    made = deployment.stage(stage, partition)
    offset = yield from proven(made.durable)
    assert offset is not None, "or the diagnosis would not name it"
    yield from passing_over(made.durable, made.durable.restore(offset))
    made.restored()
    if not (yield from recognised(made)):
        raise NotMended(
            f"{made.durable.source_topic}[{partition}] holds other records before offset {offset} than those that were "
            "folded: the topic was made anew",
            hint=f"use {NEW_TOPICS}",
        )
    begin, _ = yield ReadBounds(made.durable.source_topic)
    yield Commit(offset)
    return Mended(
        f"committed offset {offset}, to which the changelog leads whole; it was "
        f"{'none' if found.offset is None else found.offset}",
        f"offsets {offset} to {begin} are no longer in the log: `mend show` says how to go on"
        if offset < begin
        else "",
    )


def rebuild(
    deployment: Deployment, stage: StageName, partition: int, *, same_definitions: bool = False
) -> Procedure[Mended]:
    """Folds the source log again from where the partition began, writes all of it as a snapshot, commits its offset.

    Exact: state is a function of the log (design §2.1), and the log is whole; otherwise it is refused. It ends at the
    committed offset; without one, METERING ends where its own newest watermark says that everything was sent, CLOSING at
    the log's end. A record that cannot be folded ends it earlier: going back is harmless, both stages say the same again.

    METERING: what was folded beyond its newest watermark (an offset moved forward by hand) was never sent, and is emitted
    before it is written. Its folds and its watermark must be those that it told CLOSING on the way, or this is another log,
    or these are other definitions.
    CLOSING: its revisions come out byte for byte the same, into the outbox, and leave again: same ids, same content.
    Deliveries are forgotten. A log that raises an alarm is not whole, and refused.

    A changelog in which only the records of somebody else are in the way is read without them: its chain must be whole.

    same_definitions: the caller vouches for the meters file where no changelog is left that says which it was.
    """
    found = yield from diagnose(deployment, stage, partition, 0)
    if f"mend rebuild {stage} {partition}" not in found.commands:
        raise refusal(found, "rebuild")
    if found.way == FOREIGN:
        kept = yield from _without_foreign(deployment, stage, partition, found.offset)
        if kept is not None:
            yield from kept.durable.rewrite()
            return Mended(f"wrote the state at offset {kept.table.position} anew, without the records of somebody else")
    told = yield from told_definitions(deployment)
    if told is None and not same_definitions:
        raise NotMended(
            "no changelog is left that says with which definitions this was counted",
            hint="make sure that the meters file is the one the deployment began with, then add --same-definitions",
        )
    if told is not None and told != deployment.definitions.digest:
        raise NotMended(
            "the deployment was counted with other meters or stream settings",
            hint="use the meters file the deployment began with (docs/mending.md#other-definitions)",
        )
    goal, stopped = found.offset, ""
    while True:
        made = deployment.stage(stage, partition)
        first = yield from first_offset(made.durable)
        if first is None:
            raise refusal(found, "rebuild")
        yield from made.durable.restart(first)
        try:
            if isinstance(made, Metering):
                yield from _refold_metering(deployment, made, goal)
            else:
                yield from _refold_closing(made, goal)
            break
        except Stuck as stuck:
            goal, stopped = stuck.position, stuck.error.what
    yield from made.durable.rewrite()
    return Mended(
        f"folded offsets {first} to {made.table.position} again, and wrote the state",
        f"{stopped}: `mend show` says how to go on" if stopped else "",
    )


def accept_gap(
    deployment: Deployment, stage: StageName, partition: int, to: int, reason: str, now_ms: int
) -> Procedure[Mended]:
    """Goes on behind offsets that cannot be counted, and puts that into the state, for the audit.

    The gap is never larger than it must be; `to` is its end, which the caller has to name: it is a decision. It is either
    what retention removed, or the records that cannot be folded, of which none may be foldable by itself. The state at its
    beginning is proven as in any recovery; what is counted from its end on stands beside it. If the changelog proves more than
    was committed (a worker was killed before its commit), that comes first: `mend offset`.

    METERING may have sent more than it committed before it ended, of usage that is gone now. What it said of that would be
    overwritten where more usage comes, and stay where none does; so all of it is taken back: each window of which CLOSING
    holds a share from there is sent again as of the gap's beginning, or empty, with the gap's last offset as `through`. So
    the offsets of the gap are counted nowhere, and the folds of the stages stay in balance. The members of unique counts are
    united for ever and cannot be taken back: what was sent of them stays. The watermark that was promised holds, too.
    Of records that cannot be folded nobody has said anything.

    CLOSING: shares that were in the gap are missing until they are sent again: `resend` must follow. Those of windows that
    METERING has sealed are lost, and `stages_out_of_balance` says so, for good.
    """
    made, start, end = yield from _uncountable(deployment, stage, partition)
    begin, _ = yield ReadBounds(made.durable.source_topic)
    claims, promised_ms = dict[WindowKey, int](), NEVER
    if isinstance(made, Metering) and start < begin:
        claims, promised_ms, end = yield from sent_ahead(deployment, partition, start, begin)
    if to != end:
        raise NotMended(
            f"the gap of {stage} {partition} is offsets {start} to {end}; --to {to} is not its end",
            hint=f"look at what is in it, and say --to {end}",
        )
    gap = Gap(start, end, now_ms, reason)
    if isinstance(made, Metering):
        yield from _take_back(deployment, made, claims, end - 1)
        made.table.accept(gap)
        made.table.raise_watermark(promised_ms)
        yield from made.emit()
    else:
        made.table.accept(gap)
    # Whole, as a snapshot: checkpoints that were never accepted may hold offsets of the gap, and must not be read again.
    yield from made.durable.rewrite()
    return Mended(
        f"offsets {start} to {end} were never counted; the audit says so",
        "" if stage == "metering" else "now `mend resend all`, before the workers start",
    )


def resend(deployment: Deployment, partition: int) -> Procedure[Mended]:
    """Sends all live partials of a usage partition again, whole, then its watermarks. Commits nothing.

    Harmless at any time, beside a running worker too: of each share the highest `through` holds, members are united, a
    watermark never goes back (design §2.5). It brings back to CLOSING what a gap in the partials log took, of every window
    that this partition has not sealed.
    """
    made = deployment.metering(partition)
    if not (yield from rehearsed(made.recover())):
        return Mended(f"usage partition {partition} has not begun: there is nothing to send")
    keys = list(made.table.partials)
    made.table.send_again(keys)
    yield from made.emit()
    return Mended(f"sent {len(keys)} partials of usage partition {partition} again, and its watermarks")


def unpark(deployment: Deployment, partition: int, sink: str | None) -> Procedure[Mended]:
    """Has revisions that a sink (any, if None) refused for good handed over again: once the reason is gone."""
    made = deployment.closing(partition)
    if not (yield from rehearsed(made.recover())):
        return Mended(f"partials partition {partition} has not begun: nothing is parked")
    unparked = made.table.outbox.unpark(sink)
    if unparked:
        yield from made.checkpoint()
    return Mended(f"{len(unparked)} parked revisions of partials partition {partition} will be delivered again")


def _refold_metering(deployment: Deployment, made: Metering, goal: int | None) -> Procedure[None]:
    source, topic, first = made.durable.partition, made.durable.source_topic, made.table.position
    marks = yield from told_watermarks(deployment, source, goal)
    sent = max((mark.through + 1 for _, mark in marks), default=first)
    goal = sent if goal is None else goal
    _, end = yield ReadBounds(topic)
    if goal > end:
        raise NotMended(
            f"{topic}[{source}] ends at {end}, but offset {goal - 1} was counted: it was made anew",
            hint=f"use {NEW_TOPICS}",
        )
    for place in sorted({mark.through + 1 for _, mark in marks if first < mark.through + 1 <= goal}):
        yield from fold(made, place, forget)
        for target, mark in marks:
            found = made.table.watermark_ms, made.table.folds[target]
            if mark.through + 1 == place and found != (mark.watermark_ms, mark.folds):
                raise NotMended(
                    f"at offset {place} this log gives {found[1]} folds for partials partition {target}, but {mark.folds} had "
                    "been sent: it is not the log that was counted, or not with these definitions",
                    hint="use the meters file the deployment began with; if the topic was made anew, " + NEW_TOPICS,
                )
    yield from fold(made, min(sent, goal), forget)
    yield from fold(made, goal, lambda _: made.emit(everywhere=False))


def _refold_closing(made: Closing, goal: int | None) -> Procedure[None]:
    _, end = yield ReadBounds(made.durable.source_topic)
    yield from fold(made, end if goal is None else goal, forget)
    if made.alarms:
        raise NotMended(
            f"{made.durable.source_topic}[{made.durable.partition}], folded again, is not whole: {made.alarms[0].what}",
            hint=f"it was made anew, or its beginning is gone: use {NEW_TOPICS}",
        )


def _without_foreign(
    deployment: Deployment, stage: StageName, partition: int, offset: int | None
) -> Procedure[Metering | Closing | None]:
    made = deployment.stage(stage, partition)
    if offset is None:
        offset = yield from proven(made.durable)
    if offset is None:
        return None
    try:
        yield from passing_over(made.durable, made.durable.restore(offset))
    except PartitionStopped:
        return None
    made.restored()
    return made


def _uncountable(
    deployment: Deployment, stage: StageName, partition: int
) -> Procedure[tuple[Metering | Closing, int, int]]:
    """The stage at the beginning of what cannot be counted, and the offsets from there to where it can go on."""
    made = deployment.stage(stage, partition)
    committed: int | None = yield ReadCommitted()
    begin, end = yield ReadBounds(made.durable.source_topic)
    if committed is not None and committed < begin:
        further = yield from proven(made.durable)
        if further is not None and further > committed:
            raise refusal((yield from diagnose(deployment, stage, partition, 0)), "accept-gap")
        yield from made.durable.restore(committed)
        made.restored()
        return made, committed, begin
    probe = deployment.stage(stage, partition)
    try:
        if (yield from rehearsed(probe.recover())):
            yield from fold(probe, end, forget)
    except PartitionStopped as error:
        raise refusal((yield from diagnose(deployment, stage, partition, 0)), "accept-gap") from error
    except Stuck as stuck:
        assert committed is not None, "a partition that has begun has an offset"
        to = yield from behind(deployment.stage(stage, partition), stuck.offset)
        yield from made.durable.restore(committed)
        made.restored()
        yield from fold(made, stuck.position, keep)
        return made, stuck.position, to
    raise NotMended(
        f"{stage} {partition} has no gap: everything behind its offset can be counted",
        hint="nothing was changed; `mend show` says how each partition is",
    )


def _take_back(deployment: Deployment, made: Metering, claims: dict[WindowKey, int], through: int) -> Procedure[None]:
    """Says of each window what it is at the state's position, with a `through` that holds against all that was said."""
    by_target: list[list[Partial]] = [[] for _ in range(deployment.targets)]
    for key, version in sorted(claims.items()):
        if key in made.table.partials:
            made.table.restate(key, through)  # it leaves with the emit of the checkpoint
        else:
            nothing = Contribution(0, bytes(16), through, through)
            by_target[partition_for(key.subject, deployment.targets)].append(Partial(*key, version, nothing))
    source = made.durable.partition
    records = [
        Out(deployment.topics.partials, target, b"%d" % source, value)
        for target, items in enumerate(by_target)
        for value in wire.pack(source, items, deployment.limits.record)
    ]
    if records:
        yield Produce(records)
