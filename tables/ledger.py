"""The conservation ledger of one source partition: `read = counted + duplicate + unmatched + dead_lettered` (design §4)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Ledger:
    """Counts of events since the deployment began; state like any other, so it survives crashes exactly.

    late: of the counted ones, those for which at least one window had passed its end and grace by this partition's own
    watermark. ticks, ticks_refused, keyless (events in records without a key) stand apart from the equation.
    reasons: dead-lettered events by reason.
    """

    read: int = 0
    counted: int = 0
    duplicate: int = 0
    unmatched: int = 0
    dead_lettered: int = 0
    late: int = 0
    ticks: int = 0
    ticks_refused: int = 0
    keyless: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def dead(self, reason: str) -> None:
        """One event became a dead letter."""
        self.dead_lettered += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    @property
    def balanced(self) -> bool:
        """Whether every event read met exactly one fate."""
        return (
            self.read == self.counted + self.duplicate + self.unmatched + self.dead_lettered
            and self.dead_lettered == sum(self.reasons.values())
        )

    def describe(self) -> dict[str, int]:
        """The counts as `/v1/audit` shows them."""
        plain = {
            name: getattr(self, name)
            for name in (
                "read",
                "counted",
                "duplicate",
                "unmatched",
                "dead_lettered",
                "late",
                "ticks",
                "ticks_refused",
                "keyless",
            )
        }
        return plain | {f"dead_lettered_{reason}": count for reason, count in sorted(self.reasons.items())}
