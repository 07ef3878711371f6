"""How a fault of the plan befalls the world."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from simulation import plan as plans
from simulation.cluster import Place
from simulation.plan import Fault
from simulation.wire import Kind, Misfortune

if TYPE_CHECKING:
    from simulation.process import Process
    from simulation.world import World


def befall(world: World, fault: Fault) -> None:
    if world.calm:
        return
    world.note(f"fault {fault}")
    process = world.processes[fault.who % len(world.processes)] if world.processes else None
    kind = fault.kind
    if process is not None and kind == "kill":
        process.kill(fault.for_s)
    elif process is not None and kind == "freeze":
        process.freeze(fault.for_s)
    elif process is not None and kind == "terminate":
        process.terminate(fault.for_s)
    elif process is not None and kind == "rejoin":
        process.rejoin()
    elif process is not None and kind == "clock_jump":
        process.clock.skew_ms += int(fault.for_s * 1000)
    elif kind == "broker_clock_jump":
        world.broker_skew_ms += int(fault.for_s * 1000)
    elif kind == "pause":
        place = _place(world, fault.who)
        world.paused.add(place)
        world.later(fault.for_s, world.paused.discard, place)
    elif process is not None and kind == "drop":
        process.drop_next_batch(_place(world, fault.who))
    elif kind in plans.CUTS:
        _cut(world, fault)
    else:
        _service_down(world, kind, fault)


def _service_down(world: World, kind: str, fault: Fault) -> None:
    if kind == "broker_down":
        world.broker_is_down = True
        world.later(fault.for_s, setattr, world, "broker_is_down", False)
    elif kind == "servicebus_down":
        world.servicebus.set_down(True)
        world.later(fault.for_s, world.servicebus.set_down, False)
    else:
        names = list(world.cosmos.regions)
        for name in names if kind == "cosmos_down" else [names[fault.who % len(names)]]:
            world.cosmos.take_down(name, "unavailable" if fault.who % 3 == 0 else "refused")
            world.later(fault.for_s, world.cosmos.bring_up, name)


def _cut(world: World, fault: Fault) -> None:
    """Retention, or a hand, takes something that is still needed, or is not."""
    s, who = world.settings, fault.who
    committed = world.cluster.group.committed
    if fault.kind == "cut_changelog":
        topic, count = (s.metering_state_topic, world.sources) if who % 2 else (s.closing_state_topic, world.targets)
        log = world.cluster.logs[topic, who // 2 % count]
        begin = log.begin
        world.cluster.cut(topic, who // 2 % count, world.network.randint(0, log.end))
        if log.begin > begin:
            source = s.usage_topic if who % 2 else s.partials_topic
            world.taken_from.add(f"{source}[{who // 2 % count}]")
        return
    topic, count = (s.partials_topic, world.targets) if fault.kind == "cut_partials" else (s.usage_topic, world.sources)
    place = (topic, who % count)
    if fault.kind == "forget_offset":
        if committed.pop(place, None) is not None:
            world.taken_from.add(f"{topic}[{place[1]}]")
        world.judge.offset_forgotten(place)
        return
    if place in committed:  # what was gone before a partition's first act was never this deployment's
        log = world.cluster.logs[place]
        world.cluster.cut(*place, world.network.randint(committed[place], log.end))
        if log.begin > committed[place]:
            world.taken_from.add(f"{topic}[{place[1]}]")


def _place(world: World, number: int) -> Place:
    places = [place for place in world.cluster.logs if place[0] in world.cluster.group.topics]
    return places[number % len(places)]


class Weather:
    """What befalls the calls of one process's sinks: the plan's placed faults."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._rng = random.Random(f"{world.seed}/weather/{process.name}")

    def befalls(self, service: str, operation: str) -> Misfortune | None:
        """The misfortune of the call that is made now, or None."""
        _, fault = self._world.next_effect(self._process.name, service, operation)
        if fault is None:
            return None
        wait_s = self._rng.choice([None, self._rng.uniform(0.1, 6.0)])
        if fault.kind == "crash_before":
            self._process.kill(fault.for_s)
            return Misfortune(Kind.LOST_REQUEST)
        if fault.kind == "rebalance":
            self._process.rejoin()
            return None
        if fault.kind in ("frozen_before", "frozen_after"):
            self._process.freeze(fault.for_s)  # with its request on the way, or not yet: a service cannot tell
            return None
        if fault.kind == "crash_after":
            self._world.later(0.2, self._process.kill, fault.for_s)
            return Misfortune(Kind.LOST_ANSWER)
        if fault.kind == "throttled":
            return Misfortune(Kind.THROTTLED, retry_after_s=min(fault.for_s, 10.0))
        kind = {
            "lost": Kind.LOST_REQUEST,
            "late": Kind.LATE_REQUEST,
            "unanswered": self._rng.choice([Kind.LOST_ANSWER, Kind.LOST_ANSWER, Kind.UNSURE]),
            "twice": Kind.TWICE,
        }.get(next((fate for fate in fault.fates if fate != "kept"), "unanswered"), Kind.UNAVAILABLE)
        return Misfortune(kind, wait_s, self._rng.uniform(1, 90))
