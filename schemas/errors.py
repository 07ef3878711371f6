"""The errors of meterline: one tree, and a caller branches on data, not on names.

::

    MeterlineError                     retryable: bool, hint: what to do
    ├── ConfigurationError             a setting or a meters file is wrong; never retryable
    ├── DataError                      one event is at fault: topic, partition, offset, index, event_id
    ├── BrokerError                    Kafka / Event Hubs did not do what was asked
    │   ├── CommitRefused              this worker's membership is over
    │   └── SendFailed                 a record was not acknowledged
    ├── PartitionStopped               a partition must not go on; says why and how to mend it
    ├── DiskFailed                     this worker's disk did not take or give back what a partition remembers
    ├── NotMended                      a mending that would not be exact here
    └── SinkError                      a sink is down or refuses
"""

from __future__ import annotations

from typing import Literal

Way = Literal[
    "records-removed-before-they-were-counted",
    "a-log-made-anew",
    "an-empty-changelog",
    "a-changelog-cut-below-its-snapshot",
    "checkpoints-that-do-not-link",
    "a-changelog-without-an-offset",
    "an-offset-before-the-snapshot",
    "a-foreign-record-in-a-changelog",
    "a-changelog-that-cannot-be-read",
    "another-number-of-partitions",
    "other-definitions",
    "a-foreign-record-among-the-partials",
    "a-record-that-cannot-be-folded",
]
"""Every way in which a partition may stop; each is a section of docs/mending.md."""


class MeterlineError(Exception):
    """Root of all. `retryable`: the same call may succeed later. `hint`: what the reader should do."""

    retryable: bool = False

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} -> {self.hint}" if self.hint else self.what


class ConfigurationError(MeterlineError):
    """A setting, a meters file or a topic does not fit. `where` names file and line, or the setting."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(f"{where}: {what}" if where else what, hint=hint)
        self.where = where


class DataError(MeterlineError):
    """One event cannot be counted. `reason` is the fate's code, `detail` says what was found and what was expected."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class BrokerError(MeterlineError):
    """The broker did not do what was asked of it."""

    retryable = True


class SendFailed(BrokerError):
    """A record was not acknowledged; what it carried may or may not be in the log. Ends the membership (design §2.4)."""


class CommitRefused(BrokerError):
    """An offset commit was refused or lost; the membership it belongs to is over (design §2.4)."""


class PartitionStopped(MeterlineError):
    """A partition must not go on, because counting on would give a wrong number (design §2.3).

    way: which section of docs/mending.md says how to mend it; the hint names it.
    """

    def __init__(self, topic: str, partition: int, what: str, *, hint: str, way: Way) -> None:
        super().__init__(f"{topic}[{partition}] stopped: {what}", hint=f"{hint} (docs/mending.md#{way})")
        self.topic = topic
        self.partition = partition
        self.way = way


class DiskFailed(MeterlineError):
    """A worker's disk did not take known ids or give them back: what is a duplicate cannot be told, so the partition stops."""


class NotMended(MeterlineError):
    """A mending was asked for that is not proven to be exact here, or not needed; nothing was changed."""


class SinkError(MeterlineError):
    """A sink cannot be reached or used at all. Single refused revisions are outcomes, not errors."""

    retryable = True
