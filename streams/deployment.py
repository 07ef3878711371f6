"""What a deployment consists of, as far as the state of its partitions goes: every stage of it, made empty."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from schemas.definitions import Definitions
from streams.closing import Closing
from streams.metering import Metering, Topics
from tables.closing import ClosingTable
from tables.durable import Durable, Limits
from tables.metering import MeteringTable

StageName = Literal["metering", "closing"]
SINKS = ("servicebus", "cosmos")
"""Every sink there can be: a revision that one of them lacks is kept, whatever a command is configured with."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """sources, targets: partitions of usage and of partials. writer: unique name of whoever writes changelogs with it."""

    definitions: Definitions
    topics: Topics
    metering_state: str
    closing_state: str
    sources: int
    targets: int
    writer: str
    limits: Limits = field(default_factory=Limits)

    def metering(self, partition: int) -> Metering:
        """METERING of a usage partition, empty."""
        table = MeteringTable(self.targets, self.definitions.stream.correct_for_ms)
        durable = self._durable(table, self.topics.usage, self.metering_state, partition, self.sources)
        return Metering(self.definitions, self.topics, partition, self.targets, durable, table)

    def closing(self, partition: int) -> Closing:
        """CLOSING of a partials partition, empty."""
        table = ClosingTable(self.sources, self.definitions.stream.correct_for_ms, SINKS)
        durable = self._durable(table, self.topics.partials, self.closing_state, partition, self.targets)
        return Closing(self.definitions, self.topics.partials, partition, durable, table)

    def stage(self, stage: StageName, partition: int) -> Metering | Closing:
        """Either, by its name."""
        return self.metering(partition) if stage == "metering" else self.closing(partition)

    def partitions(self, stage: StageName) -> range:
        """Its partitions."""
        return range(self.sources if stage == "metering" else self.targets)

    def _durable(
        self, table: MeteringTable | ClosingTable, source: str, log: str, partition: int, partitions: int
    ) -> Durable:
        return Durable(table, source, log, partition, partitions, self.definitions.digest, self.writer, self.limits)
