"""What web asks of the process it runs in. Implemented by `streams/view.py`; faked by nobody but its tests.

Every method but `stored_window` answers at once, from memory, for the partitions this worker owns now.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Protocol

Json = dict[str, Any]


class View(Protocol):
    """One worker's own view of the deployment."""

    @property
    def worker_url(self) -> str:
        """Advertised base URL of this worker, no slash at the end."""

    def peers(self) -> Mapping[str, Mapping[str, list[int]]]:
        """Advertised URL -> topic -> partitions owned, this worker included; as of the group's last assignment."""

    @property
    def usage_partitions(self) -> int:
        """N: how many partitions the usage topic has; 0 until the broker told."""

    @property
    def partials_partitions(self) -> int:
        """M: how many partitions the partials topic has; 0 until the broker told."""

    def totals(
        self,
        subject: str | None,
        meter: str | None,
        window_size: str | None,
        *,
        state: str | None = None,
        after: tuple[str, str] | None = None,
    ) -> Iterable[Json]:
        """Windows in memory of the owned partials partitions: the document's fields and `state`: `open|closed|sealed`.

        In the order of (subject, window id), only those above `after` and of that `state`; described one by one as they
        are taken, though all are looked at for each call. A sealed one is there while its last revision is not everywhere.

        An open window's `revision` is 0 and its `delta` its whole value (nothing left yet); a closed one with changes
        that have not left as a revision shows the last revision's number, the current value, and `pending: true`.
        """

    def window(self, window_id: str) -> Json | None:
        """One window in memory, with receipt and state, or None. A sealed one is there while its last revision is not
        everywhere."""

    async def stored_window(self, window_id: str, subject: str | None) -> Json | None:
        """The document in Cosmos (a sealed window is no longer in memory), or None. Raises SinkError where Cosmos is down."""

    async def stored_totals(
        self, subject: str, meter: str | None, window_size: str | None, *, after: str | None = None, limit: int = 1000
    ) -> list[Json]:
        """The documents of one subject in Cosmos, with `state: "sealed"` (the caller drops those it has from memory).

        In order of `id`, only those with an id above `after`, at most `limit`: one page of one partition key, so that a
        subject with years of windows is never read whole. Empty where no Cosmos is configured; raises SinkError where it
        is down.
        """

    def audit(self) -> dict[str, dict[str, int]]:
        """Usage partition -> ledger: read, counted, duplicate, unmatched, dead_lettered, late, ticks, ticks_refused, keyless,
        and per reason `dead_lettered_<reason>`; folded so far."""

    def alarms(self) -> list[Json]:
        """What must be looked at: `{"kind", "where", "what", "hint"}`; imbalances, refused revisions, stopped partitions."""

    def status(self) -> Json:
        """`{"worker", "version", "metering": {partition: task}, "closing": {partition: task}, "sinks": {name: sink}}`.

        task: `state` (`restoring|running|stopped`), `restored` (0..1), `reason` and `hint` where stopped, `position`, `end`,
        `lag` (records behind the log's end), `committed`, `watermark` (RFC 3339 or null), `gaps` (offsets never counted:
        `from`, `to`, `accepted_at`, `reason`), for metering `ids`, `partials`;
        for closing `windows_open`, `windows_closed`, `revisions`, `outbox` {sink: waiting}, `delivered` {sink: n},
        `parked` [..].
        sink: `state` (`up|retrying|unconfigured`), `error`, `retry_in_s`, `waiting`, `delivered`, `parked`.
        """

    def dead_letters(self) -> list[Json]:
        """The newest dead letters of the owned usage partitions, newest first, at most 50: reason, detail, topic, partition,
        offset, index, event_id, time."""

    def recent_revisions(self) -> list[Json]:
        """The newest revisions of the owned partials partitions, newest first, at most 100: documents."""

    def live(self) -> AsyncIterator[Json]:
        """Changes of owned windows from now on: items as in `totals`, coalesced per window, plus `provisional: bool`.

        A slow reader gets the newest state of each window, never an unbounded backlog; `{"dropped": n}` in place of an
        item says that the changes of n windows were not given.
        """
