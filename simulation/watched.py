"""Production's worker, watched: the judge looks on after every step, every recovery and every accepted checkpoint.

Nothing of what the worker does is changed; the judge's finding ends the story and is never thrown into the code it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from schemas.records import Batch
from streams.closing import Closing
from streams.metering import Metering
from streams.tasks import ClosingTask, MeteringTask
from streams.worker import Worker
from tables.effects import Procedure
from transport.membership import Membership

if TYPE_CHECKING:
    from simulation.world import World


class WatchedWorker(Worker):
    """See `streams.worker.Worker`. world: whom to tell."""

    world: World

    def watch(self, world: World) -> None:
        """From now on, at the world's pace, since none lives a day."""
        self.world = world
        self._pace = world.scale.pace

    def _begin_metering(self, partition: int, membership: Membership) -> None:
        super()._begin_metering(partition, membership)
        _watch_metering(self.world, self.metering[partition])

    def _begin_closing(self, partition: int, membership: Membership) -> None:
        super()._begin_closing(partition, membership)
        _watch_closing(self.world, self.closing[partition].task)


def _watch_metering(world: World, task: MeteringTask) -> None:
    judge, stage = world.judge, task.metering
    _after_step(stage, lambda: world.judged(judge.metering_stepped, task.partition, stage))
    _after_procedure(task, "recover", lambda _: world.judged(judge.metering_recovered, task))
    _after_procedure(
        task, "checkpoint", lambda done: world.judged(judge.metering_accepted, task.partition, stage) if done else None
    )
    _watch_stop(world, task)


def _watch_closing(world: World, task: ClosingTask) -> None:
    judge, stage = world.judge, task.closing
    _after_stepping(stage, lambda: world.judged(judge.closing_stepped, task.partition, stage))
    _after_procedure(task, "recover", lambda _: world.judged(judge.closing_recovered, task))
    _after_procedure(
        task, "checkpoint", lambda done: world.judged(judge.closing_accepted, task.partition, stage) if done else None
    )
    _watch_stop(world, task)


def _after_step(stage: Metering, then: Callable[[], None]) -> None:
    step = stage.step

    def watched(batch: Batch) -> None:
        step(batch)
        then()

    stage.step = watched  # type: ignore[method-assign]


def _after_stepping(stage: Closing, then: Callable[[], None]) -> None:
    stepping = stage.stepping

    def watched(batch: Batch) -> Iterator[None]:
        yield from stepping(batch)
        then()

    stage.stepping = watched  # type: ignore[method-assign]


def _after_procedure(task: MeteringTask | ClosingTask, name: str, then: Callable[[Any], object]) -> None:
    procedure = getattr(task, name)

    def watched(**arguments: Any) -> Procedure[Any]:
        result = yield from procedure(**arguments)
        then(result)
        return result

    setattr(task, name, watched)


def _watch_stop(world: World, task: MeteringTask | ClosingTask) -> None:
    stop = task._stop

    def watched(error: Any) -> None:
        stop(error)
        world.note(f"{error}")
        way = getattr(error, "way", "other-definitions")
        world.judged(world.judge.stopped, f"{task.topic}[{task.partition}]", error.what, way)

    task._stop = watched  # type: ignore[method-assign]
