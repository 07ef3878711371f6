"""What stops a partition whose logs do not prove its state: what is wrong, and what to do about it (design §2.3).

Each is a section of docs/mending.md; `tables/durable.py` decides when it is so.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.errors import ConfigurationError, PartitionStopped, Way


class DefinitionsDiffer(ConfigurationError):
    """The state was counted with other definitions: this worker must not go on (design §3)."""


@dataclass(frozen=True, slots=True)
class Stops:
    """The stops of one partition. stage: `metering` or `closing`; source, changelog: the topics it reads and recovers from."""

    stage: str
    partition: int
    source: str
    changelog: str

    def records_removed(self, committed: int, begin: int) -> PartitionStopped:
        """The source log begins behind what is still to be counted."""
        return self._stop(
            f"the committed offset {committed} is no longer in {self.source}, which begins at {begin}: "
            f"{begin - committed} offsets were removed before they were counted",
            "do not reset the offset: counting on would bill too little without saying so. With the workers stopped "
            f"{self._mend('accept-gap', f'--to {begin}')} goes on behind the gap and puts it into the audit",
            "records-removed-before-they-were-counted",
        )

    def log_made_anew(self, committed: int, end: int) -> PartitionStopped:
        """The source log ends before what was counted."""
        return self._stop(
            f"the committed offset {committed} lies beyond the end of {self.source}, {end}",
            "the topic was made anew or belongs to another deployment: use a new METERLINE_APP_ID with new topics",
            "a-log-made-anew",
        )

    def changelog_empty(self, committed: int) -> PartitionStopped:
        """Something was counted, and nothing says what."""
        return self._stop(
            f"there is a committed offset ({committed}) but the changelog {self.changelog} is empty",
            "retention removed the state, or the topic was made anew; with the workers stopped "
            f"{self._mend('rebuild')} folds {self.source} again, where that still holds everything",
            "an-empty-changelog",
        )

    def changelog_cleared(self, begin: int) -> PartitionStopped:
        """Nobody says what was counted, and there was somebody."""
        return self._stop(
            f"{self.changelog} held state before its offset {begin}, which was removed, and there is no committed "
            f"offset for {self.source}",
            f"with the workers stopped {self._mend('rebuild')} folds {self.source} again, where that still holds everything",
            "an-empty-changelog",
        )

    def offset_forgotten(self) -> PartitionStopped:
        """There is state, and no committed offset."""
        return self._stop(
            f"the changelog {self.changelog} holds state, but there is no committed offset for {self.source}",
            "the group's offsets expired, or METERLINE_APP_ID changed: then bring the old id back; else, with the "
            f"workers stopped, {self._mend('offset')}. Starting from nothing would overwrite true totals",
            "a-changelog-without-an-offset",
        )

    def offset_moved_back(self, committed: int, floor: int) -> PartitionStopped:
        """The committed offset is older than the newest snapshot."""
        return self._stop(
            f"the committed offset {committed} lies before the newest snapshot of {self.changelog}, which begins at {floor}",
            "the committed offset was moved back by hand; put the offset back, or, with the workers stopped, "
            f"{self._mend('offset')}",
            "an-offset-before-the-snapshot",
        )

    def changelog_cut(self, snapshot: int, begin: int) -> PartitionStopped:
        """The newest snapshot's beginning is gone."""
        return self._stop(
            f"the newest snapshot of {self.changelog} began at its offset {snapshot}, which now begins at {begin}",
            "retention cut the changelog: give it more, by far. With the workers stopped "
            f"{self._mend('rebuild')} folds {self.source} again, where that still holds everything",
            "a-changelog-cut-below-its-snapshot",
        )

    def changelog_unreadable(self, begin: int, end: int) -> PartitionStopped:
        """The broker names records and gives none."""
        return self._stop(
            f"the changelog {self.changelog} says it has records ({begin} to {end}), but none can be read",
            "look at the broker; nothing was changed. If they are gone for good, with the workers stopped "
            f"{self._mend('rebuild')}",
            "a-changelog-that-cannot-be-read",
        )

    def foreign_record(self, offset: int, error: Exception) -> PartitionStopped:
        """A record that no checkpoint of ours wrote."""
        return self._stop(
            f"record {offset} of {self.changelog} is no chunk of a checkpoint ({error})",
            "something else writes to this topic: give meterline's state topics to meterline alone; then, with the "
            f"workers stopped, {self._mend('rebuild')}",
            "a-foreign-record-in-a-changelog",
        )

    def other_partition_count(self, was: int, now: int) -> PartitionStopped:
        """The state is of a topic of another number of partitions."""
        return self._stop(
            f"the changelog {self.changelog} belongs to a {self.source} of {was} partitions; it has {now} now",
            "partition counts never change in place: keys would move. Use a new METERLINE_APP_ID with new topics",
            "another-number-of-partitions",
        )

    def unlinked(self, floor: int, committed: int, reached: set[int]) -> PartitionStopped:
        """Whole checkpoints do not lead from the snapshot to the committed offset."""
        return self._stop(
            f"the checkpoints in {self.changelog} do not lead from the snapshot at {floor} to the committed "
            f"offset {committed}; they reach {max(reached, default='not even that')}",
            "the changelog lost records or the committed offset was moved by hand: put the offset back; or, with the "
            f"workers stopped, {self._mend('offset')} or {self._mend('rebuild')}",
            "checkpoints-that-do-not-link",
        )

    def cannot_fold(self, at: int, error: Exception) -> PartitionStopped:
        """A record at or behind offset `at` raised."""
        return self._stop(
            f"a record at or behind offset {at} cannot be folded ({type(error).__name__}: {error})",
            "this is a defect of meterline: keep the log, report the record with this version, and wait for a newer one. "
            f"If you cannot wait, with the workers stopped {self._mend('accept-gap', f'--to {at + 1}')} goes on behind it and "
            "puts it into the audit",
            "a-record-that-cannot-be-folded",
        )

    def other_definitions(self) -> DefinitionsDiffer:
        """The state was counted with other meters; no stop of the partition, but of this worker."""
        return DefinitionsDiffer(
            "this partition was counted with other meters or stream settings",
            where=f"{self.source}[{self.partition}]",
            hint="start every worker with the meters file the deployment began with; changing definitions in place "
            "is not built yet: use a new METERLINE_APP_ID with new topics (docs/mending.md#other-definitions)",
        )

    def _mend(self, how: str, more: str = "") -> str:
        return f"`python app.py mend {' '.join(filter(None, (how, self.stage, str(self.partition), more)))}`"

    def _stop(self, what: str, hint: str, way: Way) -> PartitionStopped:
        return PartitionStopped(self.source, self.partition, what, hint=hint, way=way)
