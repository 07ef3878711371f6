"""Compares what came out of the road with the generator's own ledger, decimal for decimal. Pure.

Every difference is one Mismatch: which window (or counter), what was expected, what was found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact
from typing import Any, NamedTuple

from local.ledger import DEAD, Expected, Key
from local.reading import parse_time

Document = Mapping[str, Any]
_EXACT = Context(prec=80, traps=[Inexact])
_FATES = ("counted", "duplicate", "unmatched", "dead_lettered")
_COUNTERS = ("read", "counted", "duplicate", "unmatched", "dead_lettered", "late")


class Mismatch(NamedTuple):
    """One difference between what must be and what is."""

    where: str
    what: str
    expected: object
    found: object


@dataclass(frozen=True, slots=True)
class Message:
    """One invoice message as it came out of the queue. raw: its bytes."""

    message_id: str
    session_id: str
    body: Document
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that came out: messages in the order received; documents and ledger items per Cosmos region.

    audit: the body of `/v1/audit`. dead_letters: (partition, offset, index) -> reason, as read from the topic.
    """

    messages: Sequence[Message]
    documents: Sequence[Sequence[Document]]
    revisions: Sequence[Sequence[Document]]
    audit: Mapping[str, Any]
    dead_letters: Mapping[tuple[int, int, int], str] = field(default_factory=dict)


def compare(expected: Mapping[Key, Expected], outcome: Outcome) -> list[Mismatch]:
    """Messages, documents and ledger items against the expected windows, and against each other."""
    found = list(_regions("document", outcome.documents))
    found += _regions("ledger item", outcome.revisions)
    documents = {document["window_id"]: document for document in outcome.documents[0]}
    items: dict[str, dict[int, Document]] = defaultdict(dict)
    for item in outcome.revisions[0]:
        items[item["window_id"]][item["revision"]] = item
    messages: dict[str, list[Message]] = defaultdict(list)
    for message in outcome.messages:
        messages[message.body["window_id"]].append(message)
    seen: dict[Key, str] = {}
    for window_id in {**documents, **items, **messages}:
        document = documents.get(window_id)
        if document is None:
            found.append(Mismatch(window_id, "document in Cosmos", "one", "none"))
            continue
        key = key_of(document)
        if key in seen:
            found.append(Mismatch(window_id, "another id of the same window", seen[key], window_id))
        seen[key] = window_id
        if key not in expected:
            found.append(Mismatch(window_id, "document in Cosmos", "none: nothing was counted there", _brief(document)))
            continue
        found += _window(window_id, expected[key], document, items[window_id], messages[window_id])
    missing = [key for key in expected if key not in seen]
    found += [Mismatch(_name(key), "document in Cosmos", str(expected[key].value), "none") for key in missing]
    return found


def first_copies(messages: Sequence[Message]) -> tuple[list[Message], list[Mismatch]]:
    """The first copy of every message, and each later one that is not the same, byte for byte.

    For a queue that does not look for duplicates: a revision may be sent again, and must be the same revision then.
    """
    first: dict[str, Message] = {}
    found = []
    for message in messages:
        known = first.setdefault(message.message_id, message)
        if known.raw != message.raw:
            found.append(Mismatch(message.message_id, "content of a copy", known.raw.decode(), message.raw.decode()))
    return list(first.values()), found


def compare_counters(expected: Mapping[int, Mapping[str, int]], audit: Mapping[str, Any]) -> list[Mismatch]:
    """`/v1/audit` against the ledger, partition by partition, each reason of a dead letter, and the equation."""
    found = []
    for partition, counters in expected.items():
        shown = audit["partitions"].get(str(partition), {})
        pairs = {name: (counters[name], shown.get(name)) for name in _COUNTERS}
        pairs["ticks_refused"] = (counters["tick_refused"], shown.get("ticks_refused"))
        pairs["ticks"] = (counters["tick"], shown.get("ticks"))
        pairs |= {f"dead_lettered_{name}": (counters[name], shown.get(f"dead_lettered_{name}", 0)) for name in DEAD}
        found += [
            Mismatch(f"audit, partition {partition}", name, *pair) for name, pair in pairs.items() if pair[0] != pair[1]
        ]
        fates = sum(shown.get(fate, 0) for fate in _FATES)
        if shown.get("read") != fates:
            found.append(Mismatch(f"audit, partition {partition}", "read = sum of the fates", shown.get("read"), fates))
    if audit.get("balanced") is not True:
        found.append(Mismatch("audit", "balanced", True, audit.get("balanced")))
    total = audit["total"]
    if total["read"] != (fates := sum(total[fate] for fate in _FATES)):
        found.append(Mismatch("audit", "read = counted + duplicate + unmatched + dead_lettered", total["read"], fates))
    return found


def compare_dead_letters(
    expected: Mapping[tuple[int, int, int], str], found: Mapping[tuple[int, int, int], str]
) -> list[Mismatch]:
    """The dead letters' topic against the ledger: each place once, with its reason."""
    return [
        Mismatch(f"dead letter {place}", "reason", expected.get(place), found.get(place))
        for place in sorted({*expected, *found})
        if expected.get(place) != found.get(place)
    ]


def totals(documents: Iterable[Document]) -> dict[str, dict[str, str]]:
    """meter -> window size -> sum of the final values, as decimal text."""
    sums: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for document in documents:
        sizes = sums[document["meter"]]
        sizes[document["window_size"]] = _EXACT.add(sizes[document["window_size"]], Decimal(document["value"]))
    return {
        meter: {size: _text(value) for size, value in sorted(sizes.items())} for meter, sizes in sorted(sums.items())
    }


def key_of(document: Document) -> Key:
    """The window that a document is about."""
    return Key(
        document["subject"],
        document["meter"],
        tuple(sorted(document["group"].items())),
        parse_time(document["window_start"]),
        document["window_size"],
    )


def _window(
    window_id: str,
    expected: Expected,
    document: Document,
    items: Mapping[int, Document],
    messages: Sequence[Message],
) -> Iterator[Mismatch]:
    """One window: its final value and events, its chain of revisions, and that every copy of a revision is the same."""
    if Decimal(document["value"]) != expected.value:
        yield Mismatch(window_id, "final value", str(expected.value), document["value"])
    if document["events"] != expected.events:
        yield Mismatch(window_id, "events", expected.events, document["events"])
    if document["id"] != window_id:
        yield Mismatch(window_id, "id of the document", window_id, document["id"])
    last = document["revision"]
    chain = list(range(1, last + 1))
    received = [message.body["revision"] for message in messages]
    if received != chain:
        yield Mismatch(window_id, "revisions as messages, in order", chain, received)
    if sorted(items) != chain:
        yield Mismatch(window_id, "revisions as ledger items", chain, sorted(items))
    for message in messages:
        revision = message.body["revision"]
        if message.message_id != f"{window_id}:{revision}":
            yield Mismatch(window_id, "MessageId", f"{window_id}:{revision}", message.message_id)
        if message.session_id != document["subject"] and len(document["subject"]) <= 128:
            yield Mismatch(window_id, "session", document["subject"], message.session_id)
        item = items.get(revision)
        if item is not None and _content(item) != _content(message.body):
            yield Mismatch(window_id, f"ledger item of revision {revision}", _brief(message.body), _brief(item))
    if last in items and _content(items[last]) != _content(document):
        yield Mismatch(window_id, "document as its last revision", _brief(items[last]), _brief(document))
    added = Decimal(0)
    for item in items.values():
        added = _EXACT.add(added, Decimal(item["delta"]))
    if added != Decimal(document["value"]):
        yield Mismatch(window_id, "sum of the deltas", document["value"], _text(added))


def _regions(what: str, regions: Sequence[Sequence[Document]]) -> Iterator[Mismatch]:
    """Every region must show the same, once replication has caught up."""
    first = {document["id"]: _content(document) for document in regions[0]}
    for number, region in enumerate(regions[1:], start=2):
        other = {document["id"]: _content(document) for document in region}
        for name in sorted({*first, *other}):
            if first.get(name) != other.get(name):
                yield Mismatch(name, f"{what} in region {number}", _brief(first.get(name)), _brief(other.get(name)))


def _content(document: Document) -> dict[str, Any]:
    """Without what the database adds (`_ts`, `_etag`, …) and without `id`, which a ledger item has of its own."""
    return {name: value for name, value in document.items() if not name.startswith("_") and name != "id"}


def _brief(document: Document | None) -> str:
    if document is None:
        return "none"
    return " ".join(f"{name}={document.get(name)}" for name in ("revision", "value", "delta", "events", "reason"))


def _name(key: Key) -> str:
    return f"{key.meter} {key.size} of {key.subject} {dict(key.group)} at {key.start_ms}"


def _text(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
