"""Whatever is written where and whenever it crosses: empty queues mean equal regions, and last-writer-wins is kept."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from local.cosmos.regions import Siblings, Version, receive, winner, write

# One step: region 0 or 1 writes (None deletes), or takes one change from the other's queue.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), st.one_of(st.none(), st.integers(0, 3))),
        st.tuples(st.just("take"), st.integers(0, 1), st.none()),
    ),
    max_size=30,
)


class World:
    """Two replicas of one item and the queues between them."""

    def __init__(self) -> None:
        self.held: list[Siblings] = [(), ()]
        self.queues: list[deque[Version]] = [deque(), deque()]
        self.written = [0, 0]

    def write(self, region: int, revision: int | None) -> Version:
        self.written[region] += 1
        body = None if revision is None else f"{region}.{self.written[region]}".encode()
        self.held[region], version = write(
            self.held[region],
            region,
            self.written[region],
            priority=float(revision or 0),
            ts=0,
            body=body,
        )
        self.queues[1 - region].append(version)
        return version

    def take(self, region: int) -> None:
        if self.queues[region]:
            self.held[region] = receive(self.held[region], self.queues[region].popleft())

    def settle(self) -> None:
        while any(self.queues):
            self.take(0)
            self.take(1)


@given(STEPS)
def test_both_regions_show_the_same_once_the_queues_are_empty(steps: list[tuple[str, int, int | None]]) -> None:
    world = World()
    for kind, region, revision in steps:
        world.write(region, revision) if kind == "write" else world.take(region)
    world.settle()
    assert winner(world.held[0]) == winner(world.held[1])


@given(STEPS)
def test_a_change_that_arrives_twice_changes_nothing(steps: list[tuple[str, int, int | None]]) -> None:
    world = World()
    for kind, region, revision in steps:
        if kind == "write":
            world.write(region, revision)
        elif world.queues[region]:
            again = world.queues[region][0]
            world.take(region)
            assert receive(world.held[region], again) == world.held[region]


@given(STEPS)
def test_a_region_holds_at_most_one_version_of_each_origin(steps: list[tuple[str, int, int | None]]) -> None:
    world = World()
    for kind, region, revision in steps:
        world.write(region, revision) if kind == "write" else world.take(region)
        for held in world.held:
            assert len({version.origin for version in held}) == len(held) <= 2


def test_of_two_concurrent_writes_the_higher_number_wins() -> None:
    world = World()
    world.write(0, 3)
    higher = world.write(1, 5)
    world.settle()
    assert winner(world.held[0]) == winner(world.held[1]) == higher


def test_of_a_concurrent_delete_and_a_write_the_delete_wins() -> None:
    world = World()
    world.write(0, None)
    world.write(1, 5)
    world.settle()
    assert all((seen := winner(held)) is not None and seen.body is None for held in world.held)


def test_a_later_lower_write_of_the_same_history_stands_in_both_regions() -> None:
    """Last-writer-wins is for concurrent writes only; a plain overwrite by an older revision does its damage."""
    world = World()
    world.write(0, 5)
    world.settle()
    lower = world.write(1, 3)
    world.settle()
    assert winner(world.held[0]) == winner(world.held[1]) == lower


def test_a_write_after_a_deletion_that_it_knew_of_is_a_new_item() -> None:
    world = World()
    world.write(0, 5)
    world.write(0, None)
    world.settle()
    anew = world.write(1, 1)
    world.settle()
    assert winner(world.held[0]) == winner(world.held[1]) == anew
