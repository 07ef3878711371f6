"""What envelopes save on Event Hubs: `python -m meterline_client.units` prints the table.

Rules (azure-docs, event-hubs-tier-limits.md, Standard; event-hubs-faq.yml, "ingress event" and "throughput unit"):

* A throughput unit (TU) takes 1 MB/s or 1000 events/s in, whichever is reached first; and gives 2 MB/s or 4096 events/s out.
* A namespace has at most 40.
* One event is billed per 64 KB of a record, or part of it.

Here 1 MB is 1,000,000 bytes and 64 KB are 64,000: the cautious reading. Months have 30 days.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from meterline_client.packing import ENVELOPE_BYTES

TU_IN_BYTES_S = 1_000_000
TU_IN_EVENTS_S = 1000
TU_OUT_BYTES_S = 2_000_000
TU_OUT_EVENTS_S = 4096
MOST_TU = 40
BILLED_BYTES = 64_000
MONTH_S = 30 * 24 * 3600
RATES_S = (1_000, 10_000, 100_000, 1_000_000)
SIZES_BYTES = (220, 500)
LINGERS_S = (0.05, 1.0)
PARTITIONS = 32


@dataclass(frozen=True, slots=True)
class Need:
    """What a stream of records takes. records_s: per second; units_in, units_out: TU; billed: events a month."""

    records_s: float
    units_in: int
    units_out: int
    billed: float

    @property
    def fits(self) -> bool:
        """Whether a Standard namespace can have so many units."""
        return max(self.units_in, self.units_out) <= MOST_TU


def need(records_s: float, record_bytes: float, *, readers: int = 1) -> Need:
    """What records of that size at that rate take, each read by `readers` consumer groups."""
    bytes_s = records_s * record_bytes
    return Need(
        records_s,
        math.ceil(max(bytes_s / TU_IN_BYTES_S, records_s / TU_IN_EVENTS_S)),
        math.ceil(readers * max(bytes_s / TU_OUT_BYTES_S, records_s / TU_OUT_EVENTS_S)),
        records_s * math.ceil(record_bytes / BILLED_BYTES) * MONTH_S,
    )


def single(events_s: float, event_bytes: int) -> Need:
    """One record per event."""
    return need(events_s, event_bytes)


def packed(events_s: float, event_bytes: int, *, partitions: int = PARTITIONS, linger_s: float = LINGERS_S[0]) -> Need:
    """Envelopes of one producer, events spread evenly over the partitions.

    A lane's envelope begins with an event and leaves when it is full, or after `linger_s` with what came meanwhile.
    Several producers share the events, so each has smaller envelopes: their needs add up.
    """
    most = (ENVELOPE_BYTES - 1) // (event_bytes + 1)
    events = min(1 + events_s / partitions * linger_s, most)
    return need(events_s / events, 1 + events * (event_bytes + 1))


def table(rates_s: list[int], sizes: list[int], partitions: int, lingers_s: list[float]) -> str:
    """The table in Markdown."""
    lines = [
        f"One producer, {partitions} partitions, envelopes up to {ENVELOPE_BYTES:,} bytes, one consumer group.",
        "",
        "| events/s | bytes | sent as | records/s | TU in | TU out | billed events a month | saved |",
        "|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for size in sizes:
        for rate in rates_s:
            alone = single(rate, size)
            lines.append(_row(rate, size, "single records", alone, ""))
            for linger_s in lingers_s:
                together = packed(rate, size, partitions=partitions, linger_s=linger_s)
                saved = f"{1 - together.billed / alone.billed:.1%}"
                lines.append(_row(rate, size, f"envelopes, linger {linger_s * 1000:g} ms", together, saved))
    lines += ["", f"\\* more than the {MOST_TU} TU of a Standard namespace: not possible there."]
    return "\n".join(lines)


def _row(rate: int, size: int, how: str, need: Need, saved: str) -> str:
    star = "" if need.fits else " \\*"
    return (
        f"| {rate:,} | {size} | {how} | {need.records_s:,.0f} | {need.units_in:,}{star} | {need.units_out:,} | "
        f"{need.billed / 1e6:,.0f} million | {saved} |"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m meterline_client.units", description="What envelopes save on Event Hubs Standard."
    )
    parser.add_argument("--rate", type=int, nargs="+", default=list(RATES_S), help="events per second")
    parser.add_argument("--bytes", type=int, nargs="+", default=list(SIZES_BYTES), help="bytes of an event's JSON")
    parser.add_argument("--partitions", type=int, default=PARTITIONS)
    parser.add_argument("--linger-ms", type=float, nargs="+", default=[s * 1000 for s in LINGERS_S])
    options = parser.parse_args()
    print(table(options.rate, options.bytes, options.partitions, [ms / 1000 for ms in options.linger_ms]))


if __name__ == "__main__":
    main()
