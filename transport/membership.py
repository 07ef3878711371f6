"""The membership a worker has in its group, and the group's map of who owns what.

A membership is the generation and member id that one assignment began with. Everything a partition does is done under
it; a commit is sent with it, whatever aiokafka thinks by then (design §2.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

Owners = Mapping[str, Mapping[str, list[int]]]
"""Advertised URL of a worker -> topic -> the partitions it owns."""


@dataclass(frozen=True, slots=True)
class Membership:
    """epoch: counts this process's assignments. generation, member_id: what the group coordinator gave."""

    epoch: int
    generation: int
    member_id: str


class DirectoryAssignor(RoundRobinPartitionAssignor):  # type: ignore[misc]
    """Round robin, and on the way the group learns every member's URL and partitions.

    Each member's metadata carries its advertised URL as user data, each assignment the whole map: Kafka's own fields,
    opaque to the broker, so any worker can find its peers without another service. Make one class per consumer with
    `directory_assignor`: aiokafka calls it through class methods only.
    """

    name = "meterline-roundrobin"
    url = ""
    owners: Owners = {}  # noqa: RUF012 - replaced whole, per class made by directory_assignor

    @classmethod
    def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member tells the group's leader."""
        return ConsumerProtocolMemberMetadata(cls.version, list(topics), cls.url.encode())

    @classmethod
    def assign(
        cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """The leader's decision, with the map of owners in every member's answer."""
        assignments = super().assign(cluster, members)
        owners: dict[str, dict[str, list[int]]] = {}
        for member_id, assignment in assignments.items():
            url = bytes(members[member_id].user_data or b"").decode(errors="replace")
            mine = owners.setdefault(url, {})
            for topic, partitions in assignment.assignment:
                mine.setdefault(topic, []).extend(partitions)
        data = orjson.dumps(owners)
        return {
            member_id: ConsumerProtocolMemberAssignment(assignment.version, assignment.assignment, data)
            for member_id, assignment in assignments.items()
        }

    @classmethod
    def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Keeps the map that came with this member's assignment."""
        if assignment.user_data:
            cls.owners = orjson.loads(bytes(assignment.user_data))


def directory_assignor(url: str) -> Any:
    """An assignor class for one consumer, which advertises `url`."""
    return type("Assignor", (DirectoryAssignor,), {"url": url, "owners": {}})
