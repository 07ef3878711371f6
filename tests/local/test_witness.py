"""The usage log against what was sent: nothing acknowledged is missing, and nobody else wrote but the workers' clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from local.ledger import Ledger
from local.reading import Record, Rules
from local.witness import Court, Witness
from schemas.events import tick
from settings import Settings
from transport.sending import UsageProducer

RULES = Rules.of({"meters": [{"slug": "requests", "event_type": "api", "aggregation": "count"}]})


class Log:
    """A usage log of one partition, each value appended once per reading."""

    def __init__(self, *readings: list[bytes]) -> None:
        self._readings = list(readings)
        self._offset = 0

    async def read(self) -> AsyncIterator[Record]:
        for value in self._readings.pop(0):
            yield Record(0, self._offset, 10_000, value)
            self._offset += 1


async def court(sent: list[bytes], *readings: list[bytes], monkeypatch: Any) -> Court:
    async def taken(*_: object) -> None:
        """The broker has it."""

    monkeypatch.setattr(UsageProducer, "send", taken)
    witness = Witness(Settings(kafka_bootstrap="127.0.0.1:1"))
    for value in sent:
        await witness.send(0, b"key", value)
    assert witness.records == len(sent)
    log: Any = Log(*readings)
    result = Court(log, Ledger(RULES), witness.sent)
    for _ in readings:
        await result.sit()
    return result


async def test_what_was_sent_is_there_and_a_resend_is_no_difference(monkeypatch: Any) -> None:
    found = await court([b"1", b"2", b"2"], [b"1", b"2"], [b"2", b"1"], monkeypatch=monkeypatch)
    assert found.verdict() == []
    assert found.copies == 1
    assert found.ends == {0: 4}


async def test_a_lost_record_and_a_foreign_one_are_told(monkeypatch: Any) -> None:
    found = await court([b"1", b"2", b"2"], [b"1", b"2", b"3"], monkeypatch=monkeypatch)
    assert [(mismatch.what, mismatch.found) for mismatch in found.verdict()] == [
        ("records acknowledged that are not there", 1),
        ("records that nobody sent", 1),
    ]


async def test_ticks_of_workers_are_theirs_and_those_after_a_successors_are_a_zombies(monkeypatch: Any) -> None:
    ticks = [tick(5000, "meterline/usage/0", name) for name in ("a-1", "a-2", "b-1", "a-3", "b-2")]
    found = await court([], ticks, monkeypatch=monkeypatch)
    assert found.verdict() == []
    assert (found.ticks, found.zombie_ticks) == (5, 1)
    assert Counter(found.tickers[0]) == {"a": 3, "b": 2}
