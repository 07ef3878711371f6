"""The job that everybody in the field does. Imports nothing: the peers read it in environments of their own.

Records: one CloudEvent of some 220 B as JSON (or, for who takes them, arrays of them), keyed by `subject/type`, so that what
adds up lies in one partition. Wanted: per subject, type and hour of the event's own `time`, the sum of `data.tokens` and
how many events they were; while the hour is open, and once for good when it has closed.

A contestant's process is told where in its environment, by the names below. What it finds it writes to the topic
BENCH_OUT, as JSON `{"key", "start", "sum", "count", "closed"}`; the last record of a key and start counts.
"""

PARTITIONS = 4
WINDOW_MS = 3_600_000
GRACE_MS = 60_000
"""How long after its end a window waits for what comes late, in event time."""
DISORDER_MS = 2_000
"""How far the times within one partition are out of order."""
TYPES = ("llm.input", "llm.output")
PROBE = "probe-"
"""Subjects that begin so show when what was sent can be seen; they belong to no judged window."""
CLOSER = "closing-"
"""Subjects that begin so only move the time on; their own windows stay open."""

BOOTSTRAP = "BENCH_BOOTSTRAP"
USAGE = "BENCH_USAGE"
OUT = "BENCH_OUT"
GROUP = "BENCH_GROUP"
STATE = "BENCH_STATE"
"""A directory of its own, kept over a restart."""
PORT = "BENCH_PORT"
RUNNING_TOTALS = "BENCH_RUNNING_TOTALS"
"""`true` where running totals are wanted from a contestant that has either them or closed windows."""
END = "BENCH_END"
"""The end of all windows, in seconds since 1970."""
CLOSES_IN = "BENCH_CLOSES_IN"
"""In how many seconds a contestant that closes windows by the machine's clock is to close them."""
RUNNING_MS = 1_000
"""How often running totals leave, where a contestant can choose."""
