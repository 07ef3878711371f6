"""What is left of a story besides its lines: logs, what the sinks hold, and what replaying them gives. The judge reads it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from schemas.definitions import Definitions
from schemas.records import Batch, Record
from schemas.times import parse_rfc3339
from schemas.windows import WindowKey
from settings import Settings
from simulation.cluster import Cluster, Log
from simulation.cosmos import TwoRegions, Write
from simulation.servicebus import ServiceBus
from streams.closing import Closing
from streams.metering import Metering, Topics
from tables.closing import ClosingTable
from tables.durable import Durable, Table
from tables.effects import ReadBounds, ReadCommitted, ReadLog
from tables.metering import MeteringTable


class Evidence:
    """Everything of a world that outlives its story."""

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        sources: int,
        targets: int,
        cluster: Cluster,
        servicebus: ServiceBus,
        cosmos: TwoRegions,
    ) -> None:
        self.settings = settings
        self.definitions = definitions
        self.sources, self.targets = sources, targets
        self.cluster = cluster
        self.servicebus = servicebus
        self.cosmos = cosmos
        self._ledger: set[str] = set()
        self._shown: dict[str, int] = {}
        self._ledger_read = 0
        self._messages: set[str] = set()
        self._messages_read = 0

    def plain_metering(self, source: int) -> Metering:
        """A stage that has never seen a changelog."""
        s = self.settings
        table = MeteringTable(self.targets, self.definitions.stream.correct_for_ms)
        durable = self._durable(table, s.usage_topic, s.metering_state_topic, source, self.sources)
        topics = Topics(s.usage_topic, s.partials_topic, s.dead_letters_topic)
        return Metering(self.definitions, topics, source, self.targets, durable, table)

    def plain_closing(self, partition: int) -> Closing:
        """A stage that has never seen a changelog."""
        s = self.settings
        table = ClosingTable(self.sources, self.definitions.stream.correct_for_ms, ("servicebus", "cosmos"))
        durable = self._durable(table, s.partials_topic, s.closing_state_topic, partition, self.targets)
        return Closing(self.definitions, s.partials_topic, partition, durable, table)

    def recovered_closing(self, partition: int, committed: int, changelog_end: int) -> Closing:
        """CLOSING recovered as an owner would have been when the changelog ended there and the offset was that."""
        stage, changelog = self.plain_closing(partition), self.closing_changelog(partition)
        source = self.partials_log(partition)
        recovery = stage.recover()
        answer: object = None
        while True:
            try:
                effect = recovery.send(answer)
            except StopIteration:
                return stage
            match effect:
                case ReadCommitted():
                    answer = committed
                case ReadBounds(topic):
                    answer = (0, source.end if topic == self.settings.partials_topic else changelog_end)
                case ReadLog(_, offset, end):
                    answer = [(record.offset, record.value or b"") for record in changelog.records[offset:end]]
                case _:
                    answer = None

    def metering_changelog(self, source: int) -> Log:
        """One partition of METERING's changelog."""
        return self.cluster.logs[self.settings.metering_state_topic, source]

    def closing_changelog(self, partition: int) -> Log:
        """One partition of CLOSING's changelog."""
        return self.cluster.logs[self.settings.closing_state_topic, partition]

    def replay_usage(self) -> dict[WindowKey, tuple[Decimal, int, int]]:
        """Final value, events and digest of every window, from the usage log and nothing else, through both stages."""
        closing = [self.plain_closing(partition) for partition in range(self.targets)]
        offsets = [0] * self.targets
        for source in range(self.sources):
            stage = self.plain_metering(source)
            records = self.usage_log(source).records
            last = records[-1] if records else None
            for record in records:
                stage.step(Batch(record.offset, record.offset + 1, [record]))
                if record.offset % 4 and record is not last:
                    continue
                emission = stage.emit()
                try:
                    effect = next(emission)
                    while True:
                        for out in effect.records:  # type: ignore[union-attr]
                            if out.topic == self.settings.partials_topic:
                                at = offsets[out.partition]
                                offsets[out.partition] += 1
                                closing[out.partition].step(Batch(at, at + 1, [Record(at, 0, out.key, out.value)]))
                        effect = emission.send([0] * len(effect.records))  # type: ignore[union-attr]
                except StopIteration:
                    pass
        found = {}
        for joining in closing:
            for body in joining.revised:
                key = WindowKey(
                    str(body["subject"]), str(body["meter"]), tuple(sorted(body["group"].items())),  # type: ignore[attr-defined]
                    parse_rfc3339(str(body["window_start"])), str(body["window_size"]),
                )  # fmt: skip
                found[key] = _said(body)
            for key in joining.table.windows:
                shown = joining.describe(key)
                assert shown is not None
                found[key] = _said(shown)
        return found

    def usage_log(self, source: int) -> Log:
        """One partition of usage."""
        return self.cluster.logs[self.settings.usage_topic, source]

    def partials_log(self, partition: int) -> Log:
        """One partition of the partials."""
        return self.cluster.logs[self.settings.partials_topic, partition]

    def dead_letters(self) -> list[Record]:
        """What was written to the dead-letter topic."""
        return self.cluster.logs[self.settings.dead_letters_topic, 0].records

    def messages(self, after: int = 0) -> list[tuple[float, bytes]]:
        """What Service Bus took, but for the first `after`: when, and the body; in the order of arrival."""
        return [(message.at_s, message.body) for message in self.servicebus.messages[after:]]

    def sink_has(self, sink: str, message_id: str) -> bool:
        """Whether a revision is really in a sink."""
        if sink == "servicebus":
            return message_id in self._sent_to_servicebus()
        self._read_history()
        return message_id in self._ledger

    def shows(self, window_id: str) -> int:
        """The highest revision of a window that some region of Cosmos DB has shown as its document; 0 for none."""
        self._read_history()
        return self._shown.get(window_id, 0)

    def _read_history(self) -> None:
        for write in self.cosmos.history[self._ledger_read :]:
            if write.container == self.settings.cosmos_revisions_container:
                self._ledger.add(write.id)
            else:
                self._shown[write.id] = max(self._shown.get(write.id, 0), write.revision)
        self._ledger_read = len(self.cosmos.history)

    def _sent_to_servicebus(self) -> set[str]:
        for message in self.servicebus.messages[self._messages_read :]:
            self._messages.add(message.message_id)
        self._messages_read = len(self.servicebus.messages)
        return self._messages

    def cosmos_documents(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Region -> id -> document."""
        return {name: region.container(self.settings.cosmos_container) for name, region in self.cosmos.regions.items()}

    def document_writes(self) -> list[Write]:
        """Every change of a document that a region has shown, in order."""
        return [write for write in self.cosmos.history if write.container == self.settings.cosmos_container]

    def cosmos_ledger(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Region -> id -> ledger item."""
        ledger = self.settings.cosmos_revisions_container
        return {name: region.container(ledger) for name, region in self.cosmos.regions.items()}

    def _durable(self, table: Table, source: str, changelog: str, partition: int, partitions: int) -> Durable:
        return Durable(table, source, changelog, partition, partitions, self.definitions.digest, "replay")


def _said(body: dict[str, Any]) -> tuple[Decimal, int, int]:
    return Decimal(str(body["value"])), int(body["events"]), int(body["receipt"]["digest"], 16)
