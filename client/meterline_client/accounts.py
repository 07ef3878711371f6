"""Where every event is that was ever accepted: counted, so that none can be missing without being seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meterline_client.errors import MeterlineClientError
from meterline_client.failures import Failures
from meterline_client.outcomes import Failure
from meterline_client.packing import Envelope


class Ledger(NamedTuple):
    """Events since the start. `accepted + recovered = delivered + failed + pending`, at any time."""

    accepted: int
    recovered: int
    delivered: int
    failed: int
    pending: int


class Accounts:
    """The counts of one producer. memory_bytes: what the events in memory take. failures: what was given up."""

    def __init__(self, on_failure: Callable[[Failure], object] | None) -> None:
        self.accepted = 0
        self.recovered = 0
        self.delivered = 0
        self.pending = 0
        self.memory_bytes = 0
        self.failures = Failures(on_failure)

    def ledger(self) -> Ledger:
        """The counts as they are now."""
        ledger = Ledger(self.accepted, self.recovered, self.delivered, self.failures.events, self.pending)
        assert self.accepted + self.recovered == self.delivered + ledger.failed + self.pending, ledger
        return ledger

    def settle(self, envelope: Envelope, error: MeterlineClientError | None) -> None:
        """The events of an envelope are delivered, or have failed because of the error."""
        if error is None:
            self.delivered += envelope.events
        else:
            self.failures.add(envelope, error)
        self.pending -= envelope.events
        self.memory_bytes -= envelope.memory_bytes
