"""Faults on purpose: what a region does to the next requests of a kind.

A fault is taken by the first request that fits, in the order in which the faults were added, and counts down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

Kind = Literal["throttle", "unavailable", "status", "timeout_before", "timeout_after", "drop_before", "drop_after"]

OPERATIONS = frozenset(
    {
        "account", "create_database", "read_database", "delete_database", "list_databases", "create_container",
        "read_container", "replace_container", "delete_container", "list_containers", "pkranges",
        "create", "upsert", "read", "replace", "patch", "delete", "batch", "query", "query_plan", "feed",
    }
)  # fmt: skip
"""What a request can be, and so what a fault can be aimed at."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens, where and how often.

    kind: `throttle` 429 with `retry_after_ms` · `unavailable` 503 · `status` answers `status`/`substatus` ·
    `timeout_before`/`timeout_after` never answer, without or with the effect · `drop_before`/`drop_after` cut the
    connection, without or with the effect. region: a region's name, None for both. operation: one of OPERATIONS, None
    for any but `account`, so that a client can still find its regions. count: requests it takes; None for ever.
    """

    kind: Kind
    region: str | None = None
    operation: str | None = None
    count: int | None = 1
    retry_after_ms: int = 100
    status: int = 500
    substatus: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown fault kind {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        if self.operation is not None and self.operation not in OPERATIONS:
            raise ValueError(f"unknown operation {self.operation!r}, expected one of {', '.join(sorted(OPERATIONS))}")
        if self.count is not None and self.count < 1:
            raise ValueError("a fault's count is at least 1, or null for ever")

    @property
    def after(self) -> bool:
        """Whether the request takes effect before the fault strikes."""
        return self.kind.endswith("_after")

    def fits(self, region: str, operation: str) -> bool:
        """Whether it is for this request."""
        aimed = operation == self.operation if self.operation is not None else operation != "account"
        return aimed and self.region in (None, region)


class Faults:
    """The faults that are waiting for a request."""

    def __init__(self, regions: tuple[str, ...]) -> None:
        self._regions = regions
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Aim one more. ValueError for a region that is not there."""
        if fault.region is not None and fault.region not in self._regions:
            raise ValueError(f"unknown region {fault.region!r}, expected one of {', '.join(self._regions)}")
        self._waiting.append(fault)

    def add_json(self, fields: Mapping[str, Any]) -> None:
        """Aim one that came over the control endpoint. ValueError says which field is wrong."""
        try:
            self.add(Fault(**fields))
        except TypeError:
            known = ", ".join(Fault.__dataclass_fields__)
            raise ValueError(f"a fault has the fields {known}; got {', '.join(map(str, fields))}") from None

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()

    def take(self, region: str, operation: str) -> Fault | None:
        """The fault that strikes this request, counted down."""
        for index, fault in enumerate(self._waiting):
            if fault.fits(region, operation):
                if fault.count == 1:
                    del self._waiting[index]
                elif fault.count is not None:
                    self._waiting[index] = replace(fault, count=fault.count - 1)
                return fault
        return None

    def waiting(self) -> list[dict[str, Any]]:
        """What is left, for `/_local/state`."""
        return [asdict(fault) for fault in self._waiting]
