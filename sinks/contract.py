"""The contract of a sink: `deliver` a batch, get one outcome per revision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from schemas.windows import Revision


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one revision.

    kind: `delivered` (the sink has it, now or from an earlier try) · `retry` (unknown or not done; send again, same
    content, same id) · `refused` (the sink will never take it: it is parked, shown and alarmed, design §6).
    reason: for people; never holds a secret. retry_after_s: what the sink asked for (429, 50009), or None.
    """

    kind: Literal["delivered", "retry", "refused"]
    reason: str = ""
    retry_after_s: float | None = None


DELIVERED = Outcome("delivered")


def retry(reason: str, retry_after_s: float | None = None) -> Outcome:
    """The outcome of a revision that must be sent again."""
    return Outcome("retry", reason, retry_after_s)


def refused(reason: str) -> Outcome:
    """The outcome of a revision that the sink will never take."""
    return Outcome("refused", reason)


class Sink(Protocol):
    """A place that revisions go to. Idempotent by id: delivering twice is delivering once.

    A sink never raises for what the remote side does: every failure is an outcome of the revisions it touched.
    Revisions of one window arrive in order, within a batch and between batches; a sink keeps that order.
    """

    name: str
    """`servicebus` or `cosmos`: the key of its marks in the outbox and the label in metrics."""

    batch_max: int
    """How many revisions `deliver` takes at once, at most."""

    async def open(self) -> None:
        """Connect lazily; must not fail because the remote side is down."""

    async def deliver(self, revisions: Sequence[Revision]) -> list[Outcome]:
        """Hand over. Returns one outcome per revision, in the same order. Bounded in time (every call has a timeout)."""

    async def close(self) -> None:
        """Let go of connections. Idempotent."""


class WindowReader(Protocol):
    """A sink that can be read: what web asks for windows that are no longer in memory. `CosmosSink` is one."""

    async def read_window(self, window_id: str, subject: str | None) -> dict[str, Any] | None:
        """The document of a window, or None. subject: its partition key, where the asker knows it; else all are asked.

        Raises SinkError where the store cannot be asked.
        """

    async def read_subject(
        self, subject: str, meter: str | None, window_size: str | None, *, after: str | None = None, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Documents of one subject in the order of `id`, those above `after`, at most `limit`. Raises SinkError."""
