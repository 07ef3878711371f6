"""What is wrong with a partition that stopped, and what mends it: `python app.py mend`. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.errors import NotMended, PartitionStopped, Way
from schemas.partials import NEVER
from schemas.windows import WindowKey
from streams.deployment import Deployment, StageName
from streams.refolding import Stuck, behind, first_offset, fold, forget, proven, told_shares
from tables.effects import Procedure, ReadBounds, ReadCommitted, rehearsed
from tables.stops import DefinitionsDiffer

AHEAD = 1_000_000
"""Records behind the committed offset that a diagnosis folds: a worker is stopped within a checkpoint's time of it."""
NEW_TOPICS = "a new METERLINE_APP_ID with new topics (docs/mending.md#new-topics)"
FOREIGN: Way = "a-foreign-record-in-a-changelog"
_OFFSET_IS_WRONG = ("checkpoints-that-do-not-link", "a-changelog-without-an-offset", "an-offset-before-the-snapshot")
_BEYOND_MENDING = ("a-log-made-anew", "another-number-of-partitions", "other-definitions")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How a partition is. state: `new` has not begun. offset: the committed one. commands: what mends it, best first."""

    stage: StageName
    partition: int
    state: Literal["fine", "new", "stopped"]
    offset: int | None
    what: str = ""
    hint: str = ""
    way: Way | None = None
    commands: tuple[str, ...] = ()


def diagnose(deployment: Deployment, stage: StageName, partition: int, ahead: int = AHEAD) -> Procedure[Diagnosis]:
    """Recovers without writing, folds `ahead` records more, and says how that ended and what mends it."""
    made = deployment.stage(stage, partition)
    committed: int | None = yield ReadCommitted()

    def stopped(error: PartitionStopped, *commands: str) -> Diagnosis:
        return Diagnosis(stage, partition, "stopped", committed, error.what, error.hint, error.way, commands)

    try:
        if not (yield from rehearsed(made.recover())):
            return Diagnosis(stage, partition, "new", committed)
        _, end = yield ReadBounds(made.durable.source_topic)
        yield from fold(made, min(end, made.table.position + ahead), forget)
    except DefinitionsDiffer as error:
        return Diagnosis(stage, partition, "stopped", committed, error.what, error.hint, "other-definitions")
    except PartitionStopped as error:
        return stopped(error, *(yield from _commands(deployment, stage, partition, error.way)))
    except Stuck as stuck:
        to = yield from behind(deployment.stage(stage, partition), stuck.offset)
        return stopped(stuck.error, f"mend accept-gap {stage} {partition} --to {to}")
    return Diagnosis(stage, partition, "fine", committed)


def refusal(found: Diagnosis, asked: str) -> NotMended:
    """Why the mending that was asked for is not the one for this partition."""
    place = f"{found.stage} {found.partition}"
    if found.state != "stopped":
        return NotMended(f"{place} is not stopped: there is nothing to mend", hint="nothing was changed")
    if found.commands:
        hint = " or ".join(f"`python app.py {command}`" for command in found.commands)
    else:
        hint = f"nothing proves its state any more: use {NEW_TOPICS}"
    return NotMended(f"`mend {asked}` does not mend {place}: {found.what}", hint=hint)


def _commands(deployment: Deployment, stage: StageName, partition: int, way: Way) -> Procedure[tuple[str, ...]]:
    durable = deployment.stage(stage, partition).durable
    begin, end = yield ReadBounds(durable.source_topic)
    if way == "records-removed-before-they-were-counted":
        committed: int = yield ReadCommitted()
        further, to = (yield from proven(durable)), begin
        if further is not None and further > committed:
            return (f"mend offset {stage} {partition}",)
        if stage == "metering":
            try:
                _, _, to = yield from sent_ahead(deployment, partition, committed, begin)
            except NotMended:
                pass  # CLOSING is to be mended first, and is shown as well
        return (f"mend accept-gap {stage} {partition} --to {to}",)
    if way in _BEYOND_MENDING:
        return ()
    offset = yield from proven(durable)
    commands = []
    if way in _OFFSET_IS_WRONG and offset is not None and offset <= end:
        commands.append(f"mend offset {stage} {partition}")
    if (yield from first_offset(durable)) is not None or (way == FOREIGN and offset is not None):
        commands.append(f"mend rebuild {stage} {partition}")
    return tuple(commands)


def sent_ahead(
    deployment: Deployment, partition: int, start: int, begin: int
) -> Procedure[tuple[dict[WindowKey, int], int, int]]:
    """What a usage partition has said of the offsets from `start` on, of which those below `begin` are gone.

    The windows and their meters' versions, the watermark, ms, and the offset behind `begin` and behind all of it.
    """
    claims: dict[WindowKey, int] = {}
    promised_ms, end = NEVER, begin
    for target in range(deployment.targets):
        try:
            watermark_ms, shares = yield from told_shares(deployment, target, partition, start)
        except (PartitionStopped, Stuck) as error:
            raise NotMended(
                f"closing {target} is stopped itself, so it is not known what usage partition {partition} has said: {error}",
                hint=f"mend closing {target} first",
            ) from error
        promised_ms = max(promised_ms, watermark_ms)
        for key, (version, through) in shares.items():
            claims[key] = version
            end = max(end, through + 1)
    return claims, promised_ms, end
